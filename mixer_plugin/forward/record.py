"""The record of one forward of a wrapped model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from mixer_plugin.distributed.gather import gather_rows
from mixer_plugin.errors import MixERValueError
from mixer_plugin.forward.routes import Routes


@dataclass(frozen=True)
class MixERFeatures:
    """The features of one forward.

    Attributes:
        erased: [B, De], after the base's neck.
        related: [B, Dr], after the related necks.
        fused: [B, De + Dr], the L2-normalised halves side by side (paper sec. 3.3).
        modality: [B] int64, 0 visible, 1 infrared.
        rows: [B] int64, the batch rows these are of.
    """

    erased: Tensor
    related: Tensor
    fused: Tensor
    modality: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Record:
    """The tensors of one forward that the losses need.

    Attributes:
        stage_input: what the related heads take, e.g. [B, C, H, W]; its gradient cut or reversed as
            ``route_gradients`` says.
        erased_before: [B, De], the erased feature before the neck; cut in the same way.
        erased_after: [B, De], after the neck.
        modality: [B] int64, 0 visible, 1 infrared; None as long as only the loop knows it.
        stage_output: the base's own stage map, where a low-rank path or cross-attention reads it.
        pooling: what else the adapter's ``pool`` takes, by name.
        related_before: [B, Dr], the related feature before its neck; None before the heads ran.
        related_after: [B, Dr], after its neck.
        idle: heads that had no row in this batch.
        routes: where its gradients go, as decided for its forward; None of cached maps before the
            heads ran.
        step: int64 scalar, the losses taken before its forward; None as ``routes``.
        base_nodes: where the backward of the base's outputs begins.
        graph: whether gradients were recorded when its forward ran.
        spent: whether its loss was taken.
    """

    stage_input: Tensor
    erased_before: Tensor
    erased_after: Tensor
    modality: Tensor | None
    stage_output: Tensor | None = None
    pooling: Mapping[str, Any] = field(default_factory=dict)
    related_before: Tensor | None = None
    related_after: Tensor | None = None
    idle: tuple[nn.Module, ...] = ()
    routes: Routes | None = None
    step: Tensor | None = None
    base_nodes: tuple[Node, ...] = ()
    graph: bool = True
    spent: bool = False

    def after_loss(self) -> Record:
        """The features alone, without the stage's maps and the graph."""
        before, after = self.related_before, self.related_after
        return Record(
            stage_input=self.stage_input.new_empty(0),
            erased_before=self.erased_before.detach(),
            erased_after=self.erased_after.detach(),
            modality=self.modality,
            related_before=None if before is None else before.detach(),
            related_after=None if after is None else after.detach(),
            routes=self.routes,
            step=self.step,
            spent=True,
        )


def gather_record(record: Record, labels: Tensor, idle: Tensor) -> tuple[Record, Tensor]:
    """Joins the records of all processes; features become float32.

    Args:
        record: this process's, with its modality and without a need for its stage's map.
        labels: int64 [B].
        idle: scalar zero that depends on the parameters which this process's batch left idle. It
            joins before the gather: behind it, their gradients would be ready early on this process
            alone, and DDP would send them while another process gathers.

    Returns:
        The record and the labels of all rows.
    """
    values = [record.erased_before.float(), record.erased_after.float()]
    if record.related_before is not None and record.related_after is not None:
        values += [record.related_before.float() + idle, record.related_after.float()]
    assert record.modality is not None
    *values, labels, modality = gather_rows(*values, labels, record.modality)
    before, after = values[2:] if len(values) > 2 else (None, None)
    whole = dataclasses.replace(
        record,
        erased_before=values[0],
        erased_after=values[1],
        modality=modality,
        related_before=before,
        related_after=after,
    )
    return whole, labels


def nodes_of(output: Any) -> tuple[Node, ...]:
    """Where the backward of a forward's outputs begins; empty while a compiler traces."""
    if torch.compiler.is_compiling():
        return ()
    values = (value for value in tree_leaves(output) if isinstance(value, Tensor))
    return tuple(value.grad_fn for value in values if value.grad_fn is not None)


def check_rows(
    name: str, values: Tensor, rows: int, limit: int, device: torch.device, *, least: int = 0
) -> Tensor:
    """Checks one integer per row in [least, limit).

    Raises:
        MixERValueError: says what was given and what was expected.
    """
    values = torch.as_tensor(values, device=device)
    if values.dim() != 1 or values.shape[0] != rows:
        raise MixERValueError(
            f"{name} has shape {list(values.shape)}; the forward had {rows} rows. "
            f"Pass one {name} value per row, in the same order."
        )
    if values.is_floating_point() or values.is_complex():
        raise MixERValueError(f"{name} is {values.dtype}; expected integers.")
    values = values.long()
    if rows and not torch.compiler.is_compiling():
        low, high = int(values.min()), int(values.max())
        if low < least or high >= limit:
            outliers = ", or -1 for a row that no term counts" if least < 0 else ""
            advice = " Relabel identities contiguously from 0." if name == "labels" else ""
            if advice and low == -1 and least == 0:
                advice += " Where -1 marks rows without a cluster: model.mixer.set_num_classes(n)."
            raise MixERValueError(
                f"{name} lie in [{low}, {high}]; expected [0, {limit - 1}]{outliers}.{advice}"
            )
    return values
