"""The benchmark's own training loop: exact to repeat, interrupt and resume.

No trainer of a library: none resumes within an epoch to the same bits, and none keeps a loss scale
of its own for base and heads, without which the heads could change how the base trains.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.baselines.loops import Batch, Loop, Step
from mixer_plugin.benchmarks.training.checkpoint import (
    RunState,
    load_checkpoint,
    save_checkpoint,
    steps_in,
)
from mixer_plugin.benchmarks.training.ddp import (
    agreed,
    as_in_first,
    distributed,
    drop_untouched,
    exchanging,
    means,
    reached,
    same_step,
    spanning,
    touching,
)
from mixer_plugin.benchmarks.training.ema import weight_average
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.precision import (
    OptimPart,
    autocast,
    backward,
    make_parts,
    step_parts,
    zero_grads,
)
from mixer_plugin.benchmarks.training.public_recipe import Plan
from mixer_plugin.benchmarks.training.recipe import Recipe, plain
from mixer_plugin.benchmarks.training.signals import Interrupted, noted_signals
from mixer_plugin.benchmarks.training.steps import cut, seed_step
from mixer_plugin.benchmarks.training.train_log import open_log
from mixer_plugin.benchmarks.training.watches import ConfusionWatch, FiniteWatch
from mixer_plugin.data.loading.batches import LoadedBatch, load_batches
from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.distributed.processes import (
    all_processes,
    count_processes,
    lost_named,
    rank,
    waited,
)
from mixer_plugin.errors import MixERRuntimeError
from mixer_plugin.forward.mixed import MixedModule

__all__ = ["Recipe", "TrainingSet", "fit"]


@dataclass(frozen=True)
class TrainingSet:
    """Decoded training images.

    Attributes:
        images: uint8 [N, 3, H, W].
        labels: int64 [N] in [0, C).
        modality: int64 [N], 0 visible, 1 infrared.
        cams: int64 [N].
        shapes: uint8 [N, 3, H, W], their body shapes, for the baseline that needs them.
    """

    images: Tensor
    labels: Tensor
    modality: Tensor
    cams: Tensor
    shapes: Tensor | None = None

    @property
    def classes(self) -> int:
        """Number of identities."""
        return int(self.labels.max()) + 1


def fit(
    model: nn.Module,
    parameters: list[nn.Parameter],
    loop: Loop,
    data: TrainingSet,
    plan: Plan,
    *,
    seed: int,
    options: TrainingOptions | None = None,
    checkpoint: Path | None = None,
    log: tuple[Path, str] | None = None,
    run: Mapping[str, Any] | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    on_warning: Callable[[str], None] = warnings.warn,
) -> None:
    """Trains a model in place.

    Batches, augmentation and the global random state at step t are functions of (seed, t) alone,
    in one of several processes of (seed, t, rank), so a run continued from a checkpoint ends in the
    same bits as one that was never interrupted. A first SIGTERM or Ctrl-C saves after the running
    step and raises; a second one ends at once.

    Where ``torch.distributed`` is initialised, every process calls this with the same arguments.
    Each trains on its identities of every batch, by DDP; the first one writes and is called back. A
    signal to one of them stops all at the same step. A checkpoint may be continued by another
    number of processes. Continued by two, as it was begun, it ends in the same bits; by more it
    may not, since DDP adds up gradients in another order after its first step.

    Args:
        model: in training mode throughout.
        parameters: what the optimizer steps.
        loop: the codebase's loop: row order, losses, what happens at an epoch's start and after a
            step.
        data: the training images.
        plan: batch size, length, optimizer, rates, augmentation.
        seed: of batches and augmentation.
        options: how it runs; None: the defaults.
        checkpoint: file that is written every ``options.checkpoint_every`` steps and after the last
            one, and read at the start if it exists. Whoever has kept the result removes it with
            ``remove_checkpoint``; until then a repetition trains nothing.
        log: folder and name of the log that ``options.log`` asks for; None: no log.
        run: what else the result depends on, as plain values. A checkpoint of a run that differs in
            these, the plan, the options or the seed is refused.
        on_step: called with (step, loss) after each step; the loss is detached, and of this
            process's rows.
        on_warning: called with advice, at most once a run.

    Raises:
        MixERError: for options that do not go together, with the machine or with the number of
            processes, a checkpoint that cannot be used, or a backend that cannot compile the
            network.
        MixERRuntimeError: the network holds NaN or infinity; names the loss terms that were first.
        LostProcessError: another process has ended, or did not come; says from which step the
            training can be continued.
        Interrupted: after a signal, once the checkpoint is written; a ``KeyboardInterrupt``.
    """
    options = TrainingOptions() if options is None else options
    precision = options.precision or plan.precision
    mixer = model.mixer if isinstance(model, MixedModule) else None
    apart = mixer is not None and mixer.mode == "f" and not mixer.config.frozen_base
    options.check(p=plan.p, precision=precision, apart=apart)
    sampler = IdentitySampler(
        data.labels,
        data.modality,
        p=plan.p,
        k=plan.k,
        order=loop.rows,
        iterations=plan.iterations,
        seed=seed,
        rank=rank(),
        world=count_processes(),
    )
    place = options.place()
    model.to(place)
    loop.to(place)
    step = 0

    def lost(error: BaseException) -> str:
        return f"Step {step + 1} of {plan.iterations} was not finished. {waited(error)} " + (
            _left(checkpoint)
        )

    with contextlib.ExitStack() as stack:
        # First: a signal that ends what a lost process leaves must not hide that it was lost.
        came = stack.enter_context(noted_signals(patient=count_processes() > 1))
        stack.enter_context(lost_named(lost))
        stack.enter_context(spanning(model, parameters, options.gather))
        loop.start_epoch(model, 0)  # a loop may make here what a checkpoint then fills
        parts = make_parts(model, parameters, plan, precision, options.device)
        average = None if options.ema is None else weight_average(model, options.ema)
        identity = {"seed": seed, "recipe": plan.to_dict(), "options": options.numbers()}
        state = RunState(model, loop, parts, average, plain({**identity, "run": dict(run or {})}))
        step = start = _resume(checkpoint, state)
        model.train()
        if options.channels_last:
            model.to(memory_format=torch.channels_last)
        net: Any = distributed(model, place)
        if options.compile is not None:
            with _compiler_errors(options.compile):
                net = torch.compile(net, backend=options.compile)
        epoch_steps = plan.epoch_steps(len(data.labels))
        first = rank() == 0
        watch = ConfusionWatch(on_warning if first else lambda advice: None)
        finite = FiniteWatch(model, options.log_every)
        writer = open_log(options.log, *log, start) if log and first else None
        logged = log is not None and options.log != "none"
        if writer:
            stack.enter_context(contextlib.closing(writer))
        made = load_batches(
            data.images,
            data.modality,
            sampler,
            range(start, plan.iterations),
            augmentation=plan.augmentation,
            seed=seed,
            shapes=data.shapes,
            device=place,
        )
        batches = stack.enter_context(contextlib.closing(made))
        for loaded in batches:
            step = loaded.step
            if step == start or step % epoch_steps == 0:
                loop.start_epoch(model, step // epoch_steps)
            batch = _batch(data, loaded, options)
            seed_step(seed, step, rank())
            for part in parts:
                plan.set_rates(part.optimizer, step)
            loss, terms = _gradients(net, loop, batch, parts, precision, options)
            step_parts(parts, plan.clip)
            loop.stepped(model)
            if average is not None:
                average.update_parameters(model)
            if mixer is not None and mixer.mode == "e2e":  # mode "f" reverses no gradient
                watch.see(terms.get("mixer/confusion"))
            if logged and (step + 1) % options.log_every == 0:
                scalars = means(_scalars(loss, terms, parts))
                if writer:
                    writer.write(step + 1, scalars)
            number = agreed(came())
            done = step + 1 == plan.iterations
            saves = done or (step + 1) % options.checkpoint_every == 0
            finite.see(step + 1, loss, terms, look=saves or bool(number))
            if number:
                if checkpoint and first:
                    save_checkpoint(checkpoint, state, step + 1)
                agreed(None)  # nobody ends before it is written: torchrun would end the others
                saved = f"{checkpoint} holds it" if checkpoint else "nothing was saved"
                raise Interrupted(number, f"Stopped after step {step + 1}; {saved}.")
            if on_step is not None and first:
                on_step(step, loss)
            if checkpoint and first and saves:
                save_checkpoint(checkpoint, state, step + 1)
        if average is not None:
            model.load_state_dict(average.module.state_dict())
        as_in_first(model.state_dict())  # what does not span the processes, such as other norms


def _resume(path: Path | None, state: RunState) -> int:
    """Number of steps that a checkpoint has made; 0 if there is none."""
    share = all_processes()
    if path is None or not share.any(rank() == 0 and path.exists()):
        return 0
    if not path.exists():
        raise MixERRuntimeError(
            f"Process {rank()} does not see {path}, which the first process sees. Processes on "
            "several machines need a folder that all of them share."
        )
    start = load_checkpoint(path, state)
    if not same_step(start):
        raise MixERRuntimeError(
            f"Process {rank()} found {start} steps in {path}, and another process another number. "
            "Its folder is not shared by all processes, or they do not see its changes yet: start "
            "again."
        )
    return start


def _left(checkpoint: Path | None) -> str:
    """Where an interrupted training can resume."""
    if checkpoint is None:
        return "There is no checkpoint."
    steps = steps_in(checkpoint)
    if steps is None:
        return f"No checkpoint was written to {checkpoint} yet: this training begins anew."
    return (
        f"{checkpoint} holds {steps} steps, and the training goes on from there: table3 with "
        "--resume, with any number of processes."
    )


def _gradients(
    net: nn.Module,
    loop: Loop,
    batch: Batch,
    parts: list[OptimPart],
    precision: str,
    options: TrainingOptions,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of a batch, added up over its parts; its loss and terms, detached."""
    zero_grads(parts)
    total, terms = torch.zeros((), device=options.place()), {}
    several = count_processes() > 1
    parameters = [p for part in parts for p in part.parameters]
    found = torch.zeros(len(parameters), dtype=torch.bool)
    pieces = cut(batch, options.accumulate, loop.rows)
    for number, piece in enumerate(pieces, start=1):
        last = number == len(pieces)
        with _compiler_errors(options.compile), exchanging(net, last):
            with autocast(precision, options.device):
                step: Step = loop(net, piece)
            share = step.loss if options.accumulate == 1 else step.loss / options.accumulate
            if several:
                here = reached(share, parameters)
                found |= here
                share = touching(share, parameters, here) if last else share
            backward(parts, share)
        total = total + share.detach()
        terms = dict(step.terms)
    if several:
        drop_untouched(parameters, found)
    return total, terms


@contextlib.contextmanager
def _compiler_errors(backend: str | None) -> Iterator[None]:
    if backend is None:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise MixERRuntimeError(
            f"torch.compile with backend {backend!r} failed: {first[0]}. Leave training.compile "
            "out to train without it; inductor needs a C++ compiler (g++ or clang++), and Triton "
            "on a GPU."
        ) from error


def _scalars(loss: Tensor, terms: Mapping[str, Tensor], parts: list[OptimPart]) -> dict[str, float]:
    scalars = {"loss": float(loss)}
    for part in parts:
        rates = {group["lr"] for group in part.optimizer.param_groups if group["params"]}
        scalars[f"lr/{part.name}"] = max(rates)
        if part.scaler.is_enabled():
            scalars[f"scale/{part.name}"] = part.scaler.get_scale()
    return scalars | {name: float(value) for name, value in terms.items()}


def _batch(data: TrainingSet, loaded: LoadedBatch, options: TrainingOptions) -> Batch:
    """A loaded batch with the labels of its rows, where and as the options want it."""
    own = (values[loaded.rows] for values in (data.labels, data.modality, data.cams))
    images, labels, modality, cams = (
        values.to(options.place(), non_blocking=True) for values in (loaded.images, *own)
    )
    if not options.channels_last:
        images = images.contiguous()
    # Shapes have never been channels-last here: the committed results depend on it in the last bit.
    shapes = None if loaded.shapes is None else loaded.shapes.contiguous()
    return Batch(images, labels, modality, cams, shapes)
