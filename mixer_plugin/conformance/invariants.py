"""The invariants of attaching (numbered as in the documentation), tried on one network."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mixer_plugin.attach import mixer_loss, unwrap_mixer, wrap_with_mixer
from mixer_plugin.conformance.case import Case
from mixer_plugin.conformance.wrappers import WRAPPERS, Broken, require, try_wrapper
from mixer_plugin.errors import MixERError, MixERWarning
from mixer_plugin.forward.mixed import mixer_of

STEPS = 3


def _base_state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if not k.startswith("mixer.")}


def _same(a: dict[str, Tensor], b: dict[str, Tensor], what: str) -> None:
    require(list(a) == list(b), f"{what}: the names differ.")
    changed = [k for k in a if not torch.equal(a[k], b[k])]
    require(not changed, f"{what}: {len(changed)} of {len(a)} tensors differ ({changed[:3]}).")


def _tensors(outputs: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _wrap(model: nn.Module, case: Case) -> nn.Module:
    known = {"adapter": case.adapter, "config": case.config, "num_classes": case.classes}
    return wrap_with_mixer(model, **known)  # type: ignore[arg-type]


def keeps_the_model(case: Case) -> str:
    """1: the same object, its class, names and order; new keys under ``mixer.`` alone."""
    model = case.bare()
    cls = type(model)

    def names() -> dict[str, list[str]]:
        return {
            "state-dict keys": list(model.state_dict()),
            "parameters": [n for n, _ in model.named_parameters()],
            "modules": [n for n, _ in model.named_modules()],
        }

    before = names()
    require(_wrap(model, case) is model, "wrap_with_mixer returned another object.")
    require(isinstance(model, cls), f"The model is no {cls.__name__} any more.")
    for kind, now in names().items():
        old, new = now[: len(before[kind])], now[len(before[kind]) :]
        require(old == before[kind], f"The base's {kind} changed names or order.")
        others = [n for n in new if n != "mixer" and not n.startswith("mixer.")]
        require(bool(new) and not others, f"New {kind} outside mixer.: {others[:3]}.")
    return f"{len(before['state-dict keys'])} keys in place"


def keeps_the_outputs(case: Case) -> str:
    """2: eval outputs, and the base's train outputs, bit for bit."""
    for mode in ("e2e", "f"):
        plain, model = case.bare(), case.wrapped(mode)
        for modality, name in enumerate(("visible", "infrared")):
            same = torch.equal(case.embed(plain, modality), case.embed(model, modality))
            require(same, f"Eval embeddings of {name} images differ in mode {mode}.")
        expected, got = case.step(case.bare()), case.step(model)
        if case.in_loop:
            pairs = list(zip(*map(_tensors, (expected.outputs, got.outputs)), strict=True))
            require(all(torch.equal(a, b) for a, b in pairs), f"Train outputs differ ({mode}).")
        else:
            for name, value in expected.terms.items():
                same = torch.equal(torch.as_tensor(value), torch.as_tensor(got.terms[name]))
                require(same, f"The metric {name!r} differs in mode {mode}.")
            total = expected.loss + got.terms["mixer/total"]
            require(torch.equal(total, got.loss), f"loss != base + MixER in mode {mode}.")
    return "both modalities, both modes"


def trains_apart_in_mode_f(case: Case) -> str:
    """3: in mode f the base's weights and buffers are those of a run without the plug-in."""
    plain, model = case.bare(), case.wrapped("f")
    heads = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("mixer.")}
    case.train(plain, STEPS)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", MixERWarning)
        case.train(model, STEPS)
    found = [str(each.message) for each in told if issubclass(each.category, MixERWarning)]
    require(not found, f"Training told: {' '.join(found)}")
    before, after = plain.state_dict(), model.state_dict()
    _same(before, _base_state(model), f"After {STEPS} optimizer steps in mode f")
    moved = sum(not torch.equal(v, after[k]) for k, v in heads.items())
    require(moved > 5, "The heads did not train.")
    return f"{len(before)} tensors bit-identical after {STEPS} steps"


def sends_gradients_where_it_should(case: Case) -> str:
    """4: in e2e the MixER loss reaches trunk and stage, in f nothing of the base."""
    for mode in ("e2e", "f"):
        model = case.wrapped(mode)
        totals: list[Tensor] = []
        compute = mixer_of(model).loss

        def keep(*args, _compute=compute, _totals=totals, **kwargs):  # type: ignore[no-untyped-def]
            total, terms = _compute(*args, **kwargs)
            _totals.append(total)
            return total, terms

        mixer_of(model).loss = keep
        case.total(model, case.step(model))
        require(bool(totals), "No MixER loss was computed.")
        torch.autograd.backward(totals[0])
        named = [(n, p) for n, p in model.named_parameters() if not n.startswith("mixer.")]
        live = [n for n, p in named if p.grad is not None and bool(p.grad.abs().max() > 0)]
        stage = case.adapter.stage_path(model)
        if mode == "f":
            require(not live, f"In mode f a gradient reaches {live[:3]}.")
        else:
            require(any(n.startswith(stage) for n in live), f"No gradient reaches {stage}.")
            require(any(not n.startswith(stage) for n in live), "No gradient reaches the trunk.")
    return "e2e: trunk and stage; f: none"


def costs_nothing_in_eval(case: Case) -> str:
    """5: the related heads run in eval only when asked."""
    model = case.wrapped().eval()
    calls: list[int] = []
    for head in mixer_of(model).heads.values():
        first: nn.Module = head.parts()[0]
        first.register_forward_hook(lambda *_: calls.append(1))
    for modality in (0, 1):
        case.embed(model, modality)
    require(not calls, "The related heads ran in a plain evaluation.")
    with mixer_of(model).matching():
        for modality in (0, 1):
            case.embed(model, modality)
            if mixer_of(model).record.modality is None:  # only the caller knows it
                mixer_of(model).complete(model, case.images(modality)[1])
    require(len(calls) >= 2, "The related heads did not run inside matching().")
    return "heads run inside matching() alone"


def unwraps_without_a_trace(case: Case) -> str:
    """6: unwrap restores class, keys, hooks and attributes; a second wrap is refused."""

    def traces(model: nn.Module) -> object:
        hooks = {
            n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()
        }
        attributes = {n: sorted(m.__dict__) for n, m in model.named_modules()}
        return type(model), list(model.state_dict()), hooks, attributes

    model = case.bare().train()
    before = traces(model)
    _wrap(model, case)
    try:
        _wrap(model, case)
    except MixERError:
        pass
    else:
        raise Broken("A second wrap was not refused.")
    torch.autograd.backward(case.total(model, case.step(model)))
    unwrap_mixer(model)
    require(traces(model) == before, "unwrap_mixer left a trace.")
    return "also after a training step"


def survives_copies_and_machinery(case: Case) -> str:
    """7: deepcopy, pickle, bfloat16 autocast, torch.compile, DDP in one process."""
    copies = survives_copies(case)
    found = [f"{n}: {try_wrapper(case, WRAPPERS[n])}" for n in ("torch.compile", "DDP")]
    return "; ".join([copies, *found])


def survives_copies(case: Case) -> str:
    """7: deepcopy, pickle, bfloat16 autocast."""
    model = case.wrapped()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for name, twin in (
        ("deepcopy", copy.deepcopy(model)),
        ("pickle", torch.load(buffer, weights_only=False)),
    ):
        _same(model.state_dict(), twin.state_dict(), f"After {name}")
        torch.autograd.backward(case.total(twin, case.step(twin)))
        require(all(p.grad is None for p in model.parameters()), f"A {name} shares weights.")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = case.total(model, case.step(model))
    require(bool(torch.isfinite(loss)), "The loss is not finite under bfloat16 autocast.")
    return "deepcopy; pickle; autocast"


def explains_mistakes(case: Case) -> str:
    """8: losses are finite float32; a mistake gets a MixERError, and costs nothing."""
    model = case.wrapped()
    case.total(model, case.step(model))
    terms = mixer_of(model).terms
    odd = [n for n, v in terms.items() if v.dtype != torch.float32 or not torch.isfinite(v)]
    require(not odd, f"Terms that are not finite float32: {odd}.")
    _refuses(lambda: mixer_loss(model, case.batch().labels), "a second loss for one forward")
    labels = case.batch().labels
    if case.in_loop:
        step = case.step(model)
        if step.labels is not None:
            wrong = labels + case.classes
            _refuses(lambda: case.added(model, step, wrong), "labels out of range")
            _refuses(lambda: case.added(model, step, labels[:-1]), "labels of another length")
            case.added(model, step, labels)
    return f"{len(terms) - 1} finite terms"


def _refuses(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except MixERError:
        return
    raise Broken(f"Not refused: {what}.")


INVARIANTS: tuple[Callable[[Case], str], ...] = (
    keeps_the_model,
    keeps_the_outputs,
    trains_apart_in_mode_f,
    sends_gradients_where_it_should,
    costs_nothing_in_eval,
    unwraps_without_a_trace,
    survives_copies_and_machinery,
    explains_mistakes,
)
