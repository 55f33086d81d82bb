"""The check's invariants notice what breaks them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mixer_plugin.adapters import resolve_adapter
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.conformance import invariants
from mixer_plugin.conformance.case import Case
from mixer_plugin.conformance.invariants import INVARIANTS, Broken
from mixer_plugin.module import MixER


@pytest.fixture(params=["ddag", "mpanet"])
def case(request: pytest.FixtureRequest) -> Case:
    """One network of each family."""
    torch.manual_seed(0)
    model = create_baseline(request.param, 6, trunk="small")
    return Case(
        model,
        resolve_adapter(model),
        lambda: create_loop(request.param),
        load_recipe(request.param),
        (32, 16),
        6,
    )


def outside_key(patch: pytest.MonkeyPatch) -> None:
    wrap = invariants.wrap_with_mixer

    def wrong(model: nn.Module, *args: object, **options: object) -> nn.Module:
        wrap(model, *args, **options)  # type: ignore[arg-type]
        model.extra = nn.Linear(1, 1)
        return model

    patch.setattr(invariants, "wrap_with_mixer", wrong)


def other_outputs(patch: pytest.MonkeyPatch) -> None:
    embed = Case.embed
    patch.setattr(Case, "embed", lambda self, m, k: embed(self, m, k) + 1e-6 * hasattr(m, "mixer"))


def mode_e2e(patch: pytest.MonkeyPatch) -> None:
    wrapped = Case.wrapped
    patch.setattr(Case, "wrapped", lambda self, mode="e2e", **options: wrapped(self, **options))


def mode_f(patch: pytest.MonkeyPatch) -> None:
    wrapped = Case.wrapped
    patch.setattr(Case, "wrapped", lambda self, mode="e2e", **options: wrapped(self, "f"))


def always_listening(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MixER, "listening", property(lambda self: True))


def unwrap_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(invariants, "unwrap_mixer", lambda model: model)


def shared_copies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(invariants.copy, "deepcopy", lambda model, memo=None: model)


def infinite_terms(patch: pytest.MonkeyPatch) -> None:
    loss = MixER.loss

    def wrong(self: MixER, *args: object, **options: object) -> object:
        found = loss(self, *args, **options)  # type: ignore[arg-type]
        self.terms["fusion"] = torch.tensor(torch.inf)
        return found

    patch.setattr(MixER, "loss", wrong)


def mistakes_accepted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(invariants, "mixer_loss", lambda *args: torch.zeros(()))


def one_frozen(patch: pytest.MonkeyPatch) -> None:
    made = Case.wrapped

    def freeze(self: Case, mode: str = "e2e") -> nn.Module:
        model = made(self, mode)
        next(model.get_submodule("mixer").parameters()).requires_grad_(False)
        return model

    patch.setattr(Case, "wrapped", freeze)


SABOTAGE = [
    (1, outside_key, "outside mixer"),
    (2, other_outputs, "Eval embeddings of visible images differ"),
    (3, mode_e2e, "tensors differ"),
    (3, one_frozen, "Training told: 1 of .* do not require a gradient"),
    (4, mode_e2e, "In mode f a gradient reaches"),
    (4, mode_f, "No gradient reaches"),
    (5, always_listening, "ran in a plain evaluation"),
    (6, unwrap_nothing, "left a trace"),
    (7, shared_copies, "deepcopy shares weights"),
    (8, infinite_terms, r"not finite float32: \['fusion'\]"),
    (8, mistakes_accepted, "Not refused"),
]


@pytest.mark.parametrize(("number", "sabotage", "reason"), SABOTAGE)
def test_a_break_is_noticed(
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    sabotage: Callable[[pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    invariant = INVARIANTS[number - 1]
    assert (invariant.__doc__ or "").startswith(f"{number}:")
    sabotage(monkeypatch)
    with pytest.raises(Broken, match=reason):
        invariant(case)


def test_what_the_base_itself_cannot_do_is_not_held_against_the_plug_in(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError("not with this network")

    monkeypatch.setattr(invariants, "WRAPPERS", {"torch.compile": refuse, "DDP": refuse})
    found = invariants.survives_copies_and_machinery(case)
    for name in ("torch.compile", "DDP"):
        assert f"{name}: fails without the plug-in (RuntimeError)" in found
