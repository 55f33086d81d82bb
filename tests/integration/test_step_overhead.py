"""The measurement of a step's cost, in miniature: what is counted, what is written, no timings."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from mixer_plugin.baselines import list_baselines
from mixer_plugin.benchmarks.speed import harness, step_overhead
from mixer_plugin.benchmarks.speed.step_overhead import main
from mixer_plugin.benchmarks.speed.step_variants import VARIANTS, Case, make_variant
from mixer_plugin.config import MixERConfig
from mixer_plugin.heads import parts_of

SMALL = ["--trunk", "small", "--size", "32", "16", "--p", "2", "--k", "2"]


def case(baseline, **changes):
    return Case(
        **{"baseline": baseline, "mode": "e2e", "p": 2, "k": 2, "size": (32, 16), **changes},
        trunk="small",
        classes=5,
    )


def counted(variant):
    return harness.operations(variant.step)


def by_hand(clone: nn.Module, total: list[int]) -> None:
    """Adds up what a clone's convolutions cost, forward and backward."""

    def hook(conv, args, output):
        places = output.shape[0] * output.shape[2] * output.shape[3]
        products = 2 * places * conv.weight.numel()
        # Forward, gradient of the weight, and of the input where it has one.
        total.append(products * (3 if args[0].requires_grad else 2))

    for module in clone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(hook)


@pytest.mark.parametrize("options", [{}, {"related_stages": 3, "related_heads": "shared"}], ids=str)
@pytest.mark.parametrize("baseline", list_baselines())
def test_the_floor_is_one_clone_per_image_and_nothing_else(baseline, options):
    made = case(baseline, mixer=MixERConfig(**options))
    bare, floor = (make_variant(made, kind) for kind in ("bare", "floor"))
    total: list[int] = []
    rows = []
    for clone in floor.net.clones.stages:
        by_hand(clone, total)
        first = parts_of(clone)[0]
        first.register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    assert counted(floor) - counted(bare) == sum(total) > 0
    assert [len(x) for x in rows] == ([8] if options else [4, 4])  # of 8 images, 4 of a modality
    assert not any(x.requires_grad for x in rows)


@pytest.mark.parametrize("baseline", ["saai", "ddag", "mpanet"])
def test_the_floor_trains_the_network_as_it_is_and_the_clones_too(baseline):
    bare, floor = (make_variant(case(baseline), kind) for kind in ("bare", "floor"))
    first = [{k: v.clone() for k, v in c.state_dict().items()} for c in floor.net.clones.stages]
    for _ in range(2):
        assert torch.isfinite(bare.step())
        assert torch.isfinite(floor.step())
    trained = floor.net.state_dict()
    assert [k for k, v in bare.net.state_dict().items() if not torch.equal(v, trained[k])] == []
    for before, clone in zip(first, floor.net.clones.stages, strict=True):
        moved = [not torch.equal(p, before[name]) for name, p in clone.named_parameters()]
        assert moved
        assert all(moved)


def test_mixer_counts_no_more_than_the_floor_and_its_classifiers():
    counts = {kind: counted(make_variant(case("ddag"), kind)) for kind in VARIANTS}
    wrapped = make_variant(case("ddag", mode="f"), "mixer")
    assert counts["bare"] < counts["floor"] < counts["mixer"]
    width, classes, rows = 128, 5, 8
    # Forward and both gradients of the related identities' and the modalities' classifiers; two
    # distances of the fusion loss, fused and erased, and the centres of both modalities.
    small = 6 * rows * width * (2 * classes + 2) + 12 * rows * rows * width * 4
    assert counts["mixer"] - counts["floor"] < small
    assert counted(wrapped) <= counts["mixer"]


def test_the_command_writes_what_it_measured(tmp_path, capsys):
    out = tmp_path / "found.json"
    words = ["--baseline", "saai", "ddag", "--mode", "e2e", "f", "--rounds", "2", *SMALL]
    words += ["--mixer", "related_stages=2"]
    assert main([*words, "--out", str(out)]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["device"]
    assert found["commit"]
    assert found["date"].endswith("+00:00")
    named = [(n["baseline"], n["mode"]) for n in found["networks"]]
    assert named == [("saai", "e2e"), ("saai", "f"), ("ddag", "e2e"), ("ddag", "f")]
    for one, other in (found["networks"][:2], found["networks"][2:]):
        for shared in ("bare", "floor"):
            assert one["seconds"][shared] == other["seconds"][shared]
            assert one["flops"][shared] == other["flops"][shared]
        assert one["seconds"]["mixer"] != other["seconds"]["mixer"]
    for network in found["networks"]:
        assert network["clock"] == "cpu"
        assert network["images"] == 8
        assert network["memory"] is None
        assert network["threads"] == torch.get_num_threads()
        assert network["case"]["size"] == [32, 16]
        assert network["case"]["mixer"]["related_stages"] == 2
        floor = network["flops"]["floor"] / network["flops"]["bare"]
        assert network["flop_floor"] == floor > 1
        for which in ("median", "min"):
            times = {k: network["seconds"][k][f"cpu_{which}"] for k in VARIANTS}
            over = network["mixer_over_bare"][which]
            assert over == times["mixer"] / times["bare"]
            assert network["mixer_over_floor"][which] == times["mixer"] / times["floor"]
            assert network["overhead_ratio"][which] == pytest.approx(over / floor)
        for kind in VARIANTS:
            wall = network["seconds"][kind]["wall_median"]
            assert network["images_per_s"][kind] == pytest.approx(8 / wall)
    assert found["networks"][2]["optimizer"] == "sgd"
    assert capsys.readouterr().out.count("overhead") == 4


def test_a_variants_order_changes_from_round_to_round():
    ran: list[str] = []
    turns = {kind: lambda kind=kind: ran.append(kind) for kind in VARIANTS}
    seconds = harness.take_turns(turns, rounds=3).seconds
    warm, *rounds = (tuple(ran[i : i + 3]) for i in range(0, len(ran), 3))
    assert warm == VARIANTS
    assert [r[0] for r in rounds] == list(VARIANTS)
    assert {tuple(sorted(r)) for r in rounds} == {VARIANTS}
    assert set(seconds["cpu"]) == set(seconds["wall"]) == set(VARIANTS)


def test_memory_is_asked_of_a_process_with_the_same_case(monkeypatch):
    wanted = [case("mpanet", precision="bf16", channels_last=False, mode=m) for m in ("e2e", "f")]
    asked = []

    def here(function, *arguments):
        asked.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(harness, "in_own_process", here)
    found = step_overhead.memory(wanted)
    e2e, f = wanted
    assert asked == [(e2e, "bare"), (e2e, "floor"), (e2e, "mixer"), (f, "mixer")]
    for own in found:
        assert own["of"].startswith("peak resident set")
        assert set(own) == {"of", *VARIANTS}
        assert all(isinstance(own[kind], int) and own[kind] >= 0 for kind in VARIANTS)
    assert [own["bare"] for own in found] == [found[0]["bare"]] * 2


def test_without_words_the_case_is_the_public_recipe():
    options = step_overhead.parser().parse_args(["--device", "cuda", "--precision", "bf16"])
    found = step_overhead.case_of(options, "mpanet", "e2e")
    assert (found.p, found.k, found.size, found.trunk) == (16, 4, (384, 128), "resnet50")
    assert found.network["parts"] == 6
    assert found.channels_last
    assert found.classes == 395
