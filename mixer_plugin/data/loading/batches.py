"""Training batches, prepared ahead by threads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import starmap

import torch
from torch import Tensor

from mixer_plugin.data.loading.pipeline import Pipeline
from mixer_plugin.data.loading.prefetch import prefetch
from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.data.loading.transforms import Augmentation
from mixer_plugin.errors import MixERTypeError, MixERValueError


@dataclass(frozen=True)
class LoadedBatch:
    """Augmented images of one step.

    Attributes:
        step: Number of the step.
        rows: int64 [B] on the CPU, indices into the decoded images.
        images: float32 [B, 3, H, W], channels last in memory.
        shapes: The images' body shapes, as ``images``, augmented by draws of their own; or None.
    """

    step: int
    rows: Tensor
    images: Tensor
    shapes: Tensor | None


def load_batches(
    pixels: Tensor,
    modality: Tensor,
    sampler: IdentitySampler,
    steps: Iterable[int],
    *,
    augmentation: Augmentation | Pipeline,
    seed: int,
    shapes: Tensor | None = None,
    device: torch.device | str = "cpu",
    depth: int = 2,
    workers: int = 1,
) -> Generator[LoadedBatch, None, None]:
    """Augmented batches of some steps, in order, made ahead by threads.

    On one kind of device a batch depends on seed, step and the sampler's rank alone, not on the
    number of threads or on the first step. On the CPU the threads do everything. For another device
    they read the pixels, into pinned memory if it is a CUDA device; the copy and the augmentation
    are queued there when the batch is taken (a ``Pipeline`` never waits for the device).

    Close it where training may stop early: ``with contextlib.closing(load_batches(…)) as batches``.

    Args:
        pixels: uint8 [N, 3, H, W] on the CPU, from ``decode`` or ``open_cache``.
        modality: int64 [N], 0 visible, 1 infrared.
        sampler: Gives each step's rows.
        steps: Numbers of the steps, such as ``range(start, iterations)``.
        augmentation: What is done to the images.
        seed: Seed of the augmentation.
        shapes: uint8 [N, 3, H, W], body shapes of the images (SGEIL).
        device: Where the batches are to be.
        depth: Batches waiting or being made, at most.
        workers: Threads.

    Returns:
        A generator of batches.

    Raises:
        MixERTypeError: ``pixels`` or ``shapes`` is not uint8.
        MixERValueError: An argument does not fit the others, or is out of range. What is wrong with
            a batch is raised when its turn comes.
    """
    target = torch.device(device)
    sources = [pixels] if shapes is None else [pixels, shapes]
    for name, source in zip(("pixels", "shapes"), sources, strict=False):
        if source.dtype != torch.uint8:
            raise MixERTypeError(f"{name} must be uint8, got {source.dtype}.")
        if source.device.type != "cpu" or source.shape != pixels.shape:
            raise MixERValueError(
                f"{name} must be on the CPU, in the shape of pixels; got "
                f"{tuple(source.shape)} on {source.device}."
            )
    if modality.shape != pixels.shape[:1]:
        raise MixERValueError(
            f"modality must have shape ({len(pixels)},), got {tuple(modality.shape)}."
        )
    augmentations = [augmentation]
    if shapes is not None:
        augmentations.append(augmentation.for_shapes())

    def read(step: int) -> tuple[int, Tensor, list[Tensor]]:
        rows = sampler.batch(step)
        return step, rows, [_rows_of(source, rows, target) for source in sources]

    def finish(step: int, rows: Tensor, taken: list[Tensor]) -> LoadedBatch:
        generator = step_generator(seed, step, sampler.rank)
        kinds = modality[rows]
        made = [
            augmented(source.to(target, non_blocking=True), kinds, generator).contiguous(
                memory_format=torch.channels_last
            )
            for source, augmented in zip(taken, augmentations, strict=True)
        ]
        return LoadedBatch(step, rows, made[0], made[1] if shapes is not None else None)

    if target.type == "cpu":
        return prefetch(lambda step: finish(*read(step)), steps, depth=depth, workers=workers)
    return _finished(finish, prefetch(read, steps, depth=depth, workers=workers))


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """The source of a step's augmentation, one per process of a distributed run."""
    # The CPU's generator keeps the lower 32 bits of a seed.
    return torch.Generator().manual_seed(seed * 1_000_003 + step + rank * 0x9E3779B1)


def _finished(
    finish: Callable[..., LoadedBatch], ahead: Generator[tuple, None, None]
) -> Generator[LoadedBatch, None, None]:
    with closing(ahead):
        yield from starmap(finish, ahead)


def _rows_of(source: Tensor, rows: Tensor, target: torch.device) -> Tensor:
    if target.type != "cuda":
        return source.index_select(0, rows)
    with torch.cuda.device(target):  # pinning makes a context on the thread's current device
        taken = torch.empty((len(rows), *source.shape[1:]), dtype=source.dtype, pin_memory=True)
        return torch.index_select(source, 0, rows, out=taken)
