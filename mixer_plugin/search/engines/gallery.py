"""``EngineGallery``: a mixed gallery in a vector engine, searched under one rule."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.normalized import UnitSource, present
from mixer_plugin.matching.score_norm import all_rows
from mixer_plugin.search.engines.manifest import Manifest, from_bytes, to_bytes
from mixer_plugin.search.engines.protocol import Engine, Labels, Match
from mixer_plugin.search.faiss_index import Lists, merge, no_hits
from mixer_plugin.search.filter_grammar import Expression, parse_filter
from mixer_plugin.search.filters import whole_numbers
from mixer_plugin.search.fitted import check_later, fit_statistics, with_statistics
from mixer_plugin.search.hits import Hits
from mixer_plugin.search.spaces import find_space
from mixer_plugin.search.vectors import item_vectors, normalised, query_vectors, searchable

_SPARE = 16  # fetched beyond k at first: some are tied
_GROWTH = 4
_BLOCK = 1024  # images whose vectors are made at a time


@dataclass(frozen=True)
class EngineGallery:
    """A collection of an engine, and what its vectors mean.

    An image has one vector, that of ``mixer_plugin.search.vectors``: its inner product with a
    query's vector is the score of ``mixer_plugin.scores``, up to rounding of float32 sums. Each
    modality is searched for itself, the filter within each search, and the two lists are merged by
    score; equal scores come in the order of keys.

    Attributes:
        engine: The collection.
        manifest: Rule, calibration, space of the features and statistics, kept in the engine.
        name: The collection's.
        exact: Whether the engine is asked to compare with every vector, where it can.
    """

    engine: Engine
    manifest: Manifest
    name: str
    exact: bool = True

    @classmethod
    def create(
        cls,
        engine: Engine,
        features: FeatureSet,
        keys: Sequence[int] | None = None,
        *,
        rule: str = "mixer",
        calibration: str | None = None,
        exact: bool = True,
        times: Sequence[float | None] | None = None,
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> EngineGallery:
        """Makes a collection and adds a first set of images.

        The statistics of ``center`` and of calibrated rules are those of this set, and stay.

        Args:
            engine: Where; there must be no such collection.
            features: The images, at least one.
            keys: Their numbers, from 0 on, none twice; None: 0, 1, 2 …
            rule: As of ``mixer_plugin.scores``, not ``mixer-shuffled``.
            calibration: None or ``center``.
            exact: As of the class.
            times: Of each image in seconds since 1970, or None.
            payloads: Of each image, what else filters may use.

        Raises:
            MixERValueError: The collection is there, there is no image, the rule or calibration
                cannot be searched, the vectors are wider than the engine takes, or keys, times or
                payloads do not fit the images. No collection is made.
        """
        chosen = searchable(rule, calibration)
        if not len(features):
            raise MixERValueError("A collection is made from at least one image; got none.")
        space = find_space(features, rule, None)
        labels = _make_labels(features, keys, times, payloads)
        statistics, source = fit_statistics(features, chosen, calibration)
        one = source.rows(all_rows(features)[:1])
        widths = {int(side): item_vectors(one, chosen, side).shape[1] for side in Modality}
        if max(widths.values()) > engine.widest:
            raise MixERValueError(
                f"Rule {rule!r} makes vectors of {max(widths.values())} dimensions of these "
                f"features; the engine takes {engine.widest}. Make the features shorter first: "
                "`mixer-plugin reduce`."
            )
        manifest = Manifest(rule, calibration, space, statistics)
        engine.create(widths, to_bytes(manifest))
        made = cls(engine, manifest, _name(engine), exact)
        made._add(source, labels)
        return made

    @classmethod
    def open(cls, engine: Engine, *, exact: bool = True) -> EngineGallery:
        """The gallery of a collection that ``create`` made.

        Raises:
            MixERValueError: There is no such collection, or its manifest is missing or damaged.
        """
        given = engine.manifest()
        if given is None:
            raise MixERValueError(
                f"Collection {_name(engine)!r} is not there, or has no manifest: the rule and its "
                "statistics, without which its vectors mean nothing. Make it with "
                "EngineGallery.create."
            )
        return cls(engine, from_bytes(given, _name(engine)), _name(engine), exact)

    @property
    def rule(self) -> str:
        """Name of the rule."""
        return self.manifest.rule

    @property
    def calibration(self) -> str | None:
        """None or ``center``."""
        return self.manifest.calibration

    @property
    def factory(self) -> str:
        """What a report calls it."""
        return f"{type(self.engine).__name__} {self.name}"

    def approximate(self) -> EngineGallery:
        """The same gallery, searched through the engine's own index of vectors."""
        return replace(self, exact=False)

    def __len__(self) -> int:
        """Number of images."""
        return self.count()

    def count(self, filter: str | None = None) -> int:
        """Number of images that a filter keeps (``mixer_plugin.search.filter_grammar``).

        Raises:
            MixERValueError: Not a filter, or one that the engine cannot apply.
        """
        return self.engine.count(None if filter is None else parse_filter(filter))

    def upsert(
        self,
        features: FeatureSet,
        keys: Sequence[int],
        *,
        times: Sequence[float | None] | None = None,
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Adds images; those whose keys are there are replaced, with all that was known of them.

        Arguments as of ``create``.

        Raises:
            MixERValueError: The features are of another space, keys, times or payloads do not fit
                the images, or images are of a modality that the first set lacks and ``center`` or
                the rule needs. Nothing is changed.
        """
        rule, statistics = searchable(self.rule, self.calibration), self.manifest.statistics
        find_space(features, self.rule, self.manifest.space)
        check_later(features, self.rule, statistics)
        labels = _make_labels(features, keys, times, payloads)
        self._add(with_statistics(features, rule, statistics), labels)

    def delete(self, keys: Sequence[int]) -> None:
        """Deletes images; keys that are not there are passed over.

        Raises:
            MixERTypeError: Not whole numbers.
        """
        self.engine.delete(whole_numbers(keys, "Keys").tolist())

    def search(
        self,
        query: FeatureSet,
        k: int = 10,
        *,
        filter: str | None = None,
    ) -> Hits:
        """The k best images of each query, of both modalities in one list.

        Args:
            query: Q images of one modality or both.
            k: Length of the lists.
            filter: What may be found (``mixer_plugin.search.filter_grammar``): by key, id, camera,
                 modality, time and payload. It is applied before ranking.

        Returns:
            The hits; short lists are padded.

        Raises:
            MixERTypeError: ``k`` is no whole number.
            MixERValueError: The query is of another feature space, ``k`` is below 1 or more than
                the engine can give, or the filter is none or one that the engine cannot apply.
        """
        found = self._search_each(query, k, filter)
        scores, keys = (
            np.concatenate(each, axis=1)
            for each in zip(*(lists for lists, _ in found.values()), strict=True)
        )
        known = {key: labels for _, own in found.values() for key, labels in own.items()}
        return _make_hits(*merge(scores, keys, scores.shape[1] // len(found)), known)

    def search_each(
        self, query: FeatureSet, k: int = 10, *, filter: str | None = None
    ) -> dict[int, Lists]:
        """The lists that ``search`` merges: of each modality, the k best images of each query.

        Arguments and errors as of ``search``.

        Returns:
            By modality, scores float32 [Q, k] and keys int64 [Q, k], padded with -inf and -1.
        """
        return {side: lists for side, (lists, _) in self._search_each(query, k, filter).items()}

    def _search_each(
        self, query: FeatureSet, k: int, filter: str | None
    ) -> dict[int, tuple[Lists, dict[int, Labels]]]:
        try:
            k = operator.index(k)
        except TypeError as error:
            raise MixERTypeError(f"k must be a whole number, got {k!r}.") from error
        if not 1 <= k <= self.engine.most:
            raise MixERValueError(
                f"k must be from 1 to {self.engine.most}, the most that this engine gives; got {k}."
            )
        rule = searchable(self.rule, self.calibration)
        find_space(query, self.rule, self.manifest.space)
        expression = None if filter is None else parse_filter(filter)
        unit = normalised(query, rule, self.manifest.statistics)
        return {
            side: self._search_side(query_vectors(unit, rule, side), side, k, expression)
            for side in map(int, Modality)
        }

    def _search_side(
        self, vectors: NDArray[np.float32], side: int, k: int, where: Expression | None
    ) -> tuple[Lists, dict[int, Labels]]:
        """Fetches until the last match is worse than the k-th: none that ties with it is missing.

        An engine orders equal scores by nothing. Beyond ``most`` matches, those stay.
        """
        scores, keys = no_hits(len(vectors), k)
        known: dict[int, Labels] = {}
        rows, limit = np.arange(len(vectors)), min(k + _SPARE, self.engine.most)
        while len(rows):
            lists = self.engine.search(vectors[rows], side, limit, where, self.exact)
            more = []
            for row, matches in zip(rows, lists, strict=True):
                _fill(scores[row], keys[row], matches)
                known |= {match.labels.key: match.labels for match in matches}
                full = len(matches) >= limit and limit < self.engine.most
                if full and scores[row, -1] <= matches[-1].score:
                    more.append(row)
            rows, limit = np.asarray(more, dtype=int), min(_GROWTH * limit, self.engine.most)
        return (scores, keys), known

    def _add(self, source: UnitSource, labels: Sequence[Labels]) -> None:
        rule = searchable(self.rule, self.calibration)
        for side in present(source.features.modality):
            rows = (source.features.modality == side).nonzero().flatten()
            for block in torch.split(rows, _BLOCK):
                vectors = item_vectors(source.rows(block), rule, side)
                self.engine.upsert(vectors, [labels[row] for row in block.tolist()])


def _fill(scores: NDArray[np.float32], keys: NDArray[np.int64], matches: Sequence[Match]) -> None:
    """Writes the best matches of one query into its row, equal scores in the order of keys."""
    given = np.asarray([match.score for match in matches], dtype=np.float32)[None]
    own = np.asarray([match.labels.key for match in matches], dtype=np.int64)[None]
    if len(matches):
        best, found = merge(given, own, len(scores))
        scores[:], keys[:] = best[0], found[0]


def _name(engine: Engine) -> str:
    return str(getattr(engine, "name", type(engine).__name__))


def _make_labels(
    features: FeatureSet,
    keys: Sequence[int] | None,
    times: Sequence[float | None] | None,
    payloads: Sequence[Mapping[str, Any]] | None,
) -> list[Labels]:
    count = len(features)
    numbers = list(range(count)) if keys is None else whole_numbers(keys, "Keys").tolist()
    for name, given in (("keys", numbers), ("times", times), ("payloads", payloads)):
        if given is not None and len(given) != count:
            raise MixERValueError(f"{count} images have {len(given)} {name}; give one for each.")
    if numbers and min(numbers) < 0:
        raise MixERValueError(f"Keys are whole numbers from 0 on, got {min(numbers)}.")
    if len(set(numbers)) < count:
        twice = next(key for row, key in enumerate(numbers) if key in numbers[:row])
        raise MixERValueError(f"Key {twice} is given twice; each image has one of its own.")
    columns = (features.ids, features.cams, features.modality)
    return [
        Labels(
            key=key,
            id=person,
            camera=camera,
            modality=side,
            time=None if times is None or times[row] is None else float(times[row]),  # type: ignore[arg-type]
            path=None if features.paths is None else features.paths[row],
            payload={} if payloads is None else dict(payloads[row]),
        )
        for row, (key, person, camera, side) in enumerate(
            zip(numbers, *(column.tolist() for column in columns), strict=True)
        )
    ]


def _make_hits(
    scores: NDArray[np.float32], keys: NDArray[np.int64], known: Mapping[int, Labels]
) -> Hits:
    def look_up(name: str) -> torch.Tensor:
        rows = [[getattr(known[k], name) if k >= 0 else -1 for k in row] for row in keys.tolist()]
        return torch.tensor(rows, dtype=torch.int64).reshape(keys.shape)

    paths = tuple(tuple(known[k].path if k >= 0 else None for k in row) for row in keys.tolist())
    some = any(labels.path is not None for labels in known.values())
    return Hits(
        scores=torch.from_numpy(scores),
        keys=torch.from_numpy(keys),
        ids=look_up("id"),
        cams=look_up("camera"),
        modality=look_up("modality"),
        paths=paths if some else None,
    )
