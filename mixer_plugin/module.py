"""``model.mixer``: the heads and the losses of one wrapped model."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters.stages import stage_parts
from mixer_plugin.config import MixERConfig, check_mode
from mixer_plugin.distributed.gather import count_processes
from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.forward.mixed import recomputing
from mixer_plugin.forward.pseudo_labels import OUTLIER, renew_classifiers, without_outliers
from mixer_plugin.forward.record import Record, check_rows, gather_record, nodes_of
from mixer_plugin.forward.routes import Routes, route_gradients
from mixer_plugin.forward.run_heads import read_taps, run_heads
from mixer_plugin.forward.self_check import SelfCheck, check_graph, check_statistics
from mixer_plugin.forward.taps import close_taps, collect_taps, open_taps
from mixer_plugin.forward.terms import adds, loss_terms, reversal
from mixer_plugin.heads import (
    BesideBase,
    LinearHead,
    RelatedHead,
    modality_classifier,
    private_random,
    reverse_gradient,
)

if TYPE_CHECKING:
    from mixer_plugin.adapters import Adapter, Call, Tap


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Forwards that are read inside :meth:`MixER.matching`."""

    records: list[Record]
    heads: bool


class MixER(nn.Module):
    """Related heads, modality classifier and losses; attached by ``wrap_with_mixer``.

    Attributes:
        mode: ``e2e`` (the losses' gradients reach the base) or ``f`` (none does); may be set at
            any time.
        config: the frozen :class:`MixERConfig`.
        adapter: the adapter of the base model.
        num_classes: number of training identities C.
        record: what the last forward left, or None.
        terms: the loss terms of the last loss, by name, detached float32 scalars.
        pseudo_labels: whether a row may be of nobody (-1), as after clustering.
    """

    counter: Tensor

    def __init__(
        self,
        make_head: Callable[[], RelatedHead],
        stage_taps: dict[str, Tap],
        *,
        adapter: Adapter,
        widths: tuple[int, int],
        num_classes: int,
        config: MixERConfig,
        mode: str,
        seed: int,
        like: Tensor,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.config = config
        self.mode = mode
        self.num_classes = num_classes
        self.seed = seed
        self.record: Record | None = None
        self.terms: dict[str, Tensor] = {}
        self.pseudo_labels = False
        self._stage_taps = stage_taps
        self._reading: _Reading | None = None
        self._draws: bool | None = None  # whether the heads draw random numbers, once seen
        erased, related = widths
        labels = (2 if config.doubles_labels else 1) * num_classes
        names = config.head_names
        self.heads = nn.ModuleDict({name: make_head() for name in names})
        for modality, head in enumerate(self.heads.values()):
            for part in head.parts():  # type: ignore[operator]
                if not isinstance(part, BesideBase):
                    adapter.prepare_clone(part, modality)
        self.identity = LinearHead(related, labels) if names else None
        # On random numbers of their own: what moves the base starts alike, whatever the heads are.
        with private_random(torch.device("cpu"), seed + 1):
            self.confusion = (
                modality_classifier(erased, config.confusion_hidden)
                if config.control != "erased-triplet"
                else None
            )
            self.erased_identity = (
                LinearHead(erased, num_classes) if adds(config, adapter, "identity") else None
            )
        # Counts training losses: the dropout's masks and the warm-up follow from it.
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))
        self.to(device=like.device, dtype=like.dtype)
        self.check = SelfCheck(self)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no record, since it holds the graph of a batch."""
        return {**self.__dict__, "record": None, "terms": {}, "_reading": None}

    @property
    def mode(self) -> str:
        """``e2e`` or ``f``."""
        return self._mode

    @mode.setter
    def mode(self, value: str) -> None:
        check_mode(value, self.config)
        self._mode = value

    @contextlib.contextmanager
    def matching(self, *, heads: bool = True) -> Iterator[list[Record]]:
        """Within this block every forward is read, in eval mode too; outside it eval costs nothing.

        Afterwards ``mixer_features(model)`` holds what the last forward in the block produced.

        Args:
            heads: False: the related heads do not run.

        Yields:
            A list that gets the record of every forward in the block.
        """
        before = self._reading
        self._reading = _Reading([], heads)
        try:
            yield self._reading.records
        finally:
            self._reading = before

    def set_num_classes(
        self, num_classes: int, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """For pseudo-labels: identity classifiers made anew, for ``num_classes`` >= 1 clusters.

        The ``optimizer`` that steps the heads forgets what it remembers of the old ones. From then
        on -1 is the label of a row that no term counts.

        Raises:
            MixERValueError: if ``num_classes`` is no whole number >= 1.
        """
        renew_classifiers(self, num_classes, optimizer)

    @property
    def listening(self) -> bool:
        """Whether the next forward is read: in training, or inside :meth:`matching`."""
        return self.training or self._reading is not None

    def listen(self, call: Call, forward: Callable[[], Any]) -> Any:
        """Runs the base's forward, reads its taps, runs the heads and, where asked, adds the loss.

        Raises:
            MixERError: if a tap did not fire, or the rows' modality or labels do not fit.
        """
        last = self.record
        again = last is not None and last.step is not None and recomputing()
        if again:
            assert last is not None
            routes, step = self.check.before_recomputation(last)
        else:
            self._look(call.model)
            routes = route_gradients(self.mode, self.config, training=self.training)
            step = self.counter.clone()  # the loss adds to the counter
        self.record, self.terms = None, {}
        taps = self.tapped(call.model)
        with contextlib.ExitStack() as stack:
            if again:
                stack.callback(setattr, self, "record", last)
            stack.callback(close_taps, call.model, taps)
            open_taps(call.model, taps)
            with contextlib.nullcontext() if routes.base else torch.no_grad():
                output = forward()
            found = read_taps(self.adapter, collect_taps(call.model, taps), taps)
            record = self._new_record(found, self.adapter.row_modality(call), routes, step)
            record = dataclasses.replace(
                record, base_nodes=nodes_of(output), graph=torch.is_grad_enabled()
            )
            if self.training:
                check_statistics(self.heads, record)
            if record.modality is not None and (self._reading is None or self._reading.heads):
                record = self.with_related(call.model, record)
            self.record = record
            if self._reading is not None:
                self._reading.records.append(record)
            if self.training and self.adds_loss_in_forward:
                output = self._add_loss(output, self.adapter.labels(call), again=again)
        return output

    def _look(self, model: nn.Module) -> None:
        """Warns, in training, of losses or heads that take no part in it (``SelfCheck``)."""
        replica = hasattr(self, "_is_replica")  # of DataParallel: without parameters
        trains = self.training and torch.is_grad_enabled()
        if torch.compiler.is_compiling() or replica or not trains:
            return
        self.check.before_forward(self, lambda: self.cloned(model), self.record)
        if self.mode == "f" and not self.config.frozen_base:
            self.check.look_at_clipping(model, self)

    @property
    def _clones(self) -> bool:
        return bool(self.heads) and self.config.related_blocks != "low-rank"

    def cloned(self, model: nn.Module) -> nn.Module | None:
        """What of the base the heads are clones of, as it is now."""
        return stage_parts(self.adapter, model, self.config)[0] if self._clones else None

    def untouched_clones(self) -> bool:
        """Whether the heads are clones of the base's stage that nothing has trained or loaded."""
        return self._clones and self.check.untouched(self)

    def tapped(self, model: nn.Module) -> dict[str, Tap]:
        """The taps to read: the adapter's, as ``related_stages`` and ``related_blocks`` say."""
        return {**self.adapter.taps(model), **self._stage_taps}

    @property
    def adds_loss_in_forward(self) -> bool:
        """Whether the wrapped forward itself returns base loss + MixER loss."""
        return self.adapter.adds_loss() == "forward" and not self.config.frozen_base

    def _add_loss(self, output: Any, labels: Tensor | None, *, again: bool) -> Any:
        if labels is None:
            raise MixERValueError(
                "The forward got no labels in training mode. Pass them as the base model asks, or "
                "call model.eval() first."
            )
        if again:
            assert self.record is not None
            total, terms = self.loss_on(self.record, labels, count=False)
        else:
            total, terms = self.loss(labels)
        named = {f"mixer/{name}": value for name, value in terms.items()}
        return self.adapter.with_loss(output, total, named)

    def _new_record(
        self, found: dict[str, Any], modality: Tensor | None, routes: Routes, step: Tensor
    ) -> Record:
        """The record of the tapped tensors, with gradients cut as ``routes`` say."""
        before, after = found.pop("erased_before"), found.pop("erased_after")
        if not routes.erased:
            before, after = before.detach(), after.detach()
        if modality is not None:
            modality = check_rows("modality", modality, before.shape[0], 2, before.device)
        stage_input = self._entering(found.pop("stage_input"), routes, step)
        stage_output = self._entering(found.pop("stage_output", None), routes, step)
        return Record(
            stage_input, before, after, modality, stage_output, found, routes=routes, step=step
        )

    def _entering(self, stage_map: Any, routes: Routes, step: Tensor) -> Any:
        """A map of the base as the related heads take it."""
        if stage_map is None:
            return None
        if routes.related_input == "detach":
            return stage_map.detach()
        if routes.related_input == "reverse":
            return reverse_gradient(stage_map, reversal(self.config, step))
        return stage_map

    def with_related(self, model: nn.Module, record: Record) -> Record:
        """The record with its related features before and after the neck, [B, Dr].

        Args:
            model: the wrapped model.
            record: with its modality: of a forward, or of cached maps.
        """
        if record.routes is None:
            routes = route_gradients(self.mode, self.config, training=self.training)
            record = dataclasses.replace(record, routes=routes, step=self.counter.clone())
        if not self.heads:
            return record
        # Only a compiler needs to know: without it, heads always run on numbers of their own.
        traced = self._draws is False and torch.compiler.is_compiling()
        record, drew = run_heads(
            model,
            record,
            self.heads,
            adapter=self.adapter,
            training=self.training,
            seed=None if traced else self.seed,
        )
        if self.training and not traced:
            self._draws = self._draws or drew
        return record

    def complete(self, model: nn.Module, modality: Tensor | None) -> Record:
        """Returns the last forward's record with its related features.

        Raises:
            MixERRuntimeError: without a forward to read.
            MixERValueError: if the modality is unknown, or differs from what the forward saw.
        """
        record = self.record
        if record is None:
            raise MixERRuntimeError(
                "No forward of the wrapped model to read: it has not run since the last one was "
                "used, or ran in eval mode. Call model(…) in train mode first, or inside "
                "`with model.mixer.matching():`."
            )
        if modality is not None:
            modality = check_rows(
                "modality", modality, len(record.erased_before), 2, record.erased_before.device
            )
            if record.modality is not None and not torch.equal(modality, record.modality):
                raise MixERValueError(
                    "The modality given differs from the one the forward was called with. "
                    "Leave it out, or call the model with the same."
                )
        if record.modality is None:
            if modality is None:
                raise MixERValueError(
                    f"The adapter {self.adapter.name!r} cannot tell the rows' modality from the "
                    "forward's arguments. Pass modality= ([B], 0 visible, 1 infrared)."
                )
            record = dataclasses.replace(record, modality=modality)
            record = self.record = self.with_related(model, record)
        return record

    def loss(
        self, labels: Tensor, modality: Tensor | None = None, *, model: nn.Module | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of eq. 16's MixER terms for the last forward, and each term.

        Args:
            labels: [B] int64 in [0, num_classes); also -1 after :meth:`set_num_classes`.
            modality: [B] int64; needed only if the forward does not know it.
            model: the wrapped model; needed only with ``modality``.

        Returns:
            float32 scalar with gradient, and the terms before their weights (detached) plus
            ``total``. The related part of ``center_cluster`` has its weight already.

        Raises:
            MixERError: without a forward, twice for one forward, or for labels or modality that do
                not fit.
        """
        record = self.complete(model if model is not None else self, modality)
        if record.spent:
            raise MixERRuntimeError(
                "The MixER loss of this forward was already taken. Call it once per forward."
            )
        check_graph(record)
        gathered = self.config.gather and count_processes() > 1
        if not gathered and not torch.compiler.is_compiling():
            assert record.modality is not None
            self.check.before_loss(record.modality)
        total, terms = self.loss_on(record, labels)
        self.record = record.after_loss()
        return total, terms

    def loss_on(
        self, record: Record, labels: Tensor, *, count: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`loss` of a record with its modality and related features.

        It serves the training loop and heads that are trained on cached maps alike.

        Args:
            record: of a forward, or of cached maps.
            labels: [B] int64.
            count: False for a loss that was counted before.
        """
        before = record.erased_before
        known = len(before), self.num_classes, before.device
        labels = check_rows("labels", labels, *known, least=OUTLIER if self.pseudo_labels else 0)
        with torch.autocast(before.device.type, enabled=False):
            idle = self._idle_zero(record)
            if self.config.gather and count_processes() > 1:
                record, labels = gather_record(record, labels, idle)
                idle = idle.detach()
            terms = loss_terms(self, *without_outliers(record, labels))
            weights = self.config.weights
            total = sum((weights.get(name, 1.0) * term for name, term in terms.items()), idle)
        if count:
            self.counter += 1
        self.terms = {name: term.detach() for name, term in terms.items()}
        self.terms["total"] = total.detach()
        return total, dict(self.terms)

    def _idle_zero(self, record: Record) -> Tensor:
        """A zero that depends on all idle parameters: DDP needs a gradient for each."""
        idle = [*record.idle]
        assert record.routes is not None
        if self.erased_identity is not None and not record.routes.erased:
            idle.append(self.erased_identity)
        parameters = (p for module in idle for p in module.parameters() if p.requires_grad)
        touched = [p.reshape(-1)[:0].sum().float() for p in parameters]
        return torch.stack([self.counter.float() * 0, *touched]).sum()
