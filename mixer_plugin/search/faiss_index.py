"""One FAISS index: created, trained, and searched until enough allowed images are found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.search.filters import Filter
from mixer_plugin.search.gpu import Gpu, import_faiss

Lists = tuple[NDArray[np.float32], NDArray[np.int64]]

_SPARE = 32  # fetched beyond k at first: some are removed, excluded or tied
_GROWTH = 4
_ENTRIES = 1 << 22  # results held at a time once more than the first fetch is needed
_GPU_MOST = 2048  # FAISS' limit of k on a GPU
# What FAISS reserves memory by, or fails at, when it searches: bounds by the parameter's name.
_BOUNDS = {name: (0, 1 << 40) for name in ("max_codes", "ht", "verbose")}
_BOUNDS |= {name: (1, 1024) for name in ("k_factor", "k_factor_rf")}


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
            MixERValueError: As of ``trained``, or the index takes no images in order.
        """
        made = cls.trained(factory, parameters, vectors, what)
        with _explained(
            f"An index {factory!r} takes no images in order",
            "Leave out what numbers the images; the index does so itself.",
        ):
            made.add(vectors, keys)
        return made

    @classmethod
    def trained(
        cls, factory: str, parameters: str, vectors: NDArray[np.float32], what: str
    ) -> SubIndex:
        """An empty index trained on the vectors, float32 [N, D].

        Raises:
            MixERValueError: FAISS does not know the factory string or the parameters, or ``what``,
                the images, are too few to train it.
        """
        _check_numbers(factory, len(vectors), what)
        index = _made(factory, vectors.shape[1])
        with _explained(
            f"An index {factory!r} cannot be trained on {len(vectors)} {what} images",
            "The first add of a modality trains its index; FAISS needs at least one image per "
            "cluster (IVF64: 64, PQ: 256) and advises 39. Add more at once, or take fewer clusters "
            "or 'Flat'.",
        ):
            if not index.is_trained:
                index.train(vectors)
        empty = cls(index, np.empty(0, np.int64))
        empty.tune(parameters)
        return empty

    def add(self, vectors: NDArray[np.float32], keys: NDArray[np.int64]) -> None:
        """Adds vectors, float32 [N, D], under larger keys than all before."""
        self._copy = None
        self.index.add(vectors)
        self.keys = np.concatenate([self.keys, keys])

    def try_parameters(self, parameters: str, factory: str) -> None:
        """Raises what ``tune`` raises, which may leave some of several parameters set."""
        index = import_faiss().index_factory(self.index.d, factory, self.index.metric_type)
        SubIndex(index, self.keys[:0]).tune(parameters)

    def tune(self, parameters: str) -> None:
        """Sets FAISS' search parameters, such as ``nprobe=16``."""
        check_parameters(parameters)
        if not parameters:
            return
        self._copy = None
        with _explained(
            f"FAISS cannot set {parameters!r} on an {type(self.index).__name__}",
            "Examples: 'nprobe=16' for IVF, 'efSearch=64' for HNSW.",
        ):
            import_faiss().ParameterSpace().set_index_parameters(self.index, parameters)

    def upload(self, gpu: Gpu) -> None:
        """Makes the copy on the GPU that searches use, where it is missing."""
        if self._copy is None:
            try:
                copy = import_faiss().index_cpu_to_gpu
                self._copy = copy(gpu.resources, gpu.number, self.index)
            except (RuntimeError, MemoryError) as error:  # FAISS has no such copy, or no memory
                raise MixERRuntimeError(
                    f"An {type(self.index).__name__} of {len(self.keys)} images cannot go to the "
                    f"GPU: {_reason(error)}. Choose device='cpu' or another factory."
                ) from error

    def download(self) -> None:
        """Drops the copy."""
        self._copy = None

    def search(
        self, vectors: NDArray[np.float32], k: int, filter_: Filter, rows: NDArray[np.int64]
    ) -> Lists:
        """The k best allowed images of each query; equal scores in the order of their keys.

        More is fetched until, for each query, k allowed images are found and the last one fetched
        is worse than the k-th: then no image that was not fetched can be among the k, nor tie.

        Args:
            vectors: float32 [Q, D].
            k: Length of the lists.
            filter_: What the queries must not find.
            rows: int64 [R], the queries that are answered; the lists of others stay empty.

        Returns:
            Scores float32 [Q, k] and keys int64 [Q, k]; -inf and -1 where there is none.
        """
        best, found = no_hits(len(vectors), k)
        total = len(self.keys)
        alive = int(filter_.images.alive[self.keys].sum())
        if not alive:
            return best, found
        fetch = min(total, k * total // alive + _SPARE)
        size = max(len(rows), 1)
        while len(rows):
            short = []
            for start in range(0, len(rows), size):
                block = rows[start : start + size]
                asked = vectors if len(block) == len(vectors) else vectors[block]
                on_gpu = self._copy is not None and fetch <= _GPU_MOST
                scores, places = (self._copy if on_gpu else self.index).search(asked, fetch)
                keys = self.keys[places]
                lost = (places < 0) | filter_.excluded(block, keys)
                complete = (fetch == total) | (places[:, -1] < 0)
                best[block], found[block] = merge(
                    np.where(lost, -np.inf, scores), np.where(lost, -1, keys), k
                )
                complete |= best[block, -1] > scores[:, -1]
                short.append(block[~complete])
            rows = np.concatenate(short)
            fetch = min(total, _GROWTH * fetch)
            size = max(1, _ENTRIES // fetch)
        return best, found


def check_parameters(parameters: str) -> None:
    """Raises ``MixERValueError`` for parameters that FAISS takes and fails at when it searches."""
    for each in parameters.split(",") if parameters else ():
        match = re.fullmatch(r"(\w+)=(\d+(?:\.\d+)?)", each)
        name, number = match.groups() if match else (each, "nan")
        least, most = _BOUNDS.get(name.removeprefix("quantizer_"), (1, 1 << 20))
        whole = "k_factor" not in name
        if (whole and not number.isdigit()) or not least <= float(number) <= most:
            raise MixERValueError(
                f"The search parameter {each!r} cannot be used: expected name=number, a "
                f"{'whole ' if whole else ''}number from {least} to {most}. Examples: 'nprobe=16' "
                "for IVF, 'efSearch=64' for HNSW."
            )


def check_factory(factory: str, parameters: str, width: int) -> None:
    """Raises ``MixERValueError`` where FAISS knows no such index of vectors of this width."""
    SubIndex(_made(factory, width), np.empty(0, np.int64)).tune(parameters)


def _made(factory: str, width: int) -> Any:
    """An index that is not trained yet."""
    faiss = import_faiss()
    with _explained(
        f"FAISS cannot make an index {factory!r} of inner products of {width} dimensions",
        "Try 'Flat', 'IVF64,Flat' or 'HNSW32'.",
    ):
        return faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)


def _check_numbers(factory: str, images: int, what: str) -> None:
    """Raises ``MixERValueError`` before FAISS reserves memory by a number in the factory string."""
    for kind, number in re.findall(r"([A-Za-z]*)(\d+)", factory):
        most = {"HNSW": 1024, "NSG": 1024, "x": 16}.get(kind, max(images, 1 << 16))
        if int(number) > most:
            raise MixERValueError(
                f"The factory string {factory!r} asks for {kind}{number}, too much for {images} "
                f"{what} images. Try 'Flat', 'IVF64,Flat' or 'HNSW32'."
            )


def no_hits(queries: int, k: int) -> Lists:
    """Lists with nothing in them."""
    return np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64)


def merge(scores: NDArray[np.float32], keys: NDArray[np.int64], k: int) -> Lists:
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


@contextmanager
def _explained(failure: str, advice: str) -> Iterator[None]:
    """Replaces FAISS' own error by one that says what failed, why, and what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise MixERValueError(f"{failure}: {_reason(error)}. {advice}") from error


def _reason(error: Exception) -> str:
    """FAISS' message without the C++ function and the source line."""
    return re.sub(r"^Error in .*? at \S+:\d+: (Error: )?", "", str(error), flags=re.DOTALL).strip()
