"""Lighter related heads: the last block of the stage, or a low-rank path beside it."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixer_plugin import MixERConfig, MixERError, mixer_parameters, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.adapters.stages import stage_channels, stage_parts
from mixer_plugin.baselines.common.trunks import Stages
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.data.loading.decode import decode
from mixer_plugin.data.loading.transforms import Augmentation, normalise
from mixer_plugin.heads import LowRankPath, clone_stage
from mixer_plugin.probing import HeadRecipe, cache_maps, train_heads
from tests.contract.attached import build, traces, wrap
from tests.contract.toys import TOYS, PlainNet, PlainViT
from tests.contract.variants import LIGHTER, deeper
from tests.unit.probing.test_probing_maps import SIZE, images  # noqa: F401

LAST = [name for name in LIGHTER if name.endswith("/last")]
LOW_RANK = [name for name in LIGHTER if name.endswith("/low-rank")]
ROWS = {**TOYS, **LIGHTER}


def part(adapter, net, blocks):
    return stage_parts(adapter, net, MixERConfig(related_blocks=blocks))


@contextlib.contextmanager
def calls_of(*modules):
    """Of each module, (first argument, output) of its calls."""
    seen = [[] for _ in modules]
    handles = [
        module.register_forward_hook(lambda _, a, out, kept=kept: kept.append((a, out)))
        for module, kept in zip(modules, seen, strict=True)
    ]
    yield seen
    for handle in handles:
        handle.remove()


def joined(toy, tensors):
    """One row per image of what a module of the base saw in its calls."""
    rows = torch.cat(tensors)
    return rows.chunk(3)[0] if toy.name.startswith("deen") else rows


def perturb(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.mixer.heads.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


def stage_of(toy, model):
    """What runs as the stage: of a network that calls its blocks itself, the only one."""
    stage = model.get_submodule(toy.resolved.stage_path(model))
    return stage[0] if toy.name.startswith("agw") else stage


def last_block(toy, model):
    """What a head is a clone of, told apart from what the adapter says."""
    if toy.name == "generic/vit/last":
        return [model.blocks[1], model.norm]
    stage = model.get_submodule(toy.resolved.stage_path(model))
    if toy.name.startswith(("generic", "saai-base/vit")):
        return list(stage)[-3:]  # convolution, norm, activation; block, norm, map
    return [stage[-1]]


@pytest.mark.parametrize("name", [*TOYS, *LAST])
def test_a_head_is_its_clone_on_what_that_took_in_the_base(name):
    toy = ROWS[name]
    model, batch = wrap(toy, build(toy)).eval(), toy.batch()
    if toy.options.get("related_blocks") == "last":
        blocks = last_block(toy, model)
    elif name == "generic/vit":
        blocks = [model.blocks[1], model.norm]
    else:
        blocks = [stage_of(toy, model)]
    clones = [clone_stage(block).eval() for block in blocks]
    heads = list(model.mixer.heads.values())
    hooked = calls_of(blocks[0], *(head.stage for head in heads))
    with hooked as (base, *related), model.mixer.matching(), torch.no_grad():
        toy.look(model, batch)
    taken = joined(toy, [arguments[0] for arguments, _ in base])
    for m, ((arguments, out),) in enumerate(related):
        assert torch.equal(arguments[0], taken[batch.modality == m])
        expected = arguments
        with torch.no_grad():
            for clone in clones:
                expected = (clone(*expected),)
        assert torch.equal(out, expected[0])
    own = sum(p.numel() for p in heads[0].stage.parameters())
    assert own == sum(p.numel() for block in blocks for p in block.parameters())


def test_all_is_the_default_and_last_is_less():
    assert MixERConfig().related_blocks == "all"
    for name in LAST:
        toy = LIGHTER[name]
        whole = dataclasses.replace(toy, options={})
        light, full = (len(mixer_parameters(wrap(t, build(t)))) for t in (toy, whole))
        assert light < full, name


@pytest.mark.parametrize("name", LOW_RANK)
def test_a_low_rank_head_starts_from_the_bases_own_map(name):
    toy = LIGHTER[name]
    model, batch = wrap(toy, build(toy)), toy.batch()
    stage = stage_of(toy, model)
    for training in (False, True):
        model.train(training)
        heads = [head.stage for head in model.mixer.heads.values()]
        assert all(p.requires_grad for head in heads for p in head.parameters())
        loop = toy.loop()
        loop.start_epoch(model, 0)
        with calls_of(stage, *heads) as (base, *related):
            if training:
                toy.step(model, batch, loop)
                base = base[:2] if toy.name.startswith("sgeil") else base  # without body shapes
            else:
                with model.mixer.matching():
                    toy.look(model, batch)
        taken = joined(toy, [arguments[0] for arguments, _ in base])
        given = joined(toy, [out for _, out in base])
        for m, (((x, stage_map), out),) in enumerate(related):
            assert torch.equal(x, taken[batch.modality == m])
            assert torch.equal(stage_map, given[batch.modality == m])
            assert torch.equal(out, stage_map)
    before = model.mixer.record.related_before.clone()
    perturb(model)
    with model.eval().mixer.matching():
        toy.look(model, batch)
    assert torch.isfinite(model.mixer.record.related_before).all()
    assert not torch.allclose(model.mixer.record.related_before, before)


@pytest.mark.parametrize("size", [(6, 4), (3, 2)])
def test_the_low_rank_path_is_three_convolutions(size):
    torch.manual_seed(0)
    path = LowRankPath(8, 10, 5).train()
    for p in path.parameters():
        nn.init.normal_(p)
    x, stage_map = torch.randn(4, 8, 6, 4), torch.randn(4, 10, *size)
    weights = {name: p.detach() for name, p in path.named_parameters()}

    def step(name, y, padding=0):
        y = F.conv2d(y, weights[f"{name}.0.weight"], padding=padding)
        return F.batch_norm(
            y, None, None, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"], training=True
        )

    y = step("reduce", x).relu()
    if size == (3, 2):
        y = F.avg_pool2d(y, 2)
    expected = stage_map + step("expand", step("mix", y, padding=1).relu())
    torch.testing.assert_close(path(x, stage_map), expected)
    assert len(weights) == 9


@pytest.mark.parametrize(("inputs", "rank", "expected"), [(32, 0, 8), (6, 0, 4), (32, 3, 3)])
def test_the_rank_is_a_quarter_of_the_inputs_channels(inputs, rank, expected):
    assert LowRankPath(inputs, 5, rank).mix[0].weight.shape == (expected, expected, 3, 3)


def test_the_rank_is_an_option():
    config = MixERConfig(related_blocks="low-rank", related_rank=2)
    model = wrap(TOYS["generic"], build(TOYS["generic"]), config=config)
    assert model.mixer.heads["visible"].stage.mix[0].weight.shape[:2] == (2, 2)


@pytest.mark.parametrize("name", ["saai/last", "deen/low-rank", "sgeil/low-rank", "generic/last"])
def test_what_the_related_feature_sends_into_the_base(name):
    toy = LIGHTER[name]
    found = {}
    for mode, related_input in (
        ("f", "flow"),
        *(("e2e", v) for v in ("detach", "flow", "reverse")),
    ):
        config = MixERConfig(related_input=related_input, reversal=0.125, reversal_warmup=0)
        model = wrap(toy, build(toy), mode, config=config).train()
        compute, related = model.mixer.loss, []

        def keep(*given, mixer=model.mixer, compute=compute, related=related, **more):
            related.append(mixer.record.related_before)
            return compute(*given, **more)

        model.mixer.loss = keep
        toy.step_loss(model, toy.batch())
        related[0].sum().backward()
        assert any(p.grad is not None for p in model.mixer.parameters())
        found[mode, related_input] = {
            n: p.grad
            for n, p in model.named_parameters()
            if p.grad is not None and not n.startswith("mixer.")
        }
    assert not found["f", "flow"]
    assert not found["e2e", "detach"]
    flow, reverse = found["e2e", "flow"], found["e2e", "reverse"]
    stage = toy.resolved.stage_path(build(toy))
    assert any(n.startswith(stage) for n in flow)  # earlier blocks, or the base's own map
    assert any(not n.startswith(stage) for n in flow)
    for key, value in flow.items():
        # A power of two scales without rounding.
        torch.testing.assert_close(reverse[key], -0.125 * value, atol=1e-5, rtol=1e-3)


class LastStage(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.layer4 = Stages("resnet50", first=4, last_stride=stride).layer4
        self.avgpool = nn.AdaptiveAvgPool2d(1)


@pytest.mark.parametrize("stride", [1, 2])
def test_lighter_heads_cost_a_third_or_less(stride):
    with torch.device("meta"):
        net, adapter = LastStage(stride), GenericAdapter("layer4", "avgpool")
        path = LowRankPath(*stage_channels(adapter, net))
    x = torch.empty(2, 1024, 18, 9, device="meta")
    whole, last = (part(adapter, net, blocks)[0] for blocks in ("all", "last"))
    stage_map = whole(x)
    parameters, products = {}, {}
    for name, head, inputs in (
        ("all", whole, (x,)),
        ("last", last, (whole[:-1](x),)),
        ("low-rank", path, (x, stage_map)),
    ):
        with FlopCounterMode(display=False) as counter:
            assert head(*inputs).shape == stage_map.shape
        parameters[name] = sum(p.numel() for p in head.parameters())
        products[name] = counter.get_total_flops() // 2
    assert parameters["low-rank"] < parameters["last"] < parameters["all"]
    assert products["last"] <= products["all"] / 3
    assert products["low-rank"] <= products["all"] / 3


def test_stages_of_several_parts_end_with_their_last_block():
    net = PlainViT()
    chains = {("blocks", "norm"): 1, ("blocks.0", "blocks.1", "norm"): 1, ("blocks", "blocks.0"): 0}
    for stage, block in chains.items():
        adapter = GenericAdapter(stage, pool=lambda tokens: tokens[:, 0], embedding="norm")
        found, taps = part(adapter, net, "last")
        assert taps["stage_input"].path == f"blocks.{block}"
        expected = [net.blocks[block], net.norm] if stage[-1] == "norm" else [net.blocks[block]]
        assert (list(found) if isinstance(found, nn.Sequential) else [found]) == expected
    adapter = deeper(TOYS["generic"]).adapter()
    net = deeper(TOYS["generic"]).build()
    assert list(part(adapter, net, "last")[0]) == list(net.layer4)[-3:]


class OwnForward(nn.Sequential):
    def forward(self, x):
        return super().forward(x).relu()


def refused(model, blocks, **options):
    before = traces(model)
    config = MixERConfig(related_blocks=blocks)
    with pytest.raises(MixERError) as caught:
        wrap_with_mixer(model, config=config, **options)
    assert isinstance(caught.value, ValueError)
    assert traces(model) == before
    return str(caught.value)


@pytest.mark.parametrize("name", list(TOYS))
def test_a_stage_of_one_block_is_refused_and_the_model_stays(name):
    message = refused(TOYS[name].build(), "last", adapter=TOYS[name].adapter())
    assert 'related_blocks="all"' in message
    assert '"low-rank"' in message


def test_what_cannot_be_taken_apart_or_has_no_map_is_refused():
    vit = TOYS["generic/vit"]
    message = refused(PlainViT(), "low-rank", adapter=vit.adapter())
    assert "no convolution" in message
    assert 'related_blocks="all" or "last"' in message
    net = PlainNet()
    net.layer4 = OwnForward(*(nn.Conv2d(c, 12, 1) for c in (8, 12)))
    assert "OwnForward that cannot be taken apart" in refused(
        net, "last", adapter=GenericAdapter("layer4", "avgpool")
    )
    net.layer4 = nn.Sequential(nn.Conv2d(8, 12, 1), nn.Flatten())
    adapter = GenericAdapter("layer4", "avgpool", pool=lambda x: x[:, :12], width=12)
    assert "it gives [2, 3072]" in refused(net, "low-rank", adapter=adapter)

    class Elsewhere(GenericAdapter):
        stage_blocks = GenericAdapter.__mro__[1].stage_blocks

        def stage_module(self, model):
            return nn.Sequential(model.stem, model.layer4)

    for blocks in ("last", "low-rank"):
        message = refused(PlainNet(), blocks, adapter=Elsewhere("layer4", "avgpool", width=12))
        assert "override Adapter.stage_blocks" in message


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"related_blocks": "lowrank"}, "Did you mean 'low-rank'"),
        ({"related_blocks": "low-rank", "related_rank": -1}, "whole number >= 0"),
        ({"related_blocks": "low-rank", "related_rank": 2.0}, "whole number"),
        ({"related_blocks": "low-rank", "related_rank": True}, "whole number"),
        ({"related_rank": 8}, "drop related_rank"),
    ],
)
def test_wrong_options_are_refused(options, hint):
    with pytest.raises(MixERError, match=hint):
        MixERConfig(**options)


def frozen(toy):
    model = build(toy).eval()
    for module in model.modules():  # statistics that normalise, as a trained network has
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_var.uniform_(0.5, 1.5)
    return wrap(toy, model, "f", config=MixERConfig(frozen_base=True), seed=0).eval()


def cached_maps_that_train(toy, model, given, folder):
    """Maps that give the related features of the live model, and from which its heads learn."""
    maps = cache_maps(model, given, folder, size=SIZE, batch=5)
    perturb(model)
    rows = torch.cat([torch.from_numpy((given.modality == m).nonzero()[0][:3]) for m in (0, 1)])
    modality = maps.modality[rows]
    pixels = normalise(decode(given, SIZE), Augmentation())[rows]
    with model.mixer.matching(), torch.no_grad():
        toy.look(model, Batch(pixels, modality, modality, 1 + 2 * modality))
        live = model.mixer.record.related_before
        cached = model.mixer.with_related(model, maps.record(rows, "cpu")).related_before
    torch.testing.assert_close(cached, live, atol=5e-3, rtol=5e-3)
    before = [p.detach().clone() for p in mixer_parameters(model)]
    train_heads(model, maps, recipe=HeadRecipe(p=3, k=1, iterations=2, warmup=1))
    assert not all(map(torch.equal, before, mixer_parameters(model)))
    return maps


@pytest.mark.parametrize("name", ["saai/low-rank", "deen/last", "sgeil/low-rank"])
def test_heads_train_on_cached_maps(images, tmp_path, name):  # noqa: F811
    toy = LIGHTER[name]
    model = frozen(toy)
    maps = cached_maps_that_train(toy, model, images, tmp_path)
    whole = frozen(dataclasses.replace(toy, options={}))
    if name.endswith("low-rank"):  # the maps hold what whole clones need, too
        train_heads(whole, maps, recipe=HeadRecipe(p=3, k=1, iterations=1))
        maps = cache_maps(whole, images, tmp_path, size=SIZE, batch=5)
    else:
        model = whole
    with pytest.raises(MixERError, match="read elsewhere than these heads"):
        train_heads(model, maps)
