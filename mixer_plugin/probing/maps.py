"""The input maps of a frozen model's stage, computed once and read from disk every epoch."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from mixer_plugin.checkpoints import base_state_dict
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.loading.decode import ImageDataset, Resample
from mixer_plugin.data.loading.transforms import Augmentation, normalise
from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.extraction import embed, in_batch_order, readable
from mixer_plugin.forward.mixed import bare_model, mixer_of
from mixer_plugin.forward.record import Record
from mixer_plugin.io.atomic_write import write_json, write_text
from mixer_plugin.io.text_file import read_text
from mixer_plugin.run_card import mark_of

_VERSION = 1
_KEPT = ("stage_input", "erased_before", "erased_after")
_CARD, _DONE = "card.json", "rows.txt"


@dataclass(frozen=True)
class CachedMaps:
    """Everything that head training needs of N images and their augmented copies.

    Row ``c * N + i`` is copy c of image i; copy 0 is the image as evaluation sees it.

    Attributes:
        values: By name, what the heads and losses read: ``stage_input``, float16
            [copies * N, C, H, W]; ``erased_before`` and ``erased_after``, float32; and what the
            base's pooling reads beside, ``NAME`` or ``NAME.0``, ``NAME.1`` ….
        modality: int64 [N].
        ids: int64 [N], identities.
        copies: Copies of each image, the image itself included.
        taps: By name, where in the model the values were read.
        weights: SHA-256 of the model's weights and buffers.
        mark: SHA-256 of all that the values depend on.
    """

    values: dict[str, Tensor]
    modality: Tensor
    ids: Tensor
    copies: int
    taps: dict[str, str]
    weights: str
    mark: str

    def __len__(self) -> int:
        return len(self.modality)

    @property
    def bytes(self) -> int:
        """Size of all values in bytes."""
        return sum(value.numel() * value.element_size() for value in self.values.values())

    def placed(self, device: torch.device | str, *, limit: int | None = None) -> CachedMaps:
        """The same maps in a device's memory if they fit, else as they are, mapped from disk.

        Args:
            device: Where they are to be.
            limit: Bytes that they may take; None: 80 % of what is free on a GPU, and nothing on the
                CPU, where the system keeps the pages of mapped files in memory anyway.
        """
        device = torch.device(device)
        if limit is None:
            limit = int(0.8 * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0
        if self.bytes > limit:
            return self
        moved = {name: value.to(device, copy=True) for name, value in self.values.items()}
        return dataclasses.replace(self, values=moved)

    def record(self, rows: Tensor, device: torch.device | str) -> Record:
        """The record that a forward of the frozen model on these rows would give, before the heads.

        Args:
            rows: int64 [B] in [0, copies * N), rows of ``values``.
            device: Where the result is to be.

        Returns:
            The record of these B rows; maps and features as float32.
        """
        found: dict[str, Tensor] = {}
        for name, value in self.values.items():
            part = value.index_select(0, rows.to(value.device)).to(device)
            found[name] = part.float() if part.is_floating_point() else part
        stage_input, before, after = (found.pop(name) for name in _KEPT)
        stage_output = found.pop("stage_output", None)
        modality = self.modality[rows % len(self)].to(device)
        return Record(stage_input, before, after, modality, stage_output, _joined(found))


@torch.no_grad()
def cache_maps(
    model: nn.Module,
    images: ImageList,
    folder: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    augmentation: Augmentation | None = None,
    copies: int = 1,
    seed: int = 0,
    resample: Resample = "bilinear",
    batch: int = 64,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CachedMaps:
    """Runs a frozen model over images once and stores the inputs of its heads.

    The model runs in eval mode and stays as it is, bit by bit. The files lie in a folder of their
    own, named by what they depend on: weights and buffers, adapter and stage, image size,
    normalisation and resampling, paths, sizes and times of the image files, and with further
    copies the augmentation, its seed and the batch. An interrupted run continues after the last
    whole batch.

    Maps do not change in training, so that all augmentation there can be is what was cached:
    ``copies`` - 1 augmented copies of each image, drawn once, beside the image itself. Each costs
    as much disk as the first.

    Args:
        model: Wrapped by ``wrap_with_mixer``, on the device where it runs.
        images: N images.
        folder: Where caches are; made if missing. One process at a time writes there.
        size: Height and width in pixels that the images are read at.
        augmentation: Its mean and standard deviation normalise; the rest is for further copies.
        copies: Copies of each image, the image itself included.
        seed: Seed of the augmentation.
        resample: How images of another size are resized, ``bilinear`` or ``bicubic``.
        batch: Images in a forward.
        workers: Processes that read images.
        progress: Called with (rows done, rows in all).

    Returns:
        The maps, mapped from disk.

    Raises:
        MixERTypeError: The model is not wrapped.
        MixERValueError: There is no image, one is missing or cannot be read, an argument is out of
            range, or a map does not fit float16.
        MixERRuntimeError: The model changed while it was run, or the files cannot be written.
        MissingExtraError: Pillow is not installed.
    """
    augmentation = Augmentation() if augmentation is None else augmentation
    if not len(images) or copies < 1 or batch < 1:
        raise MixERValueError(
            f"Got {len(images)} images, copies={copies}, batch={batch}; expected at least 1 each."
        )
    weights = mark_of(dict(base_state_dict(model)))
    settings: dict[str, Any] = {
        "version": _VERSION,
        "weights": weights,
        "adapter": mixer_of(model).adapter.name,
        "taps": {n: str(tap) for n, tap in mixer_of(model).tapped(bare_model(model)).items()},
        "size": list(size),
        "resample": resample,
        "mean": augmentation.mean,
        "std": augmentation.std,
        "images": _files(images),
        "copies": copies,
    }
    if copies > 1:
        settings |= {"augmentation": dataclasses.asdict(augmentation), "seed": seed, "batch": batch}
    mark = mark_of({}, **settings)
    place = Path(folder) / f"maps-{mark[:16]}"
    total = copies * len(images)
    store = _Store(place, mark, total)
    try:
        if store.done < total:
            data = ImageDataset(images, size, transform=_as_it_is, resample=resample)
            chunks = _chunks(len(images), copies, batch, store.done)
            _write(store, model, data, chunks, augmentation, seed, workers, progress)
    except OSError as error:
        raise MixERRuntimeError(
            f"The maps cannot be written to {place} ({error}). Free some space or name another "
            "folder; the same call continues."
        ) from error
    if mark_of(dict(base_state_dict(model))) != weights:
        raise MixERRuntimeError(
            "The model changed while its maps were computed: it writes to its own weights or "
            "buffers in eval mode, or something else trains it. Its maps are of no use."
        )
    return CachedMaps(
        values=store.read(),
        modality=torch.from_numpy(images.modality.copy()),
        ids=torch.from_numpy(images.ids.copy()),
        copies=copies,
        taps=settings["taps"],
        weights=weights,
        mark=mark,
    )


def _as_it_is(pixels: Tensor) -> Tensor:
    return pixels


def _files(images: ImageList) -> list[list[Any]]:
    """Name, size and time of each image file."""
    found = []
    for path in images.paths:
        try:
            state = os.stat(path)
        except OSError as error:
            raise MixERValueError(f"{path} cannot be found ({error.strerror}).") from error
        name = Path(os.path.relpath(path, images.root)).as_posix()
        found.append([name, state.st_size, state.st_mtime_ns])
    return found


def _chunks(images: int, copies: int, batch: int, done: int) -> list[tuple[int, int, int]]:
    """(copy, first image, one past the last) of the remaining work."""
    found = []
    for copy in range(copies):
        for start in range(0, images, batch):
            stop = min(start + batch, images)
            first = max(start, done - copy * images)  # another batch size may have begun it
            if first < stop:
                found.append((copy, first, stop))
    return found


def _write(
    store: _Store,
    model: nn.Module,
    data: ImageDataset,
    chunks: list[tuple[int, int, int]],
    augmentation: Augmentation,
    seed: int,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    rows = [list(range(start, stop)) for _, start, stop in chunks]
    loader = DataLoader(Subset(data, range(len(data))), batch_sampler=rows, num_workers=workers)
    with readable(model) as bare:
        device = next(bare.parameters()).device
        for (copy, start, _), (pixels, _, _, modality, _) in zip(chunks, loader, strict=True):
            if copy == 0:
                given = normalise(pixels, augmentation)
            else:
                generator = torch.Generator().manual_seed(_seed(seed, copy, start))
                given = augmentation(pixels, modality, generator)
            store.append(_frozen(bare, given.to(device), modality.to(device)))
            if progress is not None:
                progress(store.done, store.total)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _frozen(model: nn.Module, images: Tensor, modality: Tensor) -> dict[str, Tensor]:
    """The inputs of the heads for a batch, by name, in the batch's order."""
    passes = embed(model, images, modality, heads=False)
    # Of several forwards, the first is that of the images as they are.
    found = [_values(one.records[0], len(one.rows)) for one in passes]
    return {name: in_batch_order(passes, [one[name] for one in found]) for name in found[0]}


def _values(record: Record, rows: int) -> dict[str, Tensor]:
    kept = {name: getattr(record, name) for name in (*_KEPT, "stage_output")}
    flat = _flat({name: value for name, value in kept.items() if value is not None})
    return {name: value[:rows] for name, value in {**flat, **_flat(record.pooling)}.items()}


def _flat(taps: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of taps by name; those of a tap that holds several are numbered."""
    found: dict[str, Tensor] = {}
    for name, value in taps.items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, (tuple, list)) and all(isinstance(v, Tensor) for v in value):
            found |= {f"{name}.{i}": v for i, v in enumerate(value)}
        else:
            raise MixERValueError(
                f"The tap {name!r} gives a {type(value).__name__}; only tensors, and tuples of "
                "them, can be cached."
            )
    return found


def _joined(found: dict[str, Tensor]) -> dict[str, Any]:
    """The taps that :func:`_flat` took apart."""
    taps: dict[str, Any] = {}
    for name, value in found.items():
        head, dot, _ = name.rpartition(".")
        if dot:
            taps[head] = (*taps.get(head, ()), value)
        else:
            taps[name] = value
    return taps


class _Store:
    """Arrays in a folder, appended row by row; a note counts the rows that are complete."""

    def __init__(self, folder: Path, mark: str, total: int) -> None:
        self.folder, self.mark, self.total = folder, mark, total
        self.card: dict[str, Any] = {}
        self.done = 0
        try:
            card = json.loads(read_text(folder / _CARD))
            done = int(read_text(folder / _DONE))
        except (OSError, ValueError):
            return
        whole = card.get("mark") == mark and all(
            self._path(name).is_file() and self._path(name).stat().st_size >= done * kind["row"]
            for name, kind in card["arrays"].items()
        )
        if whole:
            self.card, self.done = card, done

    def append(self, rows: dict[str, Tensor]) -> None:
        """Adds rows of every array; noted once all are written."""
        arrays = {name: _stored(name, value) for name, value in rows.items()}
        if not self.card:
            self._begin(arrays)
        for name, array in arrays.items():
            with self._path(name).open("r+b") as file:
                file.truncate(self.done * self.card["arrays"][name]["row"])
                file.seek(0, os.SEEK_END)
                file.write(np.ascontiguousarray(array).data)
        self.done += len(next(iter(arrays.values())))
        write_text(self.folder / _DONE, str(self.done))

    def read(self) -> dict[str, Tensor]:
        """The arrays, mapped; what is written to them stays in memory."""
        return {
            name: torch.from_numpy(
                np.memmap(
                    self._path(name),
                    dtype=kind["dtype"],
                    mode="c",
                    shape=(self.total, *kind["shape"]),
                )
            )
            for name, kind in self.card["arrays"].items()
        }

    def _begin(self, arrays: dict[str, np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.card = {
            "mark": self.mark,
            "arrays": {
                name: {
                    "dtype": array.dtype.str,
                    "shape": list(array.shape[1:]),
                    "row": array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)),
                }
                for name, array in arrays.items()
            },
        }
        (self.folder / _DONE).unlink(missing_ok=True)
        for name in arrays:
            self._path(name).write_bytes(b"")
        write_json(self.folder / _CARD, self.card)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"


def _stored(name: str, value: Tensor) -> np.ndarray:
    """Maps as float16, features as float32."""
    value = value.detach().cpu()
    if not value.is_floating_point():
        return value.numpy()
    if name in ("erased_before", "erased_after"):
        return value.float().numpy()
    half = value.half()
    if not half.isfinite().all():
        raise MixERValueError(
            f"{name} has values up to {float(value.abs().max()):.3g}, which float16 does not hold; "
            "check the model, whose maps are far from any usual size."
        )
    return half.numpy()
