"""Deeper related heads: clones of several stages, run one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixer_plugin import MixERConfig, MixERError, mixer_loss, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.heads import clone_stage
from tests.contract.attached import build, traces, wrap
from tests.contract.toys import TOYS, PlainNet, PlainViT
from tests.contract.variants import OTHERS
from tests.unit.heads.test_related_blocks import calls_of

RESNET = [f"layer{i}" for i in range(1, 5)]
STAGES = {
    "saai": [f"backbone.{name}" for name in RESNET],
    "mpanet": [f"backbone.{name}" for name in RESNET],
    "ddag": [f"base_resnet.base.{name}" for name in RESNET],
    "deen": [f"base_resnet.base.{name}" for name in RESNET],
    "deen/regdb": [f"base_resnet.base.{name}" for name in RESNET[:3]],
    "sgeil": [f"base_resnet.base.{name}" for name in RESNET],
    "idkl": [
        *(f"backbone.shared_module_fr.model_sh_fr.{name}" for name in RESNET[:2]),
        *(f"backbone.shared_module_bh.model_sh_bh.{name}" for name in RESNET[2:]),
    ],
    "generic": ["stem", "layer4"],
    "generic/vit": ["blocks.0", "blocks.1"],
}


@pytest.mark.parametrize("name", STAGES)
def test_an_adapter_names_its_stages_from_first_to_last(name):
    toy = TOYS[name]
    assert list(toy.resolved.stages(build(toy))) == STAGES[name]


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("kind", ["deep", "deep-shared"])
def test_a_head_is_its_clones_in_a_row_on_what_the_first_took_in_the_base(name, kind):
    toy = OTHERS[f"{name}/{kind}"]
    model, batch = wrap(toy, build(toy)).eval(), toy.batch()
    paths = STAGES[name][-2:] + (["norm"] if name.endswith("vit") else [])
    own = [model.get_submodule(path) for path in paths]
    clones = [clone_stage(module).eval() for module in own]
    heads = list(model.mixer.heads.values())
    ends = [part for head in heads for part in (head.parts()[0], head.parts()[-1])]
    with calls_of(own[0], *ends) as (base, *related), model.mixer.matching(), torch.no_grad():
        toy.look(model, batch)
    taken = torch.cat([arguments[0] for arguments, _ in base])
    assert len(taken) == len(batch.labels)  # DEEN's rows before their expansion
    for m, head in enumerate(heads):
        ((given, _),), ((_, made),) = related[2 * m : 2 * m + 2]
        assert torch.equal(given[0], taken if len(heads) == 1 else taken[batch.modality == m])
        expected = given[0]
        for clone in clones:
            with torch.no_grad():
                # SGEIL: which set of norms.
                expected = clone(expected, m) if name == "sgeil" else clone(expected)
        assert torch.equal(made, expected)
        trained = sum(p.numel() for p in head.stage.parameters())
        assert trained == sum(p.numel() for module in own for p in module.parameters())


def test_every_stage_of_a_sgeil_head_has_norms_of_its_own_kind():
    toy = OTHERS["sgeil/deep"]
    model = wrap(toy, build(toy)).train()
    toy.step_loss(model, toy.batch()).backward()
    for name, kind in (("visible", ""), ("infrared", "_ir")):
        for part in model.mixer.heads[name].parts():
            moved = {n for n, p in part.named_parameters() if p.grad is not None}
            asked = {n for n, p in part.named_parameters() if p.requires_grad}
            assert moved == asked
            norms = {n.rpartition(".")[0] for n in moved if part.get_parameter(n).dim() == 1}
            ends = ("_ir",) if kind else ("bn1", "bn2", "bn3", ".1")
            assert norms
            assert all(norm.endswith(ends) for norm in norms)


def test_gradients_of_deep_heads_enter_the_base_before_their_first_stage():
    toy = OTHERS["saai/deep"]
    model = wrap(toy, build(toy), config=MixERConfig(related_input="flow")).train()
    kept = []
    compute = model.mixer.loss

    def keep(*given, **more):
        kept.append(model.mixer.record.related_before)
        return compute(*given, **more)

    model.mixer.loss = keep
    toy.step_loss(model, toy.batch())
    kept[0].sum().backward()
    reached = {n for n, p in model.backbone.named_parameters() if p.grad is not None}
    assert any(name.startswith("layer2") for name in reached)
    assert not any(name.startswith(("layer3", "layer4", "MAM")) for name in reached)


def refused(net, adapter, stages, **options):
    before = traces(net)
    with pytest.raises(MixERError) as caught:
        wrap_with_mixer(net, adapter=adapter, config=MixERConfig(related_stages=stages, **options))
    assert traces(net) == before
    return str(caught.value)


class Deeper(PlainNet):
    """A network whose stages have no numbers."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = self.body


def test_too_many_stages_are_refused_and_the_advice_works():
    net, usual = Deeper(), {"neck": "neck", "classifier": "fc", "modality": "modality"}
    message = refused(net, GenericAdapter("layer4", "avgpool", **usual), 2)
    assert "knows 1 of this model: layer4. Use at most 1" in message
    assert "earlier=" in message
    adapter = GenericAdapter("layer4", "avgpool", earlier=("body",), **usual)
    wrap_with_mixer(net, adapter=adapter, config=MixERConfig(related_stages=2)).train()
    batch = TOYS["generic"].batch()
    net(batch.images, batch.modality)
    mixer_loss(net, batch.labels).backward()
    assert all(p.grad is not None for p in net.mixer.parameters() if p.requires_grad)


def test_stages_that_do_not_follow_each_other_are_refused():
    net = Deeper()
    net.body = nn.Conv2d(3, 5, 1)
    message = refused(net, GenericAdapter("layer4", "avgpool", earlier=("body",)), 2)
    assert "body, layer4 one after the other" in message
    assert "does not fit the next (" in message
    with pytest.raises(MixERError, match="No sub-module 'bdy'"):
        wrap_with_mixer(net, adapter=GenericAdapter("layer4", "avgpool", earlier=("bdy",)))


def test_the_stages_of_a_transformer_are_its_blocks():
    net = PlainViT()
    adapter = GenericAdapter(("blocks.1", "norm"), neck="neck", modality="modality")
    wrap_with_mixer(net, adapter=adapter, config=MixERConfig(related_stages=2))
    first, second = net.mixer.heads["visible"].parts()
    assert list(first.state_dict()) == list(net.blocks[0].state_dict())
    assert list(second.state_dict()) == list(nn.Sequential(net.blocks[1], net.norm).state_dict())
    assert "Use at most 2" in refused(PlainViT(), adapter, 3)


def test_numbers_that_are_missing_end_the_stages():
    net = nn.Module()
    for number in (0, 2, 3):
        net.add_module(f"stage{number}", nn.Conv2d(3, 3, 1))
    assert GenericAdapter("stage3").stages(net) == ("stage2", "stage3")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"related_stages": 0}, "whole number >= 1"),
        ({"related_stages": 1.5}, "whole number"),
        ({"related_stages": 2, "related_blocks": "last"}, "clones whole stages"),
        ({"related_heads": "one"}, "per-modality, shared"),
        ({"related_labels": "identities"}, "Did you mean 'identity'"),
    ],
)
def test_wrong_options_are_refused(options, hint):
    with pytest.raises(MixERError, match=hint):
        MixERConfig(**options)


@pytest.mark.parametrize(
    ("options", "follow"),
    [
        ({"related_stages": 2, "related_blocks": "last"}, {"related_blocks": "all"}),
        ({"related_stages": 2, "related_blocks": "last"}, {"related_stages": 1}),
        ({"related_width": 0.5, "related_blocks": "low-rank"}, {"related_width": 1.0}),
    ],
)
def test_advice_on_options_that_do_not_go_together_works(options, follow):
    ((name, value),) = follow.items()
    said = f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}"
    with pytest.raises(MixERError, match=said):
        MixERConfig(**options)
    MixERConfig(**{**options, **follow})
