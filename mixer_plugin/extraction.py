"""Feature extraction: a loader's batch, what a model makes of it, into memory or into a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mixer_plugin.adapters import Adapter
from mixer_plugin.adapters.evaluation_call import evaluation_trouble
from mixer_plugin.attach import restore, unwrap_mixer, wrap_with_mixer
from mixer_plugin.config import MixERConfig
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.loading.decode import check_reading, read_chunks
from mixer_plugin.data.loading.transforms import normalise
from mixer_plugin.distributed.gather import count_processes, main_buffers
from mixer_plugin.distributed.processes import all_processes, on_all_ranks, on_main_process
from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.evaluation import evaluate
from mixer_plugin.evaluation.results import Results
from mixer_plugin.features import FeatureSet
from mixer_plugin.features.batches import unpack
from mixer_plugin.features.growing_file import check_target, image_keys, join_rows, open_rows
from mixer_plugin.features.shared import extract_together
from mixer_plugin.features.validation import named
from mixer_plugin.forward.mixed import MixedModule, bare_model, mixer_of
from mixer_plugin.forward.output import output_of
from mixer_plugin.forward.record import Record
from mixer_plugin.heads import modes_kept
from mixer_plugin.io.options import check_options, option
from mixer_plugin.run_card import mark_of

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
            with the same batches in the same order, and gets the features of all, by the buffers
            (running statistics) of the first, which its checkpoint holds. Without it, a process
            that calls this alone extracts everything and waits for nobody.

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
            told = batches if progress is None else progress(batches)
            return [embed_batch(bare, batch, where)[0] for batch in told]

    if share and count_processes() > 1:
        with main_buffers(bare_model(model)):
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
    wrapped_here = not isinstance(bare, MixedModule)
    with modes_kept(bare):
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


@dataclass(frozen=True)
class Pass:
    """Rows of a batch that a base evaluates in one go: all, or those of one modality.

    Attributes:
        rows: int64 [R], their numbers in the batch.
        embedding: [R, D], the erased retrieval embedding.
        records: one of each forward; mirrored images are a second forward. An adapter may run more
            than R rows; the first R are the images.
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
    model: nn.Module, batch: Any, device: torch.device, *, heads: bool = True
) -> tuple[FeatureSet, dict[str, Tensor]]:
    """Features of a loader's batch after the necks, and before them by name, on the CPU.

    Related features are means over the forwards of a pass (mirrored images); there are none
    without ``heads``.
    """
    images, ids, cams, modality, paths = unpack(batch)
    passes = embed(model, images.to(device), modality.to(device), heads=heads)

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


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How image files are read and run; ``MixERValueError`` for a value that cannot be used.

    Attributes:
        size: (height, width) in pixels; other images are resized bilinearly.
        mean: of red, green and blue, for pixels in [0, 1]; it is subtracted.
        std: of red, green and blue; pixels are divided by it after that.
        batch: images per forward.
        workers: threads that read; 0 is taken as 1.
        precision: ``fp32``, or autocast to ``bf16`` or ``fp16``; features are float32.
    """

    size: tuple[int, int] = option((256, 128), minimum=1)
    mean: tuple[float, float, float] = option((0.485, 0.456, 0.406))
    std: tuple[float, float, float] = option((0.229, 0.224, 0.225), above=0)
    batch: int = option(128, minimum=1, maximum=2**20)
    workers: int = option(2, minimum=0, maximum=256)
    precision: str = option("fp32", choices=tuple(_PRECISIONS))

    def __post_init__(self) -> None:
        check_options(self)


@torch.no_grad()
def extract_to_file(
    model: nn.Module,
    images: ImageList,
    out: str | os.PathLike[str],
    *,
    reading: Reading | None = None,
    bare: bool = False,
    output: str | None = None,
    adapter: str | Adapter = "auto",
    times: NDArray[np.float64] | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int | None]:
    """Writes the features of image files to an ``.npz``, in memory that does not grow with them.

    Rows are kept in ``OUT.part`` as they come. After an interruption the same call continues, and
    writes the same bytes. An image that was changed, and what comes after it, is done anew. The
    processes of ``torch.distributed`` divide the images; they call this together, and the first one
    writes the file.

    Args:
        model: wrapped, unless ``bare``.
        images: at least one.
        out: the file; :meth:`FeatureSet.load` reads it.
        reading: how images are read and run; None: the defaults.
        bare: erased features alone, the model's own embedding.
        output: of a bare model, path of the module whose output is its embedding, or ``output`` for
            what the forward returns; None: as its adapter says.
        adapter: of a bare model without ``output``.
        times: float64 [N], seconds since 1970, kept in the file as ``time``.
        device: where to run; None: where the model's parameters are.
        progress: called with (images done, images in all) of this process after each batch; where
            an interrupted call is continued, also before the first one.

    Returns:
        The widths of ``erased`` and ``related``, None where there is none; in the first process.

    Raises:
        MixERError: The model is not wrapped, no adapter fits, a file cannot be read, or a feature
            is not finite.
        OSError: The file cannot be written.
    """
    reading, out, net = reading or Reading(), Path(out), bare_model(model)
    check_reading(reading.size)
    check_target(out)
    if not len(images):
        raise MixERValueError("There is no image to extract features of.")
    if not bare and (output is not None or not isinstance(net, MixedModule)):
        raise MixERTypeError(
            f"{type(net).__name__} is to be run with MixER's heads"
            + (", and output names a module" if output else ", and it is not wrapped")
            + ". Wrap it (wrap_with_mixer, --wrap), or ask for its own embedding (bare, --bare)."
        )
    where = torch.device(device or next(net.parameters(), torch.empty(0)).device)
    share = all_processes()
    taken = share.stretch(range(0, len(images), reading.batch))
    own = range(taken.start, min(taken.stop, len(images)))  # type: ignore[attr-defined]
    settings = {k: v for k, v in asdict(reading).items() if k != "workers"}
    settings |= {"bare": bare, "output": output, "device": where.type, "shares": share.count}
    read = mixer_of(net).adapter if isinstance(net, MixedModule) else adapter
    told = read if isinstance(read, str) else f"{read.name} {read.taps(net)}"
    mark = mark_of(net.state_dict(), adapter=told, model=type(net).__qualname__, **settings)
    labels = {"ids": images.ids, "cams": images.cams, "modality": images.modality}
    columns = [torch.from_numpy(column) for column in labels.values()]

    def work() -> None:
        with contextlib.ExitStack() as stack:
            run = stack.enter_context(runner(model, reading, where, bare, output, adapter))
            keys = image_keys(images.paths, images.modality, own)
            here = (share.index, share.count)
            rows = stack.enter_context(open_rows(out, mark, keys, reading.batch, here))
            if progress is not None and rows.done:
                progress(rows.done, len(own))
            starts = range(own.start + rows.done, own.stop, reading.batch)
            workers = max(reading.workers, 1)
            chunks = read_chunks(images, reading.size, "bilinear", workers, starts=starts)
            stack.enter_context(contextlib.closing(chunks))
            for start, chunk in zip(starts, chunks, strict=True):
                part = slice(start, start + len(chunk))
                with named(f"images {start} to {part.stop - 1}, from {images.paths[start]} on"):
                    found = run(torch.from_numpy(chunk), [column[part] for column in columns])
                related = None if found.related is None else found.related.numpy()
                rows.append(found.erased.numpy(), related)
                if progress is not None:
                    progress(rows.done, len(own))

    on_all_ranks("extract", work)
    kept = labels if times is None else {**labels, "time": times}
    return on_main_process("extract", lambda: join_rows(out, share.count, kept, images.paths))


def evaluate_checkpoint(
    build: Callable[[], nn.Module],
    checkpoint: str | os.PathLike[str],
    images: ImageList,
    out: str | os.PathLike[str],
    protocol: str = "full",
    *,
    mode: str | None = "e2e",
    num_classes: int | None = None,
    adapter: str | Adapter = "auto",
    config: MixERConfig | None = None,
    output: str | None = None,
    reading: Reading | None = None,
    device: torch.device | str = "cpu",
) -> Results:
    """Builds, wraps, loads, extracts and evaluates: a trained checkpoint in one call.

    Args:
        build: makes the network; this and the next are :func:`mixer_plugin.attach.restore`'s.
        checkpoint: the loop's own file.
        images: these, ``out``, ``output`` and ``reading`` are :func:`extract_to_file`'s.
        out: the file of features that is written.
        protocol: ``evaluate``'s.
        mode: as ``restore``; None: the model's own embedding, without MixER.
        num_classes: as ``restore``, and so ``adapter`` and ``config``.
        adapter: of the wrap, or of a bare model without ``output``.
        config: of the wrap.
        output: of a bare model.
        reading: how images are read and run.
        device: where the model runs.

    Returns:
        Rows of the rules ``erased`` and, with MixER, ``mixer``.

    Raises:
        MixERError: The checkpoint does not fit, an image cannot be read, or the protocol does not
            fit the images.
        OSError: A file cannot be read or written.
    """
    wrap = {"num_classes": num_classes, "adapter": adapter, "config": config}
    model = restore(build, checkpoint, mode, **wrap).to(device)  # type: ignore[arg-type]
    bare = {"bare": mode is None, "output": output, "adapter": adapter}
    extract_to_file(model, images, out, reading=reading, **bare)  # type: ignore[arg-type]
    features = FeatureSet.load(out)
    return evaluate(features, protocol, rules=("erased",) if mode is None else None)


@contextlib.contextmanager
def runner(
    model: nn.Module,
    reading: Reading,
    where: torch.device,
    bare: bool = False,
    output: str | None = None,
    adapter: str | Adapter = "auto",
) -> Iterator[Callable[[Tensor, Sequence[Tensor]], FeatureSet]]:
    """Within the block, a function of pixels, uint8 [B, 3, H, W], and labels to their features.

    Labels are (ids, cams, modality), int64 [B]. It is called by one thread at a time.
    """
    kind, enabled = _PRECISIONS[reading.precision], reading.precision != "fp32"
    opened: Any = readable(model, adapter) if output is None else output_of(model, output)
    with opened as net:

        @torch.no_grad()
        def run(chunk: Tensor, labels: Sequence[Tensor]) -> FeatureSet:
            pixels = normalise(chunk.to(where), reading)
            with torch.autocast(where.type, kind, enabled=enabled):
                if output is None:
                    return embed_batch(net, (pixels, *labels), where, heads=not bare)[0]
                ids, cams, modality = labels
                return FeatureSet(net(pixels).float().cpu(), None, ids, cams, modality)

        yield run
