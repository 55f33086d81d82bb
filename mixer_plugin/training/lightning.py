"""A Lightning callback that evaluates every few epochs; needs the extra ``lightning``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from mixer_plugin.errors import MissingExtraError, MixERTypeError, check_least
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.evaluation.settings import check_settings
from mixer_plugin.forward.mixed import MixedModule
from mixer_plugin.matching.rules import check_rules
from mixer_plugin.training.best import keep_best
from mixer_plugin.training.evaluation import check_monitor, evaluate_in_training

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback  # type: ignore[assignment]
    except ImportError as error:
        raise MissingExtraError("lightning", "lightning", "The Lightning callback") from error


class MixedGalleryEvaluation(Callback):
    """Evaluates the wrapped model at the end of every ``every``-th epoch.

    The figures go to all loggers of the trainer and into ``trainer.callback_metrics``, where
    ``ModelCheckpoint(monitor="mix/mAP", mode="max")`` and ``EarlyStopping`` find them. The training
    takes the same steps as without; see :func:`evaluate_in_training`.

    Args:
        loader: batches as ``extract_features`` takes them, the same on every process.
        protocol: as of :func:`evaluate_in_training`, like the four below.
        rules: rules to score by.
        settings: settings to evaluate; None: all that the protocol has.
        query: ``infrared`` or ``visible``; None: the protocol's.
        trials: number of gallery draws; None: the protocol's.
        every: epochs from one evaluation to the next.
        best: file of the best checkpoint (:func:`keep_best`); None: none is kept.
        monitor: name of its figure.

    Raises:
        MixERValueError: for an unknown rule, setting or figure, or ``every`` < 1.
        MixERTypeError: in training, if the LightningModule holds no wrapped model, or several.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        protocol: str | Protocol = "full",
        *,
        rules: Sequence[str] = ("mixer",),
        settings: Sequence[str] | None = None,
        query: str | None = None,
        trials: int | None = None,
        every: int = 1,
        best: str | os.PathLike[str] | None = None,
        monitor: str = "mix/mAP",
    ) -> None:
        super().__init__()
        check_rules(rules)
        check_settings(settings or ())
        check_least("every", every)
        check_monitor(monitor, rules)
        self.loader, self.every = loader, every
        self.options: dict[str, Any] = {"protocol": protocol, "rules": rules, "settings": settings}
        self.options |= {"query": query, "trials": trials}
        self.path, self.monitor = best, monitor
        self.best: float | None = None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Evaluates, logs and keeps the best."""
        if (trainer.current_epoch + 1) % self.every:
            return
        model = _wrapped_in(pl_module)
        figures = evaluate_in_training(model, self.loader, **self.options)
        pl_module.log_dict(figures)
        if self.path is not None:
            beside = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            kept: dict[str, Any] = {"monitor": self.monitor, "best": self.best, **beside}
            self.best = keep_best(model, figures, self.path, **kept)

    def state_dict(self) -> dict[str, Any]:
        """The best figure so far, in the trainer's checkpoints."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the best figure of the training that is resumed."""
        self.best = state_dict["best"]


def _wrapped_in(module: nn.Module) -> nn.Module:
    found = {name: part for name, part in module.named_modules() if isinstance(part, MixedModule)}
    if len(found) != 1:
        names = f": {', '.join(map(repr, found))}" if found else ""
        raise MixERTypeError(
            f"{type(module).__name__} holds {len(found)} models wrapped by wrap_with_mixer{names}; "
            "expected one. Wrap the network in the LightningModule's constructor."
        )
    (name,) = found
    return module.get_submodule(name)
