"""Warns, in training, of losses or heads that take no part in it; once per finding and model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.errors import MixERRuntimeError, MixERWarning
from mixer_plugin.forward.mixed import RESET
from mixer_plugin.forward.record import Record
from mixer_plugin.forward.routes import Routes

EARLY = 3  # the training forward that tells of idle heads if the base's stage has moved
PATIENCE = 50  # training forwards that are looked at, and after which idle heads are told of


class SelfCheck:
    """What was seen of one model's heads at the start, and what was told since.

    Args:
        heads: as they were made, with the parameters that are meant to train.
    """

    def __init__(self, heads: nn.Module) -> None:
        self.start = _fingerprint(heads)
        self.trainable = [name for name, p in heads.named_parameters() if p.requires_grad]
        self.forwards = 0
        self.not_recomputed = 0  # forwards since activation checkpointing ran one again
        self.told: set[str] = set()
        self._norms = (0.0, 0.0)  # of the gradients found last: joint, and the base's
        self._clipped = 0  # forwards in a row that found the same joint norm

    def tell(self, finding: str) -> None:
        """Warns, once."""
        if finding not in self.told:
            self.told.add(finding)
            warnings.warn(finding, MixERWarning, stacklevel=2)

    def untouched(self, heads: nn.Module) -> bool:
        """Whether the heads are, bit for bit, what they were made as."""
        return _fingerprint(heads) == self.start

    def stale(self, heads: nn.Module, stage: nn.Module | None) -> bool:
        """Whether the heads are still clones of a stage that has changed since.

        Args:
            heads: of the model.
            stage: the base's stage that they are clones of, None if they are not clones.
        """
        return stage is not None and self.untouched(heads) and _differs(heads, stage)

    def before_forward(
        self, heads: nn.Module, find_stage: Callable[[], nn.Module | None], last: Record | None
    ) -> None:
        """Looks at what a training forward finds.

        Args:
            heads: of the model.
            find_stage: gives the stage of :meth:`stale`; called where it is looked at.
            last: the record of the forward before.
        """
        if last is not None and last.graph and last.routes is not None and not last.spent:
            self.tell(
                "A training forward was followed by another one before mixer_loss was called: the "
                "first one trains no head. Call mixer_loss after each forward, or run a forward "
                "that is not trained on under torch.no_grad()."
            )
        self.forwards += 1
        self.not_recomputed += 1
        if self.forwards == 1:
            self._look_at_start(heads, find_stage())
        elif self.trainable and (
            (self.forwards == EARLY and self.stale(heads, find_stage()))
            or (self.forwards == PATIENCE and self.untouched(heads))
        ):
            self.tell(
                "After several training forwards the heads are what they were made as: no "
                "optimizer steps them. check_optimizer(model, optimizer) says what is missing; "
                "mixer_param_groups(model, lr) makes their group."
            )

    def before_recomputation(self, last: Record) -> tuple[Routes, Tensor]:
        """The routes and the step of the forward that activation checkpointing runs again.

        Raises:
            MixERRuntimeError: if it may be another one than the last.
        """
        if self.not_recomputed > 1:
            raise MixERRuntimeError(
                "Several forwards were checkpointed as a whole before one backward: MixER cannot "
                "tell which of them runs again. Call backward after each, or checkpoint the "
                "model's stages in place of the whole model."
            )
        self.not_recomputed = 0
        assert last.routes is not None
        assert last.step is not None
        return last.routes, last.step

    def before_loss(self, modality: Tensor) -> None:
        """Looks at the rows, [B] int64, of a forward whose loss no other process joins."""
        if self.forwards <= PATIENCE and bool((modality == modality[:1]).all()):
            self.tell(
                "A training batch holds rows of one modality: what MixER compares across "
                "modalities trains nothing in it. Call the model once on rows of both, and "
                "mixer_loss after it."
            )

    def look_at_clipping(self, model: nn.Module, mixer: nn.Module) -> None:
        """Tells if one norm clips base and heads together: then the base depends on the heads.

        Of what the parameters hold from the step before: the joint norm of clipped gradients is the
        same in each step, the base's own is not.
        """
        if self.forwards > PATIENCE:
            return
        own_heads = {id(p) for p in mixer.parameters()}
        held = [p for p in model.parameters() if id(p) not in own_heads]
        heads, base = (
            [_local(p.grad) for p in part if p.grad is not None]
            for part in (list(mixer.parameters()), held)
        )
        if not base or not heads or any(g.layout != torch.strided for g in (*base, *heads)):
            return  # nothing to compare, or sparse, which has no such norm
        own = float(torch.nn.utils.get_total_norm(base))
        joint = math.hypot(own, float(torch.nn.utils.get_total_norm(heads)))
        same = joint > 0 and math.isclose(joint, self._norms[0], rel_tol=1e-4)
        moved = not math.isclose(own, self._norms[1], rel_tol=1e-3)
        self._clipped = self._clipped + 1 if same and moved else 0
        self._norms = joint, own
        if self._clipped == 2:
            self.tell(
                'In mode "f" the gradients of base and heads are clipped by one norm, so that the '
                "base does not train as without the plug-in. Clip base_parameters(model) and "
                "mixer_parameters(model) apart; in Lightning, in configure_gradient_clipping."
            )

    def frozen(self, heads: nn.Module) -> list[str]:
        """Names of parameters that were made to train and no longer do."""
        now = {name for name, p in heads.named_parameters() if p.requires_grad}
        return [name for name in self.trainable if name not in now]

    def _look_at_start(self, heads: nn.Module, stage: nn.Module | None) -> None:
        if frozen := self.frozen(heads):
            self.tell(
                f"{len(frozen)} of {len(self.trainable)} MixER parameters do not require a "
                f"gradient any more ({frozen[0]}, …): a loop that freezes by name froze them. "
                "Give them requires_grad_(True), as model.mixer.requires_grad_(True) does."
            )
        if self.stale(heads, stage):
            self.tell(f"The base's stage has changed since wrap_with_mixer cloned it. {RESET}")


def check_graph(record: Record) -> None:
    """Raises :class:`MixERRuntimeError` for a loss of a forward that recorded no gradients."""
    if not record.graph and torch.is_grad_enabled():
        raise MixERRuntimeError(
            "The forward ran without gradients (under torch.no_grad, or checkpointed as a whole "
            "with use_reentrant=True), and its loss would train nothing in front of it. Run it "
            "with gradients; checkpoint with use_reentrant=False, or the model's stages alone."
        )


def check_statistics(heads: nn.ModuleDict, record: Record) -> None:
    """Raises :class:`MixERRuntimeError` for reset statistics that this forward does not fill again.

    ``torch.optim.swa_utils.update_bn`` resets those of all norms and runs training forwards without
    gradients. Heads whose rows' modality only the loss knows do not run in them.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or record.modality is not None:
        return
    norms: list[Any] = [head.norm for head in heads.values()]
    if norms and record.step and not any(int(norm.num_batches_tracked) for norm in norms):
        raise MixERRuntimeError(
            "The statistics of the heads' norms were reset (by update_bn?), and this forward does "
            "not know its rows' modality, without which the heads do not run. Give the adapter the "
            "modality (GenericAdapter(…, modality=…)), or keep the statistics: "
            "update_bn(loader, unwrap_mixer(copy.deepcopy(model)))."
        )


def _differs(heads: nn.Module, stage: nn.Module) -> bool:
    own = {name: _local(value) for name, value in stage.named_parameters()}
    pairs = (
        (_local(value), own[name])
        for head in heads.heads.values()  # type: ignore[operator]
        for name, value in head.stage.named_parameters()
        if name in own
    )
    return any(a.shape == b.shape and not torch.equal(a, b.to(a)) for a, b in pairs)


def _local(value: Tensor) -> Tensor:
    """What this process holds of a tensor: a shard of a DTensor, all of any other."""
    value = value.detach()
    return value.to_local() if hasattr(value, "to_local") else value


def _fingerprint(module: nn.Module) -> list[int]:
    """The bits of every parameter, summed: the same on every device."""
    found = []
    for parameter in module.parameters():
        value = _local(parameter)
        if value.is_meta or not value.numel():
            continue
        value = torch.view_as_real(value) if value.is_complex() else value
        found.append(int(value.contiguous().view(_INTEGERS[value.element_size()]).long().sum()))
    return found


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
