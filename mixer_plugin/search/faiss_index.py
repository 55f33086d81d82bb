"""One FAISS index: made, trained, and searched until enough allowed images are found."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.search.gpu import Gpu, import_faiss

Excluded = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
Lists = tuple[NDArray[np.float32], NDArray[np.int64]]

_SPARE = 32  # fetched beyond k at first: some are removed, excluded or tied
_GROWTH = 4
_ENTRIES = 1 << 22  # results held at a time once more than the first fetch is needed
_GPU_MOST = 2048  # FAISS' limit of k on a GPU


class SubIndex:
    """A FAISS index on the CPU, the keys of its rows, and perhaps a copy on a GPU.

    Attributes:
        index: The FAISS index, of inner products.
        keys: int64 [N], ascending.
    """

    def __init__(self, index: Any, keys: NDArray[np.int64]) -> None:
        self.index = index
        self.keys = keys
        self._copy: Any = None

    @classmethod
    def make(
        cls,
        factory: str,
        parameters: str,
        vectors: NDArray[np.float32],
        keys: NDArray[np.int64],
        what: str,
    ) -> SubIndex:
        """An index trained on the vectors, float32 [N, D], and filled with them.

        Raises:
            MixERValueError: FAISS does not know the factory string or the parameters, or ``what``,
                the images, are too few to train it.
        """
        faiss = import_faiss()
        width = vectors.shape[1]
        try:
            index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise MixERValueError(
                f"FAISS cannot make an index {factory!r} of inner products of {width} dimensions: "
                f"{_reason(error)}. Try 'Flat', 'IVF64,Flat' or 'HNSW32'."
            ) from error
        try:
            if not index.is_trained:
                index.train(vectors)
        except RuntimeError as error:
            raise MixERValueError(
                f"An index {factory!r} cannot be trained on {len(vectors)} {what} images: "
                f"{_reason(error)}. The first add of a modality trains its index; FAISS needs at "
                "least one image per cluster (IVF64: 64, PQ: 256) and advises 39. Add more at "
                "once, or take fewer clusters or 'Flat'."
            ) from error
        made = cls(index, keys[:0])
        made.tune(parameters)
        try:
            made.add(vectors, keys)
        except RuntimeError as error:
            raise MixERValueError(
                f"An index {factory!r} takes no images in order: {_reason(error)}. "
                "Leave out what numbers the images; the index does so itself."
            ) from error
        return made

    def add(self, vectors: NDArray[np.float32], keys: NDArray[np.int64]) -> None:
        """Adds vectors, float32 [N, D], under larger keys than all before."""
        self._copy = None
        self.index.add(vectors)
        self.keys = np.concatenate([self.keys, keys])

    def tune(self, parameters: str) -> None:
        """Sets FAISS' search parameters, such as ``nprobe=16``."""
        if not parameters:
            return
        self._copy = None
        try:
            import_faiss().ParameterSpace().set_index_parameters(self.index, parameters)
        except RuntimeError as error:
            raise MixERValueError(
                f"FAISS cannot set {parameters!r} on an {type(self.index).__name__}: "
                f"{_reason(error)}. Examples: 'nprobe=16' for IVF, 'efSearch=64' for HNSW."
            ) from error

    def upload(self, gpu: Gpu) -> None:
        """Makes the copy on the GPU that searches use, where it is missing."""
        if self._copy is None:
            try:
                self._copy = gpu.copy(self.index)
            except (RuntimeError, MemoryError) as error:
                raise MixERRuntimeError(
                    f"An {type(self.index).__name__} of {len(self.keys)} images cannot go to the "
                    f"GPU: {_reason(error)}. Choose device='cpu' or another factory."
                ) from error

    def download(self) -> None:
        """Drops the copy."""
        self._copy = None

    def search(
        self, vectors: NDArray[np.float32], k: int, removed: int, excluded: Excluded
    ) -> Lists:
        """The k best allowed images of each query; equal scores in the order of their keys.

        More is fetched until, for each query, k allowed images are found and the last one fetched
        is worse than the k-th: then no image that was not fetched can be among the k, nor tie.

        Args:
            vectors: float32 [Q, D].
            k: Length of the lists.
            removed: How many of the images are excluded for every query.
            excluded: From rows of queries, int64 [R], and keys, int64 [R, M], to bool [R, M].

        Returns:
            Scores float32 [Q, k] and keys int64 [Q, k]; -inf and -1 where there is none.
        """
        best = np.full((len(vectors), k), -np.inf, dtype=np.float32)
        found = np.full((len(vectors), k), -1, dtype=np.int64)
        total = len(self.keys)
        if total == removed:
            return best, found
        rows = np.arange(len(vectors))
        fetch = min(total, k * total // (total - removed) + _SPARE)
        size = max(len(rows), 1)
        while len(rows):
            short = []
            for start in range(0, len(rows), size):
                block = rows[start : start + size]
                scores, places = self._fetch(vectors[block], fetch)
                keys = self.keys[places]
                lost = (places < 0) | excluded(block, keys)
                complete = (fetch == total) | (places[:, -1] < 0)
                best[block], found[block] = first(
                    np.where(lost, -np.inf, scores), np.where(lost, -1, keys), k
                )
                complete |= best[block, -1] > scores[:, -1]
                short.append(block[~complete])
            rows = np.concatenate(short)
            fetch = min(total, _GROWTH * fetch)
            size = max(1, _ENTRIES // fetch)
        return best, found

    def _fetch(
        self, vectors: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        on_gpu = self._copy is not None and k <= _GPU_MOST
        return (self._copy if on_gpu else self.index).search(vectors, k)


def first(scores: NDArray[np.float32], keys: NDArray[np.int64], k: int) -> Lists:
    """The k highest scores of each row and their keys, equal scores in the order of the keys.

    Args:
        scores: float32 [Q, M].
        keys: int64 [Q, M], -1 where there is nothing; the score is -inf there.
        k: Length of the lists.

    Returns:
        float32 [Q, k] and int64 [Q, k], padded with -inf and -1.
    """
    order = np.lexsort((keys, -scores), axis=-1)[:, :k]
    pad = ((0, 0), (0, k - order.shape[1]))
    return (
        np.pad(np.take_along_axis(scores, order, 1), pad, constant_values=-np.inf),
        np.pad(np.take_along_axis(keys, order, 1), pad, constant_values=-1),
    )


def _reason(error: Exception) -> str:
    """FAISS' message without the C++ function and the source line."""
    return re.sub(r"^Error in .*? at \S+:\d+: (Error: )?", "", str(error), flags=re.DOTALL).strip()
