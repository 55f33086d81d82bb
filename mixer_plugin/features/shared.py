"""Features that several processes extract together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from mixer_plugin.distributed.gather import gather_rows, meeting
from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.features.feature_set import FeatureSet


def extract_together(
    extract: Callable[[Iterable[Any]], list[FeatureSet]], loader: Iterable[Any]
) -> FeatureSet:
    """Every process extracts its batches of a loader; each gets all features in the loader's order.

    Args:
        extract: makes one set of each batch.
        loader: the same batches on every process.

    Raises:
        MixERValueError: the loader gave no batch, or features differ in width between processes.
        MixERRuntimeError: another process failed.
    """
    parts: list[FeatureSet] = []
    own: FeatureSet | None = None
    failure: Exception | None = None
    try:
        parts = extract(own_batches(loader, dist.get_rank(), dist.get_world_size()))
        own = FeatureSet.concatenate(parts) if parts else None
    except Exception as error:  # the others are told, in place of waiting for this process
        failure = error
    told = _tell_all(own, [len(part) for part in parts], failure)
    if failure is not None:
        raise failure
    for rank, one in enumerate(told):
        if one["failure"] is not None:
            raise MixERRuntimeError(f"Process {rank} failed in its share: {one['failure']}")
    return _joined(own, told)


def own_batches(loader: Iterable[Any], rank: int, world: int) -> Iterable[Any]:
    """Every ``world``-th batch, from number ``rank`` on.

    A ``DataLoader`` without shuffling loads these alone; any other loader runs whole, and the
    others' batches are passed over.
    """
    sampler = getattr(loader, "batch_sampler", None)
    in_order = type(sampler) is BatchSampler and isinstance(sampler.sampler, SequentialSampler)
    if type(loader) is DataLoader and sampler is not None and in_order:
        return DataLoader(
            loader.dataset,
            batch_sampler=list(itertools.islice(sampler, rank, None, world)),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
        )
    return itertools.islice(loader, rank, None, world)


def _tell_all(
    own: FeatureSet | None, sizes: list[int], failure: Exception | None
) -> list[dict[str, Any]]:
    """What every process says of its share: all must know it before they send features."""
    widths = None
    if own is not None:
        widths = [None if x is None else x.shape[1] for x in (own.erased, own.related)]
    said = {
        "failure": None if failure is None else f"{type(failure).__name__}: {failure}",
        "sizes": sizes,
        "widths": widths,
        "paths": () if own is None else own.paths,
    }
    told: list[Any] = [None] * dist.get_world_size()
    with meeting("extract_features"):
        dist.all_gather_object(told, said)
    return told


def _joined(own: FeatureSet | None, told: list[dict[str, Any]]) -> FeatureSet:
    known = [one for one in told if one["sizes"]]
    if not known:
        raise MixERValueError("The loader gave no batch. Check the data set behind it.")
    if own is None:
        own = _no_rows(*known[0]["widths"])
    fields = [own.erased, own.ids, own.cams, own.modality]
    if own.related is not None:
        fields.append(own.related)
    erased, ids, cams, modality, *related = gather_rows(*fields)
    numbers = [
        rank + i * len(told)
        for rank, one in enumerate(told)
        for i, size in enumerate(one["sizes"])
        for _ in range(size)
    ]
    order = torch.tensor(numbers).argsort(stable=True)
    named = [one["paths"] for one in told]
    paths = None if None in named else sum(named, ())
    whole = FeatureSet(erased, related[0] if related else None, ids, cams, modality, paths)
    return whole[order]


def _no_rows(erased: int, related: int | None) -> FeatureSet:
    none = torch.zeros(0, dtype=torch.int64)
    beside = None if related is None else torch.zeros(0, related)
    return FeatureSet(torch.zeros(0, erased), beside, none, none, none)
