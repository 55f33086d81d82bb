"""How training runs, whatever the recipe: precision, memory, averaging, logs, weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mixer_plugin.distributed.processes import count_processes
from mixer_plugin.errors import MixERValueError, closest
from mixer_plugin.io.options import check_options, option

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The ``training:`` section of a configuration.

    Attributes:
        precision: ``fp32``, or autocast to ``bf16`` or ``fp16`` (with loss scaling); None: as the
            recipe says.
        device: ``cpu`` or ``cuda``.
        channels_last: memory format of weights and images.
        accumulate: parts that a batch is cut into, whole identities each; gradients add up over
            them. Memory falls, and the step stays the same where the loss is a mean over rows that
            do not see each other: not with batch normalisation, whose statistics are then a part's,
            nor with losses over the pairs of a batch (triplet, centre, fusion).
        gather: in several processes, batch normalisation and the losses that compare rows take in
            the rows of all, so that they train as one process would; false: each its own rows.
        compile: backend of ``torch.compile``, such as ``inductor``; None: not compiled.
        ema: decay of a moving average of all weights and statistics, which takes their place when
            training ends; None: no average.
        checkpoint_every: steps between two checkpoints.
        log: scalars beside each cell's results: ``jsonl``, ``tensorboard`` or ``none``.
        log_every: steps between two records.
        weights: the trunk's: ``imagenet`` (torchvision's; of ``efficientnet-lite0`` those of the
            extra ``pretrained``), a file with such names, or None for random ones.
        weights_missing: if they cannot be had: ``error``, or ``none`` to go on with random ones.
    """

    precision: str | None = option(None, choices=PRECISIONS)
    device: str = option("cpu", choices=("cpu", "cuda"))
    channels_last: bool = option(True)
    accumulate: int = option(1, minimum=1)
    gather: bool = option(True)
    compile: str | None = option(None, noun="a backend's name, e.g. inductor")
    ema: float | None = option(None, noun="a decay, e.g. 0.999,", above=0, below=1)
    checkpoint_every: int = option(200, minimum=1)
    log: str = option("jsonl", choices=("jsonl", "tensorboard", "none"))
    log_every: int = option(25, minimum=1)
    weights: str | None = None
    weights_missing: str = option("error", choices=("error", "none"))

    def __post_init__(self) -> None:
        check_options(self, "training")
        backends = torch.compiler.list_backends
        if self.compile is not None and self.compile not in backends(exclude_tags=()):
            raise MixERValueError(
                f"training.compile is {self.compile!r}; expected a backend's name, or none."
                f"{closest(self.compile, backends())}"
            )
        if self.weights_missing == "none" and self.weights is None:
            raise MixERValueError(
                "training.weights_missing is 'none' and there are no training.weights to miss. "
                "Give them, or leave it out."
            )

    def check(self, *, p: int, precision: str, apart: bool) -> None:
        """Finds what does not go together, or with the machine and the processes there are.

        Args:
            p: identities per batch.
            precision: the recipe's, where ``precision`` is None.
            apart: base and heads are trained with loss scales of their own: mode "f", with the base
                in training.

        Raises:
            MixERValueError: says what to change.
        """
        processes = count_processes()
        if self.device == "cuda" and not torch.cuda.is_available():
            raise MixERValueError(
                "training.device is 'cuda' and PyTorch sees no GPU here. Set training.device: cpu, "
                "or install a build of PyTorch for this machine's GPU."
            )
        if p % processes:
            raise MixERValueError(
                f"{processes} processes cannot share a batch of {p} identities evenly, each "
                "identity whole. Make the recipe's p a multiple of the number of processes."
            )
        own = p // processes
        if own % self.accumulate:
            among = "a batch has" if processes == 1 else f"each of {processes} processes has"
            raise MixERValueError(
                f"training.accumulate is {self.accumulate} and {among} {own} identities, which "
                "stay whole; expected a divisor of their number."
            )
        if apart and (self.precision or precision) == "fp16" and (self.compile or processes > 1):
            raise MixERValueError(
                'In mode "f" with fp16, base and heads have loss scales of their own and a '
                "backward each. Neither a compiled network nor several processes (DDP) can do "
                "that. Set training.precision to bf16, or train in one process, not compiled."
            )

    def numbers(self) -> dict[str, Any]:
        """The options that a run's numbers depend on; the others may change on a resume."""
        names = ("precision", "device", "channels_last", "accumulate", "gather", "compile", "ema")
        return {name: getattr(self, name) for name in names}

    def place(self) -> torch.device:
        """The device, with the number of this process's GPU.

        The threads that load batches would otherwise take the first one.
        """
        cuda = self.device == "cuda"
        return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
