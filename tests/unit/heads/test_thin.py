"""Thinner related heads: residual blocks with the strongest of their inner channels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mixer_plugin import MixERConfig, MixERError, reset_heads
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.adapters.stages import stage_parts
from mixer_plugin.adapters.thin import thinned
from mixer_plugin.baselines.common.trunks import BasicBlock, Bottleneck
from tests.contract import test_contract as contract
from tests.contract.attached import build, wrap
from tests.contract.toys import TOYS
from tests.contract.variants import variant

BLOCKS = {"basic": lambda: BasicBlock(8, 12, 2), "bottleneck": lambda: Bottleneck(8, 6, 1)}


def trained(block):
    """A block whose norms have statistics and scales of their own."""
    torch.manual_seed(0)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.running_var):
                value.uniform_(0.5, 1.5)
            for value in (module.bias.data, module.running_mean):
                value.normal_()
    return block.eval()


def inner_convs(block):
    return [(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in range(1, block.depth)]


@pytest.mark.parametrize("kind", BLOCKS)
def test_channels_that_count_for_nothing_go_first_and_nothing_changes(kind):
    block = trained(BLOCKS[kind]())
    for number, (conv, _) in enumerate(inner_convs(block), 1):
        after = getattr(block, f"conv{number + 1}")
        after.weight.data[:, torch.randperm(conv.out_channels)[: conv.out_channels // 2]] = 0
    thin = thinned(block, 0.5).eval()
    x = torch.randn(3, 8, 6, 4)
    torch.testing.assert_close(thin(x), block(x))
    for (conv, norm), (whole, _) in zip(inner_convs(thin), inner_convs(block), strict=True):
        assert conv.out_channels == norm.num_features == whole.out_channels // 2
        assert conv.weight.shape[0] == conv.out_channels
    assert all(p.requires_grad for p in thin.parameters())


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("share", [1.0, 0.6, 0.01])
def test_the_strongest_stay_in_their_order(kind, share):
    block = trained(BLOCKS[kind]())
    thin = thinned(block, share)
    columns = slice(None)
    for number, (conv, norm) in enumerate(inner_convs(block), 1):
        after = getattr(block, f"conv{number + 1}").weight
        strength = [
            float((after[:, c].norm() * norm.weight[c].abs()).detach())
            for c in range(len(norm.weight))
        ]
        count = max(round(share * len(strength)), 1)
        kept = sorted(sorted(range(len(strength)), key=lambda c: -strength[c])[:count])
        own = getattr(thin, f"bn{number}")
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(getattr(own, name), getattr(norm, name)[kept])
        rows = getattr(thin, f"conv{number}").weight
        assert torch.equal(rows, conv.weight[kept][:, columns])
        columns = kept


def test_every_norm_of_a_set_is_thinned_alike():
    toy = TOYS["sgeil"]
    config = MixERConfig(related_width=0.5)
    model = wrap(toy, build(toy), config=config)
    for name, module in model.mixer.heads["visible"].stage.named_modules():
        if isinstance(module, nn.BatchNorm2d) and name.rpartition(".")[2].startswith("bn1"):
            assert module.num_features == 64


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saai", "deen", "sgeil", "idkl"])
def test_thin_deep_heads_keep_the_contract(name):
    toy = variant(name, "thin", related_stages=2, related_width=0.5)
    contract.test_mode_f_gradients_do_not_reach_the_base(toy)
    contract.test_state_dicts(toy)
    contract.test_unwrap_leaves_no_trace(toy, "e2e", "deepcopy")
    contract.test_a_batch_of_one_modality_trains_with_a_gradient_for_every_head(toy, "e2e", (1,))


def test_reset_heads_thins_the_stage_as_it_is_now():
    toy = TOYS["saai"]
    model = wrap(toy, build(toy), config=MixERConfig(related_width=0.5))
    before = copy.deepcopy(model.mixer.heads.state_dict())
    with torch.no_grad():
        for p in model.backbone.layer4.parameters():
            p.add_(torch.randn(p.shape))
    reset_heads(model)
    after = model.mixer.heads.state_dict()
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    expected = thinned(model.backbone.layer4, 0.5).state_dict()
    for key, value in expected.items():
        assert torch.equal(after[f"visible.stage.{key}"], value)
    assert model.mixer.untouched_clones()


def test_what_cannot_be_thinned_is_refused_and_the_advice_works():
    toy = TOYS["generic"]
    with pytest.raises(MixERError, match=r"has none. Use related_width=1\.0"):
        wrap(toy, build(toy), config=MixERConfig(related_width=0.5))
    wrap(toy, build(toy), config=MixERConfig(related_width=1.0))
    torchvision = pytest.importorskip("torchvision", reason="torchvision is absent")
    with torch.device("meta"):
        grouped = torchvision.models.resnext50_32x4d(num_classes=3)
    with pytest.raises(MixERError, match="grouped convolutions"):
        thinned(grouped.layer4, 0.5)
    for wrong, said in (
        ({"related_width": 0.0}, r"a number in \(0, 1\]"),
        ({"related_width": 1.5}, r"a number in \(0, 1\]"),
        ({"related_width": 0.5, "related_blocks": "low-rank"}, "clones nothing"),
    ):
        with pytest.raises(MixERError, match=said):
            MixERConfig(**wrong)


def test_half_width_of_two_stages_costs_less_than_the_last_one_whole():
    torchvision = pytest.importorskip("torchvision", reason="torchvision is absent")
    with torch.device("meta"):
        net = torchvision.models.resnet50(num_classes=3)
    counts = {}
    for stages, width in ((1, 1.0), (2, 0.5)):
        config = MixERConfig(related_stages=stages, related_width=width)
        part, _ = stage_parts(GenericAdapter("layer4", "avgpool"), net, config)
        counts[stages] = sum(p.numel() for p in thinned(part, width).parameters())
    assert counts[2] < counts[1]
