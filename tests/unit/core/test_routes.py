"""The table of gradients in ``route_gradients`` is what a training step does."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from mixer_plugin import MixERConfig, losses, wrap_with_mixer
from mixer_plugin.baselines import create_baseline
from mixer_plugin.forward.routes import Routes, route_gradients

IDS = torch.arange(4).repeat_interleave(4)
CAMS = torch.tensor([3, 1]).repeat(8)
RELATED = "L_mrid, L_cc"


def table():
    """The rows of the docstring: mode, options and, by loss, the groups of weights it moves."""
    lines = [line.strip() for line in route_gradients.__doc__.splitlines()]
    rows = [[c.strip() for c in line[1:-1].split("|")] for line in lines if line[:1] == "|"]
    head, _, *rows = rows
    for mode, option, *cells in rows:
        moved = {
            loss: set(cell.replace("-", "").split())
            for loss, cell in zip(head[2:], cells, strict=True)
        }
        yield pytest.param(mode, eval(f"dict({option})"), moved, id=f"{mode} {option}".strip())


def network(mode, options):
    torch.manual_seed(0)
    model = create_baseline("saai-base", 4, trunk="small", image_size=(32, 16))
    config = MixERConfig(**{"reversal_warmup": 0, **options})
    wrap_with_mixer(model, mode, config=config, seed=0)
    with torch.no_grad():  # a clone as it starts gives the base's own feature
        for p in model.mixer.heads.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model.train()


def groups(model):
    """T: the trunk before the stage; S: the stage and the necks; H: the related heads."""
    found = {"T": [], "S": [], "H": []}
    stage, before = model.mixer.adapter.stage_path(model), True
    for name, parameter in model.named_parameters():
        before = before and not name.startswith(stage)
        group = "T" if before else "S"
        if name.startswith("mixer."):
            group = "H" if name.startswith("mixer.heads") else None
        if group and parameter.requires_grad:
            found[group].append(parameter)
    return found


def gradient(value, parameters):
    if not value.requires_grad:
        return None
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None] or [torch.zeros(1)])


def step(model, monkeypatch):
    """The losses of one step by the table's names, each with its graph."""
    torch.manual_seed(1)
    images = torch.randn(16, 3, 32, 16)
    parts = {name: [] for name in (RELATED, "L_o", "L_m", "L_f erased", "L_f fused")}

    def watch(name, column):
        compute = getattr(losses, name)

        def watched(*args, **kwargs):
            value = compute(*args, **kwargs)
            if column(args):
                parts[column(args)].append(value)
            return value

        monkeypatch.setattr(losses, name, watched)

    watch("identity", lambda args: RELATED if args[0].shape[1] > 2 else None)  # 2: L_m's own call
    watch("center_cluster", lambda args: RELATED)
    watch("orthogonal", lambda args: "L_o")
    watch("confusion", lambda args: "L_m")
    watch("fusion", lambda args: "L_f erased" if args[1] is None else "L_f fused")
    if model.mixer.config.frozen_base:
        own = model(images, cam_ids=CAMS)
        model.mixer.loss(IDS)
    else:
        own = model(images, IDS, cam_ids=CAMS)[0] - model.mixer.terms["total"]
    monkeypatch.undo()
    model.mixer.loss = lambda labels: (torch.zeros(()), {})
    if not model.mixer.config.frozen_base:
        own = model(images, IDS, cam_ids=CAMS)[0]
    return {"base's own": own.sum(), **{name: sum(found) for name, found in parts.items() if found}}


@pytest.mark.parametrize(("mode", "options", "moved"), list(table()))
def test_each_loss_moves_what_the_table_says(mode, options, moved, monkeypatch):
    model = network(mode, options)
    terms = step(model, monkeypatch)
    for loss, expected in moved.items():
        found = set()
        for group, parameters in groups(model).items():
            if parameters and loss in terms:
                reached = gradient(terms[loss], parameters)
                found |= {group} if reached is not None and reached.any() else set()
        assert found == expected, loss


def test_reversed_is_flowing_times_the_scale(monkeypatch):
    found = []
    for choice in ("flow", "reverse"):
        model = network("e2e", {"related_input": choice, "reversal": 0.25})
        found.append(gradient(step(model, monkeypatch)[RELATED], groups(model)["T"]))
    torch.testing.assert_close(found[1], -0.25 * found[0])


def test_nothing_flows_outside_training_and_modes_differ_by_the_base_alone():
    choices = itertools.product(
        ("detach", "flow", "reverse"), ("related", "both"), ("apart", "joint")
    )
    for related_input, side, fusion in choices:
        config = MixERConfig(
            related_input=related_input, orthogonal_side=side, fusion_gradient=fusion
        )
        cut = Routes(
            base=True,
            erased=False,
            related_input="detach",
            orthogonal_both=False,
            fusion_base=False,
            fusion_joint=False,
        )
        assert route_gradients("f", config) == cut
        assert route_gradients("e2e", config, training=False) == cut
        frozen = dataclasses.replace(config, frozen_base=True)
        assert route_gradients("f", frozen) == dataclasses.replace(cut, base=False)


def test_without_heads_there_is_nothing_to_fuse_jointly():
    config = MixERConfig(control="erased-triplet", fusion_gradient="joint")
    assert route_gradients("e2e", config) == route_gradients(
        "e2e", MixERConfig(control="erased-triplet")
    )
