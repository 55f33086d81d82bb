"""``MixedModalIndex``: a gallery of both modalities, searched under one rule (MixER, sec. 3.3)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.evaluation.settings import check_settings
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.features.validation import check_distinct, named
from mixer_plugin.io.folder import path_key
from mixer_plugin.matching.normalized import present
from mixer_plugin.search.faiss_index import (
    Lists,
    SubIndex,
    check_parameters,
    merge,
    no_hits,
)
from mixer_plugin.search.files import read_index, write_index
from mixer_plugin.search.filters import Excluding, make_filter, whole_numbers
from mixer_plugin.search.fitted import (
    GalleryStatistics,
    check_later,
    fit_statistics,
    with_statistics,
)
from mixer_plugin.search.gpu import choose_gpu
from mixer_plugin.search.hits import Hits, length_of_lists, make_hits
from mixer_plugin.search.images import NO_IMAGES
from mixer_plugin.search.spaces import FeatureSpace, find_space
from mixer_plugin.search.turns import Turns
from mixer_plugin.search.vectors import item_vectors, normalised, query_vectors, searchable


class MixedModalIndex:
    """Two FAISS indexes of inner products, one per modality, searched by one call.

    An image's vector is its L2-normalised erased and related feature, one after the other (without
    a feature that the rule never uses with that modality). A query's vector has the same halves,
    multiplied by the rule's weights for the pair of modalities, 0 included: the inner product is
    the score of ``mixer_plugin.scores``. So one vector per image serves queries of both modalities;
    a query across modalities pays for the half that it multiplies by 0. Standardised rules
    (``…-calibrated``) have longer vectors; their statistics are those of the first set added, and
    stay.

    With ``Flat`` the result is exact, up to rounding of float32 sums; equal scores come in the
    order of adding. Other factory strings are approximate: see ``recall_report``.

    Keys are the numbers 0, 1, 2 … in the order of adding; none is given out twice. Removed images
    stay in the FAISS indexes and are filtered out, since some kinds (HNSW) cannot give them up:
    build anew when most are gone. Threads may search together. While one adds, removes or tunes,
    a search, save or change by another raises ``MixERRuntimeError``; so does a change during a
    search.
    """

    def __init__(
        self,
        rule: str = "mixer",
        factory: str = "Flat",
        *,
        calibration: str | None = None,
        device: str = "auto",
        parameters: str = "",
    ) -> None:
        """An empty index.

        Args:
            rule: As of ``mixer_plugin.scores``, not ``mixer-shuffled``. The gallery of
                calibrated rules is the first set added, whatever is added or removed later.
            factory: FAISS factory string, such as ``Flat``, ``IVF64,Flat`` or ``HNSW32``. Each
                modality's index is trained on the first set that brings images of it.
            calibration: None, or ``center``: the means per modality are those of the first set
                added, and stay.
            device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: a GPU if one works with FAISS. The
                GPU searches a copy of the CPU's index; after ``add`` it is made anew.
            parameters: FAISS search parameters, such as ``nprobe=16`` or ``efSearch=64``.

        Raises:
            MissingExtraError: FAISS is not installed.
            MixERValueError: Unknown rule, calibration or device, or one that an index cannot have,
                or parameters that no search can use.
            MixERRuntimeError: The GPU asked for does not work.
        """
        self._rule = searchable(rule, calibration)
        check_parameters(parameters)
        self._gpu = choose_gpu(device)
        self.rule = rule
        self.factory = factory
        self.calibration = calibration
        self._parameters = parameters
        self._statistics = GalleryStatistics()
        self._space: FeatureSpace | None = None
        self._parts: dict[int, SubIndex] = {}
        self._images = NO_IMAGES
        self._turns = Turns()

    @classmethod
    def build(
        cls,
        features: FeatureSet,
        rule: str = "mixer",
        factory: str = "Flat",
        *,
        calibration: str | None = None,
        device: str = "auto",
        parameters: str = "",
    ) -> MixedModalIndex:
        """An index of a gallery: ``__init__``, then ``add``, with their arguments and errors.

        Row i of ``features`` gets key i.
        """
        index = cls(rule, factory, calibration=calibration, device=device, parameters=parameters)
        index.add(features)
        return index

    def __len__(self) -> int:
        """Number of images that can be found."""
        return int(self._images.alive.sum())

    def __repr__(self) -> str:
        counts = [int((self._images.modality[self._images.alive] == m).sum()) for m in Modality]
        where = "CPU" if self._gpu is None else f"GPU {self._gpu.number}"
        return (
            f"MixedModalIndex({counts[0]} visible and {counts[1]} infrared images, "
            f"rule {self.rule}, calibration {self.calibration or 'none'}, {self.factory}, {where})"
        )

    @property
    def keys(self) -> Tensor:
        """int64 [len], the keys of the images that can be found, ascending."""
        return torch.from_numpy(np.flatnonzero(self._images.alive))

    @property
    def total(self) -> int:
        """Number of keys ever given out."""
        return len(self._images.ids)

    @property
    def has_paths(self) -> bool:
        """Whether the images have paths."""
        return self._images.paths is not None

    def keys_of(self, paths: Iterable[str]) -> list[list[int]]:
        """For each path, a list of the key of its image, empty if there is no such image.

        Paths are compared as ``add`` compares them.

        Raises:
            MixERValueError: The gallery has no paths.
        """
        if self._images.paths is None:
            raise MixERValueError("The gallery's images have no paths; add sets with paths.")
        known = {self._images.path_keys[key]: key for key in self.keys.tolist()}
        found = (known.get(path_key(str(path))) for path in paths)
        return [[] if key is None else [key] for key in found]

    def has_labels(self, query: FeatureSet) -> bool:
        """Whether row i of a set has the identity, camera and modality of key i, and no more."""
        return all(
            np.array_equal(getattr(query, name).cpu(), getattr(self._images, name))
            for name in ("ids", "cams", "modality")
        )

    def add(self, features: FeatureSet) -> Tensor:
        """Adds images; nothing is added when it raises.

        Args:
            features: N images, with paths if and only if the first set had them. No path may come
                twice or be in the index already, whichever separator its folders have.

        Returns:
            int64 [N], their keys.

        Raises:
            MixERValueError: The rule needs related features and there are none, other widths or
                another reduction than before, paths on one side only, an image that is there twice
                or in the index already, images of a modality that the first set lacks and
                ``center`` or the rule needs, or FAISS cannot make or train the index.
            MixERRuntimeError: Another thread uses the index.
        """
        with self._turns.change():
            return self._add(features)

    def _add(self, features: FeatureSet) -> Tensor:
        space = find_space(features, self.rule, self._space)
        statistics = self._statistics
        if self.total or not len(features):
            check_later(features, self.rule, statistics)
            source = with_statistics(features, self._rule, statistics)
        else:
            statistics, source = fit_statistics(features, self._rule, self.calibration)
        labels = (features.ids, features.cams, features.modality)
        ids, cams, modality = (each.cpu().numpy() for each in labels)
        check_distinct(features.paths)
        images = self._images.extended(ids, cams, modality, features.paths)
        keys = self.total + np.arange(len(features))
        made: dict[int, SubIndex] = {}
        more: list[tuple[SubIndex, NDArray[np.float32], NDArray[np.int64]]] = []
        for side in present(features.modality):
            rows = (features.modality == side).nonzero().flatten()
            vectors = item_vectors(source.rows(rows), self._rule, side)
            own = keys[rows.cpu().numpy()]
            if side in self._parts:
                more.append((self._parts[side], vectors, own))
            else:
                name = Modality(side).name.lower()
                made[side] = SubIndex.make(self.factory, self._parameters, vectors, own, name)
        # All that can fail is done.
        for part, vectors, own in more:
            part.add(vectors, own)
        self._parts.update(made)
        self._statistics, self._space, self._images = statistics, space, images
        return torch.from_numpy(keys)

    def remove(self, keys: Tensor | Sequence[int]) -> None:
        """Removes images for good; nothing is removed when it raises.

        Args:
            keys: Whole numbers, [M].

        Raises:
            MixERTypeError: Not whole numbers.
            MixERValueError: A key is unknown, removed already or given twice.
            MixERRuntimeError: Another thread uses the index.
        """
        with self._turns.change():
            alive = self._images.alive.copy()
            for key in whole_numbers(keys, "Keys").tolist():
                if not 0 <= key < self.total or not alive[key]:
                    raise MixERValueError(
                        f"Key {key} is not in the index, or given twice; nothing was removed. "
                        "MixedModalIndex.keys lists what is there."
                    )
                alive[key] = False
            self._images = replace(self._images, alive=alive)

    def tune(self, parameters: str) -> None:
        """Sets FAISS search parameters, such as ``nprobe=16``; they are saved with the index.

        Raises:
            MixERValueError: FAISS does not know them for this kind of index, or no search can use
                them; nothing was set.
            MixERRuntimeError: Another thread uses the index.
        """
        check_parameters(parameters)
        with self._turns.change():
            for part in self._parts.values():
                part.try_parameters(parameters, self.factory)
            for part in self._parts.values():
                part.tune(parameters)
            self._parameters = parameters

    def search(
        self,
        query: FeatureSet,
        k: int = 10,
        *,
        exclude: Excluding | None = None,
        setting: str = "mix",
    ) -> Hits:
        """The k best images of each query, of both modalities in one list.

        Args:
            query: Q images of one modality or both.
            k: Length of the lists; beyond 1,024, at most as many as the index has images.
            exclude: What must not come back: keys for each query (a sequence of sequences, or whole
                numbers [Q] or [Q, E]; -1 is none), or bool [Q, total], column j for key j. The
                lists are filled up with the next best.
            setting: Which images of the gallery a query may match: a setting of ``evaluate``, as
                ``mix-cam`` (no image of the query's camera) or ``cross`` (the other modality; no
                camera counts as co-located). Cameras and identities are compared as numbers.

        Returns:
            The hits; short lists are padded.

        Raises:
            MixERTypeError: ``k`` or ``exclude`` is of another kind.
            MixERValueError: The query's widths or reduction differ from the gallery's or it lacks
                related features, ``k`` is below 1, ``exclude`` does not fit, or the setting is
                unknown.
            MixERRuntimeError: The index does not go to the GPU that was asked for, or another
                thread changes it.
        """
        lists = self.search_each(query, k, exclude=exclude, setting=setting)
        scores, keys = (np.concatenate(each, axis=1) for each in zip(*lists.values(), strict=True))
        return make_hits(*merge(scores, keys, lists[0][0].shape[1]), self._images)

    def search_each(
        self,
        query: FeatureSet,
        k: int = 10,
        *,
        exclude: Excluding | None = None,
        setting: str = "mix",
    ) -> dict[int, Lists]:
        """The lists that ``search`` merges: of each modality, the k best images of each query.

        Arguments and errors as of ``search``.

        Returns:
            By modality, scores float32 [Q, k] and keys int64 [Q, k], padded with -inf and -1.
        """
        with self._turns.search():
            return self._search_each(query, k, exclude, setting)

    def _search_each(
        self, query: FeatureSet, k: int, exclude: Excluding | None, setting: str
    ) -> dict[int, Lists]:
        k = length_of_lists(k, len(self))
        check_settings([setting])
        find_space(query, self.rule, self._space)
        filter_ = make_filter(self._images, query, exclude, setting)
        self._upload()
        unit = normalised(query, self._rule, self._statistics)
        lists: dict[int, Lists] = {}
        for side in map(int, Modality):
            part, rows = self._parts.get(side), filter_.rows(side)
            if part is None or not len(rows):
                lists[side] = no_hits(len(query), k)
            else:
                vectors = query_vectors(unit, self._rule, side)
                lists[side] = part.search(vectors, k, filter_, rows)
        return lists

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one file of CPU indexes with checksums; an old one stays until it is complete.

        Raises:
            MixERValueError: The folder does not exist.
            MixERRuntimeError: Another thread changes the index.
        """
        names = ("rule", "factory", "calibration")
        settings: dict[str, Any] = {name: getattr(self, name) for name in names}
        settings |= {"parameters": self._parameters, "widths": None}
        if self._space is not None:
            settings["widths"] = (self._space.erased, self._space.related)
            settings["reduction"] = self._space.reduction
        with self._turns.search():
            write_index(Path(path), settings, self._parts, self._images, self._statistics)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto") -> MixedModalIndex:
        """Reads what ``save`` wrote; no code in the file runs.

        The checksums find damage. They are no signature: load no stranger's file.

        Args:
            path: The file.
            device: As of ``MixedModalIndex``.

        Raises:
            MixERValueError: There is no such file, or it is no search index, truncated, damaged
                (the message names the field) or of another version, or an image is there twice.
            MixERRuntimeError: The GPU asked for does not work.
            MissingExtraError: FAISS is not installed.
        """
        settings, parts, images, statistics = read_index(Path(path))
        names = ("rule", "factory", "calibration", "parameters")
        with named(Path(path)):
            index = cls(**{name: settings[name] for name in names}, device=device)
            held = zip(images.paths or (), images.alive, strict=False)
            check_distinct([each for each, alive in held if alive])
        index._parts, index._images, index._statistics = parts, images, statistics
        if settings["widths"] is not None:  # older files know no reductions
            erased, related = settings["widths"]
            index._space = FeatureSpace(erased, related, settings.get("reduction"))
        return index

    def _upload(self) -> None:
        if self._gpu is None:
            return
        try:
            for part in self._parts.values():
                part.upload(self._gpu)
        except MixERRuntimeError as error:
            if self._gpu.required:
                raise
            self._gpu = None
            for part in self._parts.values():
                part.download()
            warnings.warn(f"{error} The index stays on the CPU.", stacklevel=4)
