"""Feature extraction: a loader's batch, what a model makes of it, and processes that share one."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from mixer_plugin.adapters import Adapter
from mixer_plugin.adapters.evaluation_call import evaluation_trouble
from mixer_plugin.attach import unwrap_mixer, wrap_with_mixer
from mixer_plugin.config import MixERConfig
from mixer_plugin.distributed.gather import count_processes, gather_rows, meeting
from mixer_plugin.errors import (
    MixERRuntimeError,
    MixERTypeError,
    MixERValueError,
    check_name,
)
from mixer_plugin.features import FeatureSet
from mixer_plugin.features.label_csv import MODALITIES
from mixer_plugin.features.validation import label_vector, modality_vector, path_tuple
from mixer_plugin.forward.mixed import MixedModule, bare_model, mixer_of
from mixer_plugin.forward.record import Record
from mixer_plugin.releases import SYSU


def extract_features(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
    share: bool = False,
) -> FeatureSet:
    """Runs a wrapped model over a loader and collects erased and related features.

    The erased feature is the base's own retrieval embedding, computed as its own evaluation does;
    the related one comes from the head of each row's modality. The model runs in eval mode and is
    put back afterwards as it was, module by module.

    Args:
        model: wrapped by ``wrap_with_mixer``; also inside DDP or ``torch.compile``.
        loader: batches; each a mapping with ``images``, ``ids``, ``cams`` and optionally
            ``modality`` and ``paths``, or a sequence of these in this order (a fourth entry of
            strings is ``paths``; what comes after is ignored). ``modality`` is 0 or 1, or words
            such as visible and infrared. Without it, cameras are SYSU-MM01's: 3 and 6 are infrared.
        device: where to run; None: where the model's parameters are.
        progress: wraps the loader, e.g. ``tqdm.tqdm``.
        share: the processes of ``torch.distributed`` divide the batches. Every process calls this,
            with the same batches in the same order, and gets the features of all. Without it, a
            process that calls this alone extracts everything and waits for nobody.

    Returns:
        Features on the CPU, in the loader's order; ``related`` is None for a control without heads.

    Raises:
        MixERError: if the model is not wrapped, its forward takes more than the adapter gives, the
            loader is empty, a batch is incomplete or its fields do not fit, or another process
            failed in its share.
    """
    mixer_of(model)  # raises for a model that is not wrapped
    return extract(model, loader, device=device, progress=progress, share=share)


@torch.no_grad()
def extract(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    adapter: str | Adapter = "auto",
    device: torch.device | str | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
    share: bool = False,
) -> FeatureSet:
    """:func:`extract_features` of any model that the adapter fits; erased alone of a bare one."""

    def run(batches: Iterable[Any]) -> list[FeatureSet]:
        with readable(model, adapter) as bare:
            where = next(bare.parameters()).device if device is None else torch.device(device)
            return [
                features
                for batch in (progress(batches) if progress is not None else batches)
                for features, _ in [embed_batch(bare, batch, where)]
            ]

    if share and count_processes() > 1:
        return extract_together(run, loader)
    parts = run(loader)
    if not parts:
        raise MixERValueError("The loader gave no batch. Check the data set behind it.")
    return FeatureSet.concatenate(parts)


@contextlib.contextmanager
def readable(model: nn.Module, adapter: str | Adapter = "auto") -> Iterator[nn.Module]:
    """Within the block, what a forward of the model leaves behind can be read; it is in eval mode.

    A bare model is wrapped without heads and unwrapped again. Afterwards every module is in the
    mode that it was in.

    Raises:
        MixERError: No adapter fits, or the forward does not take what it calls the model with.
    """
    bare = bare_model(model)
    modes = [(module, module.training) for module in bare.modules()]
    wrapped_here = not isinstance(bare, MixedModule)
    if wrapped_here:
        control = MixERConfig(control="erased-triplet")  # the one that has no heads
        wrap_with_mixer(bare, "e2e", num_classes=1, adapter=adapter, config=control)
    try:
        trouble = evaluation_trouble(bare, mixer_of(bare).adapter)
        if trouble is not None:
            raise MixERTypeError(trouble)
        bare.eval()
        yield bare
    finally:
        mixer_of(bare).record = None
        if wrapped_here:
            unwrap_mixer(bare)
        for module, training in modes:
            module.training = training


@dataclass(frozen=True)
class Pass:
    """Rows of a batch that a base evaluates in one go: all, or those of one modality.

    Attributes:
        rows: int64 [R], their numbers in the batch.
        embedding: [R, D], the erased retrieval embedding.
        records: of each forward, at least one; mirrored images are another one. An adapter may run
            more than R rows; the first R are the images.
    """

    rows: Tensor
    embedding: Tensor
    records: list[Record]


def embed(model: nn.Module, images: Tensor, modality: Tensor, *, heads: bool = True) -> list[Pass]:
    """Runs a batch as the base's own evaluation does.

    Args:
        model: inside :func:`readable`.
        images: [B, 3, H, W].
        modality: int64 [B].
        heads: whether the related heads run.
    """
    mixer = mixer_of(model)
    groups = [torch.arange(len(images), device=images.device)]
    if mixer.adapter.one_modality_in_eval:
        groups = [rows for m in (0, 1) if len(rows := (modality == m).nonzero().flatten())]
    passes = []
    for rows in groups:
        with mixer.matching(heads=heads) as records:
            embedding = mixer.adapter.embed(model, images[rows], modality[rows])
        if heads and records[-1].modality is None:  # only the loader knows it
            records[-1] = mixer.complete(model, modality[rows])
        passes.append(Pass(rows, embedding, records))
    return passes


def in_batch_order(passes: Sequence[Pass], values: Sequence[Tensor]) -> Tensor:
    """Joins one value [R, …] of each pass, in the order of the batch."""
    back = torch.cat([one.rows for one in passes]).argsort()
    return torch.cat(list(values))[back.to(values[0].device)]


def embed_batch(
    model: nn.Module, batch: Any, device: torch.device
) -> tuple[FeatureSet, dict[str, Tensor]]:
    """Features of a loader's batch after the necks, and before them by name, on the CPU.

    Related features are means over the forwards of a pass (mirrored images).
    """
    images, ids, cams, modality, paths = unpack(batch)
    passes = embed(model, images.to(device), modality.to(device))

    def mean(name: str) -> Tensor | None:
        found = [[getattr(record, name) for record in one.records] for one in passes]
        found = [[value for value in values if value is not None] for values in found]
        if not all(found):
            return None
        means = [
            torch.stack(values).float().mean(0)[: len(one.rows)].cpu()
            for one, values in zip(passes, found, strict=True)
        ]
        return in_batch_order(passes, means)

    erased = in_batch_order(passes, [one.embedding.float().cpu() for one in passes])
    features = FeatureSet(erased, mean("related_after"), ids, cams, modality, paths)
    before = {"erased": mean("erased_before"), "related": mean("related_before")}
    return features, {name: value for name, value in before.items() if value is not None}


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
    failure: Exception | None = None
    try:
        parts = extract(own_batches(loader, dist.get_rank(), dist.get_world_size()))
    except Exception as error:  # the others are told, in place of waiting for this process
        failure = error
    told = _tell_all(parts, failure)
    if failure is not None:
        raise failure
    for rank, one in enumerate(told):
        if one["failure"] is not None:
            raise MixERRuntimeError(f"Process {rank} failed in its share: {one['failure']}")
    return _joined(parts, told)


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


def _tell_all(parts: list[FeatureSet], failure: Exception | None) -> list[dict[str, Any]]:
    """What every process says of its share: all must know it before they send features."""
    named = [part.paths for part in parts if part.paths is not None]
    widths = None
    if parts:
        widths = [None if x is None else x.shape[1] for x in (parts[0].erased, parts[0].related)]
    own = {
        "failure": None if failure is None else f"{type(failure).__name__}: {failure}",
        "sizes": [len(part) for part in parts],
        "widths": widths,
        "paths": sum(named, ()) if len(named) == len(parts) else None,
    }
    told: list[Any] = [None] * dist.get_world_size()
    with meeting("extract_features"):
        dist.all_gather_object(told, own)
    return told


def _joined(parts: list[FeatureSet], told: list[dict[str, Any]]) -> FeatureSet:
    known = [one for one in told if one["sizes"]]
    if not known:
        raise MixERValueError("The loader gave no batch. Check the data set behind it.")
    own = FeatureSet.concatenate(parts) if parts else _no_rows(*known[0]["widths"])
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


_FIELDS = ("images", "ids", "cams", "modality", "paths")
_WORDS = {word: int(side) for side, words in MODALITIES.items() for word in words}


def unpack(batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[str, ...] | None]:
    """Images, ids, cams, modality and paths of a loader's batch, each checked.

    Raises:
        MixERValueError: A field is missing, has not one entry per image or no whole numbers, or
            no modality is given and a camera is none of SYSU-MM01's.
        MixERTypeError: A field is of another kind.
    """
    if isinstance(batch, Mapping):
        found = {name: batch[name] for name in _FIELDS if name in batch}
    elif isinstance(batch, (list, tuple)):
        found = dict(zip(_FIELDS[:3], batch, strict=False))
        # Collate functions give lists, arrays or tensors: what a field holds tells which it is.
        for value in batch[3:5]:
            texts = _texts(value)
            if texts is not None and not _WORDS.keys() >= {text.lower() for text in texts}:
                found["paths"] = value
                break
            if "modality" not in found:
                found["modality"] = value
    else:
        found = {}
    found = {name: value for name, value in found.items() if value is not None}
    missing = [name for name in _FIELDS[:3] if name not in found]
    if missing:
        raise MixERValueError(
            f"A batch of the loader ({type(batch).__name__}) has no {', '.join(missing)}. Expected "
            "a mapping with images, ids, cams and optionally modality and paths, or a sequence of "
            "these in this order."
        )
    images = found["images"]
    if not isinstance(images, Tensor):
        raise MixERTypeError(f"images of a batch must be a tensor, got {type(images).__name__}.")
    ids, cams = (label_vector(name, found[name]) for name in ("ids", "cams"))
    modality = _read_modality(found.get("modality"), cams)
    paths = path_tuple(found["paths"]) if "paths" in found else None
    fields = {"ids": ids, "cams": cams, "modality": modality, "paths": paths}
    for name, value in fields.items():
        if value is not None and len(value) != len(images):
            raise MixERValueError(
                f"A batch of the loader has {len(images)} images, but {len(value)} {name}."
            )
    return images, ids, cams, modality, paths


def _texts(value: Any) -> list[str] | None:
    """The strings or paths that a field holds, as strings; None where it holds something else."""
    values = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(values, (list, tuple)) or not values:
        return None
    if not all(isinstance(each, (str, os.PathLike)) for each in values):
        return None
    return [str(each) for each in values]


def _read_modality(given: Any, cams: Tensor) -> Tensor:
    """Int64 [B], from numbers or words, or from SYSU-MM01's cameras where nothing is given."""
    if given is not None:
        texts = _texts(given)
        for text in texts or ():
            check_name("modality", text.lower(), _WORDS)
        return modality_vector(given if texts is None else [_WORDS[t.lower()] for t in texts])
    strange = cams[~torch.isin(cams, cams.new_tensor(SYSU.every_camera))]
    if len(strange):
        raise MixERValueError(
            f"The loader's batches hold no modality, and camera {int(strange[0])} is none of "
            "SYSU-MM01's (1 to 6), of which 3 and 6 are infrared. Let the loader give modality: 0 "
            "visible, 1 infrared."
        )
    return torch.isin(cams, cams.new_tensor(SYSU.infrared)).long()
