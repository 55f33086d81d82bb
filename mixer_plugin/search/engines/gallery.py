"""``EngineGallery``: a mixed gallery in a vector engine, searched under one rule."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from mixer_plugin.errors import MixERValueError, check_least
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.normalized import UnitSource, present
from mixer_plugin.matching.score_norm import all_rows
from mixer_plugin.search.engines.hits import EngineHits, image_fields, make_hits
from mixer_plugin.search.engines.labels import make_labels
from mixer_plugin.search.engines.manifest import Manifest, from_bytes, to_bytes
from mixer_plugin.search.engines.protocol import Engine, Labels
from mixer_plugin.search.engines.searching import (
    Queries,
    allowed,
    search_both,
    search_groups,
    search_side,
)
from mixer_plugin.search.faiss_index import Lists
from mixer_plugin.search.filter_grammar import Expression, OneOf, parse_filter
from mixer_plugin.search.fitted import check_later, fit_statistics, with_statistics
from mixer_plugin.search.keys import Key, distinct_keys, key_list
from mixer_plugin.search.request import Request, make_request
from mixer_plugin.search.spaces import find_space
from mixer_plugin.search.vectors import (
    features_of_vectors,
    item_vectors,
    normalised,
    query_vectors,
    searchable,
)

_BLOCK = 1024  # images whose vectors are made, or keys that are looked up, at a time


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
        turn: Lock that a thread holds while it adds or removes.
    """

    engine: Engine
    manifest: Manifest
    name: str
    exact: bool = True
    turn: AbstractContextManager[Any] = field(
        default_factory=threading.Lock, repr=False, compare=False
    )

    @classmethod
    def create(
        cls,
        engine: Engine,
        features: FeatureSet,
        keys: Iterable[Key] | None = None,
        *,
        rule: str = "mixer",
        calibration: str | None = None,
        exact: bool = True,
        times: Iterable[float | None] | None = None,
        payloads: Iterable[dict[str, Any] | None] | None = None,
    ) -> EngineGallery:
        """Makes a collection and adds a first set of images.

        The statistics of ``center`` and of calibrated rules are those of this set, and stay.

        Args:
            engine: Where; there must be no such collection.
            features: The images, at least one.
            keys: Whole numbers from 0 on, none twice; None: 0, 1, 2 …
            rule: As of ``mixer_plugin.scores``, not ``mixer-shuffled``.
            calibration: None or ``center``.
            exact: As of the class.
            times: Time of each image in seconds since 1970, or None.
            payloads: Payload of each image, or None: what else filters may use, which is texts,
                numbers, true and false by name; dictionaries may be nested.

        Raises:
            MixERTypeError: A key, time or payload is of another kind.
            MixERValueError: The collection is there, there is no image, the rule or calibration
                cannot be searched, the vectors are wider than the engine takes, or keys, times or
                payloads do not fit the images. No collection is made.
        """
        chosen = searchable(rule, calibration)
        if not len(features):
            raise MixERValueError("A collection is made from at least one image; got none.")
        space = find_space(features, rule, None)
        given = range(len(features)) if keys is None else keys
        labels = make_labels(features, given, times, payloads, engine.longest)
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

    def count(self, filter: str | Expression | None = None) -> int:
        """Number of images that a filter keeps (``mixer_plugin.search.filter_grammar``).

        Raises:
            MixERValueError: Not a filter, or one that the engine cannot apply.
        """
        return self.engine.count(None if filter is None else parse_filter(filter))

    def add(
        self,
        features: FeatureSet,
        keys: Iterable[Key] | None = None,
        *,
        times: Iterable[float | None] | None = None,
        payloads: Iterable[dict[str, Any] | None] | None = None,
        upsert: bool = False,
    ) -> list[int]:
        """Adds images; every search that begins after the call finds them.

        Threads that add at once wait for each other. Of two processes that add the same key at the
        same moment, one replaces the other's image. If the engine fails, images before the failure
        may have been added; the same call with ``upsert`` completes it.

        Args:
            features: N images; below 0, an identity is unknown.
            keys: N whole numbers from 0 on, none twice; they must be given.
            times: As of ``GalleryStore.add``.
            payloads: As of ``create``.
            upsert: Whether an image takes the place of the one that has its key, with all that
                was known of it.

        Returns:
            The keys.

        Raises:
            MixERTypeError: A key, time or payload is of another kind.
            MixERValueError: A key is in the collection already (without ``upsert``), the features
                are of another space, keys, times or payloads do not fit the images, or images are
                of a modality that the first set lacks and ``center`` or the rule needs. Nothing is
                changed.
            MixERRuntimeError: The engine does not answer, or refuses; also of all other methods.
        """
        if keys is None:
            raise MixERValueError(
                "A collection gives out no keys; give each image one, whole numbers from 0 on."
            )
        rule, statistics = searchable(self.rule, self.calibration), self.manifest.statistics
        labels = make_labels(features, keys, times, payloads, self.engine.longest)
        find_space(features, self.rule, self.manifest.space)
        check_later(features, self.rule, statistics)
        source = with_statistics(features, rule, statistics)
        numbers = [each.key for each in labels]
        with self.turn:
            if not upsert and (known := self._known(numbers)):
                raise MixERValueError(
                    f"Key {min(known)} is in the collection already; nothing was added. Choose "
                    "another key, or replace the image with upsert=True."
                )
            self._add(source, labels)
        return numbers

    def remove(self, keys: Iterable[Key]) -> None:
        """Removes images; every search that begins after the call misses them.

        Raises:
            MixERTypeError: A key is of another kind.
            MixERValueError: A key is not in the collection or given twice; nothing is removed.
        """
        with self.turn:
            self.engine.delete(list(self._found(keys, "nothing was removed")))

    def __contains__(self, key: object) -> bool:
        return bool(self._known(key_list([key])))  # type: ignore[list-item]

    def keys(
        self, filter: str | Expression | None = None, *, limit: int | None = None
    ) -> list[int]:
        """The keys of the images that a filter keeps, ascending.

        Arguments and errors as of ``images``.
        """
        return [image["key"] for image in self.images(filter, limit=limit)]

    def images(
        self, filter: str | Expression | None = None, *, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """What is known of the images that a filter keeps, as of ``get``, in the order of keys.

        Arguments and errors as of ``GalleryStore.images``. An engine may refuse a filter: Qdrant
        has no order of texts.
        """
        if limit is not None:
            check_least("limit", limit)
        expression = None if filter is None else parse_filter(filter)
        return [image_fields(each) for each in self.engine.labels(expression, limit)]

    def get(self, keys: Iterable[Key]) -> list[dict[str, Any]]:
        """What is known of images: key, id, camera, modality, time, path and payload.

        Raises:
            MixERTypeError: A key is of another kind.
            MixERValueError: A key is not in the collection or given twice.
        """
        return [image_fields(each) for each in self._found(keys, "nothing was read").values()]

    def features(self, keys: Iterable[Key]) -> FeatureSet:
        """Features of images, in the order of their keys; as of ``GalleryStore.features``.

        Raises:
            MixERTypeError: A key is of another kind.
            MixERValueError: A key is not in the collection or given twice, or there is no key.
        """
        labels = self._found(keys, "nothing was read")
        if not labels:
            raise MixERValueError("There is no key; give at least one.")
        vectors = self.engine.vectors(list(labels))
        return features_of_vectors(
            [vectors[key] for key in labels],
            list(labels.values()),
            searchable(self.rule, self.calibration),
            self.manifest.space,
            self.manifest.statistics,
        )

    def search(
        self,
        query: FeatureSet,
        k: int = 10,
        *,
        filter: str | Expression | None = None,
        exclude: Sequence[Sequence[Key]] | None = None,
        setting: str = "mix",
        threshold: float | None = None,
        group_by: str | None = None,
    ) -> EngineHits:
        """The k best images of each query, of both modalities in one list.

        Filter, exclusions and setting are part of what the engine is asked, so that lists are
        filled up. A search asks the engine more than once: what is added or removed meanwhile may
        be in one of the answers alone.

        Args:
            query: Q images of one modality or both.
            k: Length of the lists.
            filter: What may be found (``mixer_plugin.search.filter_grammar``): by key, id, camera,
                modality, time and payload. It is applied before ranking.
            exclude: For each query the keys that must not come back, such as its own; keys that
                the collection does not have are ignored.
            setting: As of ``MixedModalIndex.search``.
            threshold: The least score of a hit.
            group_by: As of ``GalleryStore.search``.

        Returns:
            The hits; short lists are padded.

        Raises:
            MixERTypeError: An argument is of another kind.
            MixERValueError: The query is of another feature space, ``k`` is below 1 or more than
                the engine can give, the filter is none or one that the engine cannot apply,
                ``exclude`` has another length than the query, or the setting or group is unknown.
        """
        request = make_request(len(query), k, filter, exclude, setting, threshold, group_by)
        queries = self._queries(query, request)
        if request.group is None:
            (scores, keys), known = search_both(queries, request.k)
        else:
            (scores, keys), known = search_groups(queries, request.k, request.group)
        if threshold is not None:
            low = scores < threshold
            scores[low], keys[low] = -np.inf, -1
        return make_hits((scores, keys), known)

    def search_each(
        self,
        query: FeatureSet,
        k: int = 10,
        *,
        filter: str | Expression | None = None,
        exclude: Sequence[Sequence[Key]] | None = None,
        setting: str = "mix",
    ) -> dict[int, Lists]:
        """The lists that ``search`` merges: of each modality, the k best images of each query.

        Arguments and errors as of ``search``.

        Returns:
            By modality, scores float32 [Q, k] and keys int64 [Q, k], padded with -inf and -1.
        """
        request = make_request(len(query), k, filter, exclude, setting, None, None)
        queries = self._queries(query, request)
        return {side: search_side(queries, side, request.k)[0] for side in queries.vectors}

    def close(self) -> None:
        """Ends the connection to the engine."""
        self.engine.close()

    def _queries(self, query: FeatureSet, request: Request) -> Queries:
        if request.k > self.engine.most:
            raise MixERValueError(
                f"k must be from 1 to {self.engine.most}, the most that this engine gives; got "
                f"{request.k}."
            )
        rule = searchable(self.rule, self.calibration)
        find_space(query, self.rule, self.manifest.space)
        unit = normalised(query, rule, self.manifest.statistics)
        vectors = {side: query_vectors(unit, rule, side) for side in map(int, Modality)}
        return Queries(self.engine, self.exact, vectors, allowed(self.engine, query, request))

    def _known(self, keys: Sequence[Key]) -> dict[Key, Labels]:
        """Those of some keys that are there."""
        found: dict[Key, Labels] = {}
        for start in range(0, len(keys), _BLOCK):
            some = OneOf("key", tuple(keys[start : start + _BLOCK]))
            found |= {each.key: each for each in self.engine.labels(some, None)}
        return found

    def _found(self, keys: Iterable[Key], outcome: str) -> dict[int, Labels]:
        """Images by distinct keys, in their order; all are there."""
        given = distinct_keys(keys)
        known = self._known(given)
        for key in given:
            if key not in known:
                raise MixERValueError(f"Key {key!r} is not in the collection; {outcome}.")
        return {known[key].key: known[key] for key in given}

    def _add(self, source: UnitSource, labels: Sequence[Labels]) -> None:
        rule = searchable(self.rule, self.calibration)
        for side in present(source.features.modality):
            rows = (source.features.modality == side).nonzero().flatten()
            for block in torch.split(rows, _BLOCK):
                vectors = item_vectors(source.rows(block), rule, side)
                self.engine.upsert(vectors, [labels[row] for row in block.tolist()])


def _name(engine: Engine) -> str:
    return str(getattr(engine, "name", type(engine).__name__))
