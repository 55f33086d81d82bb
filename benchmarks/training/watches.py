"""Watches over a training: a confusion loss above chance, numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mixer_plugin.distributed.processes import all_processes
from mixer_plugin.errors import MixERRuntimeError

_WINDOW = 200
_MARGIN = 0.02  # a window's mean is this exact; at chance the loss is ln 2


class ConfusionWatch:
    """Says once when the confusion loss stays above ln 2.

    At ln 2 the modality classifier guesses. Above it for long, the reversed gradient pushes the
    trunk faster than the classifier follows: the feature then runs away from the classifier, and
    does not lose its modality.

    Args:
        warn: gets the advice.
        window: training steps of a mean.
    """

    def __init__(self, warn: Callable[[str], None], window: int = _WINDOW) -> None:
        self._warn, self._window = warn, window
        self._values: list[Tensor] = []
        self._done = False

    def see(self, confusion: Tensor | None) -> None:
        """Takes in one step's confusion loss, a detached scalar."""
        if confusion is None or self._done:
            return
        self._values.append(confusion)
        if len(self._values) < self._window:
            return
        mean = float(torch.stack(self._values).mean())
        self._values = []
        if mean > math.log(2) + _MARGIN:
            self._done = True
            self._warn(
                f"The confusion loss was {mean:.3f} on average over {self._window} steps, above "
                "ln 2 = 0.693, that of a modality classifier that guesses. The reversed gradient "
                "outruns the classifier, and the erased feature may keep its modality. Lower "
                "mixer.reversal, raise mixer.reversal_warmup, or lower mixer.lambda_confusion."
            )


class FiniteWatch:
    """Stops a training whose network holds NaN or infinity, which no later step mends.

    A loss alone may be infinite for a step: in fp16 the scaler leaves that step out. No step waits
    for the device: losses are kept, and looked at with the network every ``window`` steps.

    Args:
        model: the network in training.
        window: steps between two looks.
    """

    def __init__(self, model: nn.Module, window: int) -> None:
        self._model, self._window = model, window
        self._seen: list[tuple[int, dict[str, Tensor]]] = []

    def see(self, step: int, loss: Tensor, terms: Mapping[str, Tensor], *, look: bool) -> None:
        """Takes in one step's loss and terms, detached scalars; all processes call it together.

        Args:
            step: counted from 1, just made.
            loss: of the step.
            terms: what it is the sum of.
            look: look now: what is saved next has to be finite.

        Raises:
            MixERRuntimeError: a weight or buffer is not finite; names the terms that were first.
        """
        self._seen.append((step, {**terms, "the loss": loss}))
        if not look and len(self._seen) < self._window:
            return
        seen, self._seen = self._seen, []
        state = (t for t in self._model.state_dict().values() if t.is_floating_point())
        if not all_processes().any(not all(bool(t.isfinite().all()) for t in state)):
            return
        raise MixERRuntimeError(
            f"After step {step} the network holds NaN or infinity. {_first(seen)} The same "
            "settings would come to the same: lower the learning rate, lengthen its warmup, set "
            "recipe.clip, or train in bf16 or fp32 where it was fp16."
        )


def _first(seen: list[tuple[int, dict[str, Tensor]]]) -> str:
    """Which terms were not finite first."""
    for step, values in seen:
        names = [name for name, value in values.items() if not bool(value.isfinite().all())]
        if names:
            return f"First not finite, at step {step}: {', '.join(names)}."
    return "Its losses were still finite: gradients were too large."
