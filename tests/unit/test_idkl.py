"""IDKL: losses against literal loops, structure, odd batches, checkpoints, its adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin import mixer_features, wrap_with_mixer
from mixer_plugin.adapters import resolve_adapter
from mixer_plugin.baselines import create_baseline, load_official
from mixer_plugin.baselines.idkl import IDKL, Mask, ModalityHead, gem
from mixer_plugin.baselines.idkl_losses import (
    LOSS_WEIGHTS,
    LossWeights,
    Split,
    class_alignment_loss,
    graph,
    graph_alignment_loss,
    modality_gap_loss,
    pseudo_modality,
    purified_entropy_loss,
    symmetric_kl,
)
from mixer_plugin.baselines.losses import batch_hard_triplet_loss
from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.baselines.trunks import create_trunk
from mixer_plugin.errors import MixERValueError


def small(**options: Any) -> Any:
    torch.manual_seed(0)
    return create_baseline("idkl", 4, trunk="small", **options)


def batch(k: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels (two identities, k rows per modality) and cameras, I and V in turn."""
    torch.manual_seed(1)
    labels = torch.tensor([3, 1]).repeat_interleave(2 * k)
    return torch.randn(4 * k, 3, 64, 32), labels, torch.tensor([3, 1, 6, 2]).repeat(k)


def split(rows: int = 2, identities: int = 2, width: int = 3, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    size = (2, identities * rows, width)
    return Split(*torch.randn(*size, dtype=torch.float64, generator=generator), rows)


def probabilities(row: Tensor) -> list[float]:
    exps = [math.exp(x) for x in row.tolist()]
    return [x / sum(exps) for x in exps]


def literal_symmetric_kl(a: Tensor, b: Tensor) -> float:
    total = 0.0
    for one, other in zip(a, b, strict=True):
        for p, q in zip(probabilities(one), probabilities(other), strict=True):
            total += p * (math.log(p) - math.log(q)) + q * (math.log(q) - math.log(p))
    return total / len(a)


def test_symmetric_kl_equals_the_loop_and_pytorchs() -> None:
    a, b = split(width=5).pair
    found = symmetric_kl(a.requires_grad_(), b.requires_grad_())
    assert found.item() == pytest.approx(literal_symmetric_kl(a, b))
    ways = [(a, b), (b, a)]
    expected = sum(F.kl_div(x.log_softmax(1), y.softmax(1), reduction="batchmean") for x, y in ways)
    for x in (a, b):
        ours, theirs = (torch.autograd.grad(y, x, retain_graph=True)[0] for y in (found, expected))
        torch.testing.assert_close(ours, theirs)


def literal_graph(features: Tensor) -> Tensor:
    rows = []
    for i, f in enumerate(features):
        others = [(f - g).norm().clamp(min=1e-3) for j, g in enumerate(features) if j != i]
        rows.append(torch.stack(others))
    return torch.stack(rows)


def test_graph_equals_the_loop() -> None:
    features = split(identities=3).visible
    features[2] = features[1]
    torch.testing.assert_close(graph(features), literal_graph(features))
    again = features.requires_grad_()
    graph(again).sum().backward()
    assert again.grad is not None
    assert again.grad.isfinite().all()


@pytest.mark.parametrize("weights", LOSS_WEIGHTS.values(), ids=LOSS_WEIGHTS)
def test_graph_alignment_equals_the_loop(weights: LossWeights) -> None:
    shared, specific = split(), split(seed=1)
    mixed = torch.stack(
        [shared.visible[0], shared.visible[1], shared.infrared[0], shared.infrared[1]]
    )
    named = {"v": shared.visible, "i": shared.infrared, "m": mixed}
    named |= {"own v": specific.visible, "own i": specific.infrared}
    g = {name: literal_graph(x) for name, x in named.items()}
    pairs = {
        ("v", "i"): weights.graph,
        ("v", "m"): weights.graph_mixed,
        ("m", "i"): weights.graph_mixed,
        ("v", "own v"): weights.graph_specific,
        ("i", "own i"): weights.graph_specific,
    }
    expected = sum(w * literal_symmetric_kl(g[a], g[b]) for (a, b), w in pairs.items())
    assert graph_alignment_loss(shared, specific, weights).item() == pytest.approx(expected)


def test_loss_weights_are_the_published_ones() -> None:
    # Branches of the public code: a batch of 120 rows, and any other.
    assert LOSS_WEIGHTS["sysu"] == LossWeights(1.0, 1.0, 0.6, 0.8)
    assert LOSS_WEIGHTS["regdb"] == LossWeights(0.1, 0.0, 0.1, 0.3)


def test_class_alignment_equals_the_loop() -> None:
    shared, specific = split(width=4), split(width=4, seed=1)
    expected = literal_symmetric_kl(*shared.pair) + 0.3 * (
        literal_symmetric_kl(shared.visible, specific.visible)
        + literal_symmetric_kl(shared.infrared, specific.infrared)
    )
    assert class_alignment_loss(shared, specific, 0.3).item() == pytest.approx(expected)


def test_side_by_side_lays_the_identities_rows_beside_each_other() -> None:
    rows = split(rows=2, identities=3, width=4)
    beside = rows.side_by_side()
    assert beside.visible.shape == beside.infrared.shape == (2, 12)
    for before, after in zip(rows.pair, beside.pair, strict=True):
        for row in range(2):
            for identity in range(3):
                own = after[row, 4 * identity : 4 * identity + 4]
                assert torch.equal(own, before[2 * identity + row])


def test_purified_entropy_equals_the_loop() -> None:
    before, after = split(width=4, identities=4).pair

    def entropy(row: Tensor) -> float:
        return -sum(p * math.log(p) for p in probabilities(row))

    gains = [entropy(a) - entropy(b) for a, b in zip(after, before, strict=True)]
    assert min(gains) < 0 < max(gains), "the hinge is active for some rows and not for others"
    expected = sum(math.exp(max(gain, 0.0)) - 1 for gain in gains) / 8
    assert purified_entropy_loss(before, after).item() == pytest.approx(expected)


def test_modality_gap_equals_the_loop() -> None:
    before, after = split(identities=3), split(identities=3, seed=5)

    def gap(features: Split, identity: int) -> float:
        own = slice(2 * identity, 2 * identity + 2)
        difference = features.visible[own].mean(0) - features.infrared[own].mean(0)
        return float((difference + 1e-6).norm())  # as F.pairwise_distance has it

    gains = [gap(after, y) - gap(before, y) for y in range(3)]
    assert min(gains) < 0 < max(gains), "the hinge is active for some and not for others"
    expected = sum(max(gain, 0.0) for gain in gains) / 3
    assert modality_gap_loss(before, after).item() == pytest.approx(expected)


def test_pseudo_modality() -> None:
    turns = torch.tensor([True, False] * 4)
    assert pseudo_modality(turns).tolist() == [1, 0, 0, 1, 1, 0, 0, 1]
    other = torch.tensor([True, True, False, False, False, True])
    assert pseudo_modality(other).tolist() == [1, 1, 1, 0, 0, 1]


def test_gem_equals_the_loop_and_has_a_gradient_everywhere() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 4)
    x[0, 0] = -1.0  # nothing above the lower bound
    found = gem(x.requires_grad_())
    for b in range(2):
        for c in range(3):
            cubes = [max(v, 1e-6) ** 3 for v in x[b, c].flatten().tolist()]
            assert found[b, c].item() == pytest.approx((sum(cubes) / 8) ** (1 / 3), rel=1e-5)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    half = x.detach().half().requires_grad_()
    gem(half).sum().backward()
    assert gem(half).dtype == torch.float16
    assert half.grad is not None
    assert half.grad.isfinite().all()


def test_mask_is_a_gate_of_each_position() -> None:
    torch.manual_seed(0)
    mask, x = Mask(32), torch.randn(2, 32, 2, 3)
    first, second = (mask.channel_attention[i].weight[:, :, 0, 0] for i in (0, 2))
    assert first.shape == (2, 32)
    for y in range(2):
        for z in range(3):
            expected = torch.sigmoid(F.relu(x[1, :, y, z] @ first.T) @ second.T)
            torch.testing.assert_close(mask(x)[1, :, y, z], expected)


def test_modality_head() -> None:
    torch.manual_seed(0)
    head, x = ModalityHead(6).eval(), torch.randn(4, 6)
    hidden = x
    for layer in (head.fc1, head.fc2):
        hidden = hidden @ layer.weight.T + layer.bias
        hidden = F.relu(hidden / (1 + 1e-5) ** 0.5)  # fresh statistics: mean 0, variance 1
    torch.testing.assert_close(head(x), hidden @ head.fc3.weight.T + head.fc3.bias)
    assert torch.equal(head(x), head(x))
    kept: list[Tensor] = []
    head.fc2.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    head.train()(torch.randn(512, 6))
    # Half of what is above zero, which is half, is dropped.
    assert float((kept[0] == 0).float().mean()) == pytest.approx(0.75, abs=0.02)


def test_state_dict_names_are_the_public_ones() -> None:
    keys = list(small().state_dict())
    neck = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    head = [
        *("fc1.weight", "fc1.bias", *(f"bn1.{n}" for n in neck)),
        *("fc2.weight", "fc2.bias", *(f"bn2.{n}" for n in neck)),
        *("fc3.weight", "fc3.bias"),
    ]
    assert [key for key in keys if not key.startswith("backbone.")] == [
        *(f"bn_neck.{n}" for n in neck),
        *(f"bn_neck_sp.{n}" for n in neck),
        "classifier.weight",
        "classifier_sp.weight",
        *(f"D_special.{n}" for n in head),
        "C_sp_f.weight",
        *(f"D_shared_pseu.{n}" for n in head),
    ]
    assert [key for key in keys if key.startswith(("backbone.IN", "backbone.mask"))] == [
        *(f"backbone.IN.{n}" for n in neck),
        *(f"backbone.mask{m}.channel_attention.{i}.weight" for m in (1, 2) for i in (0, 2)),
    ]
    layers = {".".join(key.split(".")[1:4]) for key in keys if ".layer" in key}
    assert layers == {
        "shared_module_fr.model_sh_fr.layer1",
        "shared_module_fr.model_sh_fr.layer2",
        "shared_module_bh.model_sh_bh.layer3",
        "shared_module_bh.model_sh_bh.layer4",
        "special.special_module.layer3",
        "special.special_module.layer4",
    }


def test_shapes_of_the_public_resnet50_model() -> None:
    model = create_baseline("idkl", 395)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes["backbone.shared_module_fr.model_sh_fr.conv1.weight"] == (64, 3, 7, 7)
    assert shapes["backbone.shared_module_bh.model_sh_bh.layer4.0.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["backbone.special.special_module.layer3.5.bn3.running_var"] == (1024,)
    assert shapes["backbone.mask2.channel_attention.0.weight"] == (128, 2048, 1, 1)
    assert shapes["D_special.fc1.weight"] == (100, 2048)
    assert shapes["classifier_sp.weight"] == shapes["C_sp_f.weight"] == (395, 2048)
    # The public model's parameters that a training step moves, and its two frozen biases.
    assert sum(p.numel() for p in model.parameters()) == 49_490_084
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"bn_neck.bias", "bn_neck_sp.bias"}


def test_evaluation_runs_the_shared_branch_alone() -> None:
    images, labels, cams = batch()
    model = small()
    model(images, labels, cam_ids=cams)
    model.eval()
    calls: list[nn.Module] = []
    for part in (model.backbone.special, model.backbone.IN):
        part.register_forward_hook(lambda module, *_: calls.append(module))
    statistics = model.backbone.IN.running_mean.clone()
    features = model(images)
    assert features.shape == (8, 128)
    assert not calls
    stage_map = model.backbone.shared_module_bh(model.backbone.shared_module_fr(images))
    assert stage_map.shape == (8, 128, 8, 4)
    torch.testing.assert_close(features, model.bn_neck(gem(stage_map)))
    # The public model returns logits here.
    torch.testing.assert_close(model(images[2:3]), features[2:3])
    assert torch.equal(features, model(images, cam_ids=cams))
    model.train()(images, labels, cam_ids=cams)
    assert len(calls) == 2
    assert not torch.equal(statistics, model.backbone.IN.running_mean)
    model.backbone.eval()  # frozen statistics of a model in training
    assert model(images, labels, cam_ids=cams)[0].isfinite()
    assert len(calls) == 4


def test_the_specific_branch() -> None:
    images, _, _ = batch()
    backbone = small().backbone
    seen: dict[str, Tensor] = {}
    for name in ("special", "IN", "mask1", "mask2"):
        backbone.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: seen.update({name: out, f"{name} of": args[0]})
        )
    _, specific = backbone(images, specific=True)
    assert seen["IN of"] is seen["special"]
    assert seen["mask1 of"] is seen["IN"]
    assert seen["mask2 of"] is seen["special"]
    torch.testing.assert_close(seen["IN"].mean(dim=(2, 3)), torch.zeros(8, 128), atol=1e-5, rtol=0)
    both = seen["mask1"] * seen["mask2"]
    for found, stage_map in {
        "raw": seen["special"],
        "raw_kept": seen["mask2"] * seen["special"],
        "normed": seen["IN"],
        "normed_kept": seen["mask1"] * seen["IN"],
        "feature": both * seen["special"] + both * seen["IN"],
    }.items():
        torch.testing.assert_close(getattr(specific, found), gem(stage_map), msg=found)


@pytest.mark.parametrize("dataset", ["sysu", "regdb", "llcm"])
def test_training_loss_is_the_weighted_sum_of_its_terms(dataset: str) -> None:
    images, labels, cams = batch()
    model = small(dataset=dataset, margin=0.9)
    weights = LOSS_WEIGHTS["regdb" if dataset == "regdb" else "sysu"]
    out: dict[str, Tensor] = {}
    names = ["classifier", "classifier_sp", "D_special", "D_shared_pseu"]
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _, args, found, name=name: out.update({name: found.detach()})
        )
    for name, neck in (("shared", "bn_neck"), ("specific", "bn_neck_sp")):
        model.get_submodule(neck).register_forward_hook(
            lambda _, args, found, name=name: out.update({name: args[0].detach()})
        )
    raw_and_kept: list[Tensor] = []
    model.C_sp_f.register_forward_hook(lambda *args: raw_and_kept.append(args[2].detach()))
    specific: list[Any] = []
    model.backbone.register_forward_hook(lambda *args: specific.append(args[2][1]))
    loss, metrics = model(images, labels, cam_ids=cams, epoch=3)

    infrared = (cams == 3) | (cams == 6)
    v, i = [1, 3, 5, 7], [0, 2, 4, 6]

    def pair(name: str) -> Split:
        return Split(out[name][v], out[name][i], 2)

    def gap(features: Tensor) -> list[float]:
        own = [features[[a, b]].mean(0) for a, b in ((1, 3), (0, 2), (5, 7), (4, 6))]
        return [F.pairwise_distance(own[n], own[n + 1]).item() for n in (0, 2)]

    kept, before = gap(specific[0].normed_kept), gap(specific[0].normed)
    expected = {
        "tri": sum(batch_hard_triplet_loss(out[n], labels, 0.9) for n in ("shared", "specific")),
        "IN_p": sum(max(a - b, 0.0) for a, b in zip(kept, before, strict=True)) / 2,
        "F_p": purified_entropy_loss(*raw_and_kept),
        "unad": F.cross_entropy(out["D_special"], infrared.long()),
        "id_pl": F.cross_entropy(out["classifier_sp"], labels),
        "pse": F.cross_entropy(out["D_shared_pseu"], torch.tensor([1, 0, 0, 1, 1, 0, 0, 1])),
        "bg_kl": class_alignment_loss(
            pair("classifier"), pair("classifier_sp"), weights.logits_specific
        ),
        "ce": F.cross_entropy(out["classifier"], labels),
    }
    # Rows of two identities beside each other: 1 and 5, 3 and 7; 0 and 4, 2 and 6.
    beside = {
        name: Split(
            torch.stack([torch.cat([out[name][a], out[name][b]]) for a, b in ((1, 5), (3, 7))]),
            torch.stack([torch.cat([out[name][a], out[name][b]]) for a, b in ((0, 4), (2, 6))]),
            2,
        )
        for name in ("classifier", "classifier_sp")
    }
    expected["sm_kl"] = class_alignment_loss(
        beside["classifier"], beside["classifier_sp"], weights.logits_specific
    )
    if dataset != "regdb":
        expected["soft_dt"] = graph_alignment_loss(pair("shared"), pair("specific"), weights)
    assert set(metrics) == {*expected, "acc"}
    assert not any(value.requires_grad for value in metrics.values())
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], torch.as_tensor(value), msg=name)
    total = sum(expected.values()) - 0.9 * (expected["IN_p"] + expected["F_p"])
    torch.testing.assert_close(loss.detach(), torch.as_tensor(total))
    assert metrics["acc"] == (out["classifier"].argmax(1) == labels).float().mean()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_public_loop_finds_what_it_reads() -> None:
    assert small().mutual_learning is False


def test_loss_weights_and_graph_alignment_follow_the_dataset() -> None:
    for dataset, weights, distalign in [
        ("sysu", "sysu", True),
        ("llcm", "sysu", True),
        ("regdb", "regdb", False),
    ]:
        model = small(dataset=dataset)
        assert (model.loss_weights, model.distalign) == (LOSS_WEIGHTS[weights], distalign)
        recipe = load_recipe("idkl", dataset)
        assert recipe["network"]["loss_weights"] == weights
        assert recipe["network"]["distalign"] == distalign
    chosen = small(dataset="regdb", loss_weights="sysu", distalign=True)
    assert (chosen.loss_weights, chosen.distalign) == (LOSS_WEIGHTS["sysu"], True)


def test_recipe_is_the_public_yml_files() -> None:
    sysu, regdb, llcm = (load_recipe("idkl", dataset) for dataset in ("sysu", "regdb", "llcm"))
    assert sysu["image_size"] == llcm["image_size"] == [384, 144]
    assert regdb["image_size"] == [256, 128]
    assert sysu["batch"] == llcm["batch"] == {"identities": 12, "visible": 5, "infrared": 5}
    assert regdb["batch"] == {"identities": 6, "visible": 5, "infrared": 5}
    assert sysu["schedule"] == {"epochs": 160, "gamma": 0.1, "milestones": [55, 95]}
    assert sysu["optimizer"] == {"name": "adam", "lr": 0.00035, "weight_decay": 0.005}
    # Only SYSU-MM01's evaluation normalises.
    assert [r["evaluation"]["normalize"] for r in (sysu, regdb, llcm)] == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_close_to_float32(dtype: torch.dtype) -> None:
    images, labels, cams = batch()
    steps = []
    for enabled in (False, True):
        model = small()
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype, enabled=enabled):
            loss, metrics = model(images, labels, cam_ids=cams)
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        assert {value.dtype for value in metrics.values()} == {torch.float32}
        steps.append(loss.item())
    assert steps[1] == pytest.approx(steps[0], rel=0.05)


@pytest.mark.parametrize(
    ("labels", "cams"),
    [
        ([0, 0, 1, 1], [3, 1, 1, 1]),  # three visible rows, one infrared
        ([0, 0, 1, 1], [3, 3, 1, 1]),  # even, but each identity in one modality
        ([0, 1, 0, 1], [3, 1, 1, 3]),  # not identity by identity
        ([0, 0, 1, 1, 1, 1], [3, 1, 3, 1, 3, 1]),  # more of one identity
        ([0, 0, 1, 1, 0, 0], [3, 1, 3, 1, 3, 1]),  # an identity in two places
        ([0, 0, 1, 1], [3, 3, 3, 3]),  # one modality
        ([], []),
    ],
)
def test_batches_that_the_losses_cannot_pair(labels: list[int], cams: list[int]) -> None:
    model = small(distalign=False)
    images = torch.randn(len(labels), 3, 64, 32)
    with pytest.raises(MixERValueError, match=r"identity by identity.*order='grouped'"):
        model(images, torch.tensor(labels), cam_ids=torch.tensor(cams))


def test_an_odd_number_of_rows_per_modality() -> None:
    images, labels, cams = torch.randn(6, 3, 64, 32), [0, 0, 1, 1, 2, 2], torch.tensor([3, 1] * 3)
    arguments = (images, torch.tensor(labels))
    with pytest.raises(MixERValueError, match=r"3 rows per modality.*distalign=False"):
        small()(*arguments, cam_ids=cams)
    loss, metrics = small(distalign=False)(*arguments, cam_ids=cams)
    assert loss.isfinite()
    assert "soft_dt" not in metrics
    # Modalities in blocks within an identity are as good as in turns.
    images, labels, cams = batch()
    loss, _ = small()(images, labels, cam_ids=torch.tensor([3, 3, 1, 1] * 2))
    assert loss.isfinite()


def test_errors_name_the_way_out() -> None:
    images, labels, cams = batch()
    with pytest.raises(MixERValueError, match=r"'syus'.*Did you mean 'sysu'"):
        small(loss_weights="syus")
    with pytest.raises(MixERValueError, match="last_stride is 3"):
        small(last_stride=3)
    model = small()
    with pytest.raises(MixERValueError, match=r"IDKL got no labels.*eval\(\)"):
        model(images, cam_ids=cams)
    with pytest.raises(MixERValueError, match=r"IDKL got no cam_ids.*Pass cam_ids="):
        model(images, labels)


def public_like(model: nn.Module) -> dict[str, Tensor]:
    """Our state dict and what the public one holds besides: three whole ResNets, an attention."""
    state = dict(model.state_dict())
    for path in (
        "shared_module_fr.model_sh_fr",
        "shared_module_bh.model_sh_bh",
        "special.special_module",
    ):
        for key, value in create_trunk("small").state_dict().items():
            state.setdefault(f"backbone.{path}.{key}", value)
    for i in (0, 2):
        state[f"backbone.special_att.channel_attention.{i}.weight"] = torch.zeros(8, 8, 1, 1)
    return state


def test_load_official_accounts_for_dead_tensors(tmp_path: Path) -> None:
    source = small()
    torch.nn.init.ones_(source.backbone.IN.running_mean)
    state = public_like(source)
    torch.save(state, tmp_path / "model.pth")
    torch.manual_seed(9)
    model = create_baseline("idkl", 4, trunk="small")
    report = load_official(model, tmp_path / "model.pth")
    assert set(report.loaded) == set(source.state_dict())
    assert set(report.dead) == set(state) - set(report.loaded)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    text = str(report)
    for reason in ("later stages", "first stages", "an attention that no forward uses"):
        assert reason in text
    for extra, hint in [
        ({"backbone.special.special_module.layer5.weight": torch.zeros(1)}, "1 unknown"),
        ({"bn_neck.weight": torch.zeros(7)}, "1 of another shape"),
    ]:
        torch.save({**state, **extra}, tmp_path / "other.pth")
        with pytest.raises(MixERValueError, match=hint):
            load_official(model, tmp_path / "other.pth")
    del state["backbone.IN.running_mean"]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(MixERValueError, match=r"1 missing: backbone\.IN\.running_mean"):
        load_official(model, tmp_path / "other.pth")


def test_weights_reach_all_three_parts(tmp_path: Path) -> None:
    torch.manual_seed(5)
    trunk = create_trunk("small")
    torch.save({**trunk.state_dict(), "fc.weight": torch.zeros(9, 128)}, tmp_path / "trunk.pt")
    backbone = small(weights=tmp_path / "trunk.pt").backbone
    first, shared, special = (
        backbone.shared_module_fr.model_sh_fr,
        backbone.shared_module_bh.model_sh_bh,
        backbone.special.special_module,
    )
    for part, layers in (
        (first, ("conv1", "bn1", "layer1", "layer2")),
        (shared, ("layer3", "layer4")),
        (special, ("layer3", "layer4")),
    ):
        expected = {k: v for k, v in trunk.state_dict().items() if k.split(".")[0] in layers}
        assert {k: v.shape for k, v in part.state_dict().items()} == {
            k: v.shape for k, v in expected.items()
        }
        assert all(torch.equal(v, part.state_dict()[k]) for k, v in expected.items())
    shared.layer4[0].conv1.weight.data.zero_()
    assert special.layer4[0].conv1.weight.any(), "the branches share no memory"
    images = torch.randn(2, 3, 64, 32)
    whole = trunk.eval()(images)
    special_map = backbone.eval().special(backbone.shared_module_fr(images))
    torch.testing.assert_close(special_map, whole)


class PublicLike(IDKL):
    """Returns what the public model returns for a single image: logits."""

    def forward(self, inputs: Tensor, labels: Tensor | None = None, **options: Any) -> Any:
        found = super().forward(inputs, labels, **options)
        return self.classifier(found) if not self.training and len(inputs) == 1 else found


@pytest.mark.parametrize("wrapped", [False, True])
def test_embed_of_one_image_and_of_2048(wrapped: bool) -> None:
    images, _, cams = batch()
    modality = (cams % 3 == 0).long()
    model = small().eval()
    model.__class__ = PublicLike
    adapter = resolve_adapter(model)
    assert adapter.name == "idkl"
    assert model(images[:1]).shape == (1, 4)
    if wrapped:
        wrap_with_mixer(model, seed=0).eval()
    expected = adapter.embed(model, images, modality)
    for row in (0, 3):
        one = adapter.embed(model, images[row : row + 1], modality[row : row + 1])
        torch.testing.assert_close(one, expected[row : row + 1])
    with pytest.raises(MixERValueError, match=r"2048 images.*another batch size"):
        adapter.embed(model, torch.zeros(2048, 3, 1, 1), torch.zeros(2048).long())


def test_the_related_feature_pools_as_the_base_does() -> None:
    images, _, cams = batch()
    model = wrap_with_mixer(small(), seed=0).eval()
    with model.mixer.matching(), torch.no_grad():
        erased = model(images, cam_ids=cams)
    # The clones start as the base's stage: before any step the two features are one.
    torch.testing.assert_close(model.mixer.record.related_before, model.mixer.record.erased_before)
    assert torch.equal(mixer_features(model).erased, erased)


def test_the_adapter_pools_half_precision_maps() -> None:
    model = small()
    adapter, stage_map = resolve_adapter(model), torch.randn(2, 128, 4, 2)
    for dtype in (torch.float64, torch.float32, torch.float16):
        found = adapter.pool(model, stage_map.to(dtype))
        assert found.dtype == dtype
        tolerance = 1e-2 if dtype == torch.float16 else 1e-6
        expected = gem(stage_map.double())
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
