"""Baselines: losses against literal loops, structure, moving copies, odd batches, errors."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin import baselines
from mixer_plugin.baselines import create_baseline, create_loop, list_baselines, load_official
from mixer_plugin.baselines.losses import center_separation_loss
from mixer_plugin.baselines.recipe import build_optimizer, datasets_of, load_recipe, set_rates
from mixer_plugin.baselines.saai import SAAI, DualNeck, PartPooling, part_diversity_loss
from mixer_plugin.baselines.trunks import create_trunk
from mixer_plugin.errors import MixERValueError


def small(name: str = "saai", **options: object) -> SAAI:
    torch.manual_seed(0)
    return create_baseline(name, 4, trunk="small", image_size=(64, 32), **options)  # type: ignore[return-value,arg-type]


def batch(rows: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels (two rows each) and cameras, infrared and visible in turn."""
    torch.manual_seed(1)
    labels = torch.arange(rows // 2).repeat_interleave(2)
    return torch.randn(rows, 3, 64, 32), labels, torch.tensor([3, 1, 6, 5]).repeat(rows // 4)


def literal_center_separation(
    features: Tensor, labels: Tensor, pull_margin: float, push_margin: float
) -> Tensor:
    centers = {int(y): features[labels == y].mean(0) for y in labels.unique()}
    pull = [
        max((f - centers[int(y)]).norm() - pull_margin, torch.zeros(()))
        for f, y in zip(features, labels, strict=True)
    ]
    push = []
    for y, center in centers.items():
        others = [
            max(push_margin - (center - centers[int(z)]).norm(), torch.zeros(()))
            for z in labels
            if int(z) != y
        ]
        if others:
            push.append(sum(others) / len(others))
    return sum(pull) / len(pull) + (sum(push) / len(push) if push else 0.0)


@pytest.mark.parametrize(
    "labels", [[0, 0, 0, 1, 1, 1], [2, 0, 2, 1, 1, 2], [0, 1, 2, 3, 4, 5], [7, 7, 7, 7, 7, 7]]
)
@pytest.mark.parametrize("scale", [0.05, 0.4, 3.0])
def test_center_separation_equals_the_loop(labels: list[int], scale: float) -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 5, dtype=torch.float64) * scale
    target = torch.tensor(labels)
    # A push margin at which the hinge is partly active for every scale.
    margins = (0.6 * scale, 2.0 * scale)
    torch.testing.assert_close(
        center_separation_loss(features, target, *margins),
        literal_center_separation(features, target, *margins).double(),
    )


def test_center_separation_has_finite_gradients_at_a_centre() -> None:
    features = torch.zeros(4, 3, requires_grad=True)
    center_separation_loss(features, torch.tensor([0, 1, 1, 2])).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_center_separation_gradcheck() -> None:
    torch.manual_seed(0)
    features = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda f: center_separation_loss(f, labels, 0.1, 4.0), features)


def test_part_diversity_equals_the_loop() -> None:
    torch.manual_seed(0)
    masks = torch.rand(3, 4, 10)
    expected, pairs = 0.0, 0
    for image in masks:
        for i in range(4):
            for j in range(i + 1, 4):
                expected -= float(((image[i] - image[j]) ** 2).mean() ** 0.5)
                pairs += 1
    assert float(part_diversity_loss(masks)) == pytest.approx(expected / pairs, rel=1e-5)
    assert float(part_diversity_loss(masks[:, :1])) == 0


def test_part_pooling_is_the_mean_under_the_masks() -> None:
    torch.manual_seed(0)
    pool = PartPooling(channels=6, parts=2, positions=12)
    x = torch.randn(3, 6, 4, 3)
    features, masks = pool(x)
    for b in range(3):
        for p in range(2):
            pixels = x[b].flatten(1).T
            scores = torch.sigmoid((pixels + pool.pos_embeding) @ pool.part_tokens[p])
            torch.testing.assert_close(masks[b, p], scores)
            expected = (scores[:, None] * pixels).mean(0)
            torch.testing.assert_close(features[b, 6 * p : 6 * p + 6], expected)
    with pytest.raises(MixERValueError, match=r"2x3 positions.*for 12.*image_size"):
        pool(torch.randn(1, 6, 2, 3))


def test_neck_writes_in_place_and_per_modality() -> None:
    torch.manual_seed(0)
    neck = DualNeck(3)
    x = torch.randn(6, 3)
    before = x.clone()
    infrared = torch.tensor([True, False, True, True, False, False])
    out = neck(x, infrared)
    assert out is x
    for rows in (infrared, ~infrared):
        torch.testing.assert_close(x[rows].mean(0), torch.zeros(3), atol=1e-6, rtol=0)
        expected = F.batch_norm(before[rows], None, None, training=True)
        torch.testing.assert_close(x[rows], expected)
    assert not neck.bn_neck_v.bias.requires_grad
    assert not neck.bn_neck_i.bias.requires_grad


HEADS = ["visible_classifier", "infrared_classifier", "visible_classifier_", "infrared_classifier_"]
NECK = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


@pytest.mark.parametrize("parts", [0, 7])
def test_state_dict_names_are_the_public_ones(parts: int) -> None:
    keys = list(small(parts=parts, modality_attention=0).state_dict())
    own = [key for key in keys if not key.startswith("backbone.")]
    assert own == [
        *(["attn_pool.part_tokens", "attn_pool.pos_embeding"] if parts else []),
        *(f"bn_neck.bn_neck_{m}.{name}" for m in "vi" for name in NECK),
        *(f"{head}.weight" for head in [*HEADS, "classifier"]),
    ]


def test_shapes_of_the_public_resnet50_model() -> None:
    shapes = {k: tuple(v.shape) for k, v in create_baseline("saai", 395).state_dict().items()}
    assert shapes["attn_pool.part_tokens"] == (7, 2048)
    assert shapes["attn_pool.pos_embeding"] == (162, 2048)
    assert shapes["classifier.weight"] == (395, 16384)
    assert shapes["backbone.MAM3.channel_attention.0.weight"] == (64, 1024, 1, 1)
    assert shapes["backbone.MAM4.channel_attention.2.weight"] == (2048, 128, 1, 1)


@pytest.mark.parametrize("name", ["resnet50", "resnet18"])
def test_trunk_names_and_outputs_are_torchvisions(name: str, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    reference = models.get_model(name)
    torch.save(reference.state_dict(), tmp_path / "weights.pt")
    trunk = create_trunk(name, last_stride=2, weights=tmp_path / "weights.pt").eval()
    ours, theirs = trunk.state_dict(), reference.state_dict()
    assert list(ours) == [key for key in theirs if not key.startswith("fc.")]
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    reference.eval().fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(trunk(images).mean(dim=(2, 3)), reference(images))


@pytest.mark.parametrize("trunk", ["resnet18", "small"])
@pytest.mark.parametrize("size", [(64, 32), (70, 41)])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_map_size(trunk: str, size: tuple[int, int], last_stride: int) -> None:
    net = create_trunk(trunk, last_stride=last_stride).eval()
    with torch.no_grad():
        assert tuple(net(torch.zeros(1, 3, *size)).shape[2:]) == net.map_size(size)


def test_small_trunk_leaves_a_map_to_layer4() -> None:
    assert create_trunk("small").map_size((64, 32)) == (8, 4)
    assert create_trunk("small").channels == 128
    assert create_trunk("resnet50").map_size((288, 144)) == (18, 9)


@pytest.mark.parametrize(
    ("dataset", "level"), [("sysu", 2), ("llcm", 2), ("regdb", 0)], ids=lambda v: str(v)
)
def test_modality_attention_follows_the_dataset(dataset: str, level: int) -> None:
    model = small(dataset=dataset)
    assert model.modality_attention == level
    assert hasattr(model.backbone, "MAM3") == hasattr(model.backbone, "MAM4") == (level == 2)
    assert small("saai-base", dataset=dataset).modality_attention == 0
    one = small(dataset=dataset, modality_attention=1).backbone
    assert hasattr(one, "MAM4")
    assert not hasattr(one, "MAM3")


def test_modality_attention_gates_between_map_and_instance_norm() -> None:
    attention = small().backbone.MAM4
    torch.nn.init.ones_(attention.channel_attention[0].weight)
    x = torch.rand(2, 128, 8, 4) * 3 + 1
    # A gate at 1 leaves the map, at 0 its instance-normalised copy, at a half their mean.
    for weight, share in [(1e4, 1.0), (-1e4, 0.0), (0.0, 0.5)]:
        torch.nn.init.constant_(attention.channel_attention[2].weight, weight)
        expected = share * x + (1 - share) * F.instance_norm(x)
        torch.testing.assert_close(attention(x), expected)


def test_evaluation_features_parts_first() -> None:
    images, _, cams = batch()
    model = small().eval()
    captured: list[Tensor] = []
    model.bn_neck.register_forward_pre_hook(lambda _, args: captured.append(args[0].clone()))
    features = model(images, cam_ids=cams)
    assert features.shape == (8, 8 * 128)
    stage_map = model.backbone(images)
    torch.testing.assert_close(captured[0][:, :-128], model.attn_pool(stage_map)[0])
    torch.testing.assert_close(captured[0][:, -128:], stage_map.mean(dim=(2, 3)))
    assert small("saai-base").eval()(images, cam_ids=cams.tolist()).shape == (8, 128)


def test_training_loss_is_the_sum_of_its_terms() -> None:
    images, labels, cams = batch()
    model = small(parts=2, cs_w=0.3, dp_w=0.5)
    seen: list[Tensor] = []
    model.bn_neck.register_forward_hook(lambda _, __, out: seen.append(out.detach().clone()))
    loss, metrics = model(images, labels, cam_ids=cams, epoch=3)
    features, infrared = seen[0], (cams == 3) | (cams == 6)
    assert list(metrics) == ["ce", "id", "cs", "dp"]
    assert not any(value.requires_grad for value in metrics.values())
    torch.testing.assert_close(loss, metrics["id"] + 0.3 * metrics["cs"] + 0.5 * metrics["dp"])

    ce = F.cross_entropy(model.classifier(features), labels).detach()
    torch.testing.assert_close(metrics["ce"], ce)
    soft = 0.0
    own = 0.0
    for row, label, is_infrared in zip(features, labels, infrared, strict=True):
        live = model.infrared_classifier if is_infrared else model.visible_classifier
        other = model.visible_classifier_ if is_infrared else model.infrared_classifier_
        logs = live(row).log_softmax(0).detach()
        soft -= float(sum(other(row).softmax(0) * logs)) / 8
        own -= float(logs[label]) / 4  # four rows of each modality
    assert float(metrics["id"]) == pytest.approx(float(ce) + own + soft, rel=1e-4)


def test_moving_copies_move_before_they_are_used() -> None:
    images, labels, cams = batch()
    model = small(update_rate=0.25)
    assert not model.visible_classifier_.weight.requires_grad
    assert torch.equal(model.visible_classifier_.weight, model.visible_classifier.weight)
    with torch.no_grad():
        model.visible_classifier.weight.add_(1.0)
        model.infrared_classifier.weight.zero_()
    before = {name: getattr(model, name).weight.clone() for name in HEADS}
    used: list[Tensor] = []
    model.visible_classifier_.register_forward_hook(lambda m, *_: used.append(m.weight.clone()))
    loss, _ = model(images, labels, cam_ids=cams)
    loss.backward()
    for name in HEADS[:2]:
        expected = 0.75 * before[f"{name}_"] + 0.25 * before[name]
        torch.testing.assert_close(getattr(model, f"{name}_").weight, expected)
        assert getattr(model, f"{name}_").weight.grad is None
        assert torch.equal(getattr(model, name).weight, before[name])
    assert torch.equal(used[0], model.visible_classifier_.weight)

    # Written by the public loop at every epoch.
    model.update_rate = min(100 / (199 + 1), 1.0) * model.update_rate_
    assert model.mutual_learning
    before = {name: getattr(model, name).weight.clone() for name in HEADS}
    model(images, labels, cam_ids=cams)
    expected = 0.875 * before["visible_classifier_"] + 0.125 * before["visible_classifier"]
    torch.testing.assert_close(model.visible_classifier_.weight, expected)
    model.eval()(images, cam_ids=cams)
    torch.testing.assert_close(model.visible_classifier_.weight, expected)


@pytest.mark.parametrize("name", ["saai", "saai-base"])
@pytest.mark.parametrize("camera", [1, 6])
def test_a_batch_of_one_modality_stays_finite(name: str, camera: int) -> None:
    images, labels, _ = batch()
    model = small(name)
    statistics = model.state_dict()
    absent = "v" if camera == 6 else "i"
    key = f"bn_neck.bn_neck_{absent}.running_var"
    before = statistics[key].clone()
    loss, metrics = model(images, labels, cam_ids=torch.full((8,), camera))
    loss.backward()
    assert all(value.isfinite() for value in metrics.values())
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # DistributedDataParallel waits for the gradient of every parameter.
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
    assert torch.equal(model.state_dict()[key], before)
    assert float(metrics["id"]) > float(metrics["ce"])


def test_bfloat16_autocast_is_close_to_float32() -> None:
    images, labels, cams = batch()
    expected, _ = small()(images, labels, cam_ids=cams)
    with torch.autocast("cpu", torch.bfloat16):
        loss, metrics = small()(images, labels, cam_ids=cams)
    loss.backward()
    assert metrics["cs"].dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)


def test_weights_for_the_trunk(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = create_trunk("small")
    file = tmp_path / "small.pt"
    state = {**source.state_dict(), "fc.weight": torch.zeros(1000, 128)}
    torch.save(state, file)
    model = small(weights=file)  # MAM is not in the file: random
    assert torch.equal(model.backbone.conv1.weight, source.conv1.weight)
    assert torch.equal(model.backbone.layer4[0].conv2.weight, source.layer4[0].conv2.weight)

    del state["layer4.0.conv2.weight"]
    torch.save(state, file)
    with pytest.raises(MixERValueError, match=r"1 missing: layer4\.0\.conv2\.weight"):
        small(weights=file)
    torch.save({**source.state_dict(), "conv1.weight": torch.zeros(16, 3, 7, 7)}, file)
    with pytest.raises(MixERValueError, match=r"1 of another shape: conv1\.weight"):
        small(weights=file)
    torch.save({**source.state_dict(), "layer4.1.conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(MixERValueError, match=r"1 unknown: layer4\.1\.conv1\.weight"):
        small(weights=file)


@pytest.mark.parametrize("name", ["ddag", "deen", "sgeil", "mpanet", "idkl"])
def test_weights_reach_every_copy_of_the_trunk(name: str, tmp_path: Path) -> None:
    """Stems, shared stages and branches: each takes its part of one torchvision file."""
    torch.manual_seed(5)
    source = create_trunk("small").state_dict()
    file = tmp_path / "small.pt"
    torch.save({**source, "fc.weight": torch.zeros(1000, 128)}, file)
    model = create_baseline(name, 4, trunk="small", weights=file)
    found = dict.fromkeys(source, 0)
    for key, value in model.state_dict().items():
        for part, expected in source.items():
            if key.endswith(f".{part}") and value.shape == expected.shape:
                assert torch.equal(value, expected), key
                found[part] += 1
    assert all(found.values()), [part for part, count in found.items() if not count]
    del source["layer3.0.conv1.weight"]
    torch.save(source, file)
    with pytest.raises(MixERValueError, match=r"1 missing: layer3\.0\.conv1\.weight"):
        create_baseline(name, 4, trunk="small", weights=file)
    with pytest.raises(MixERValueError, match=r"No weights at .*absent\.pt"):
        small(weights=tmp_path / "absent.pt")


def test_load_official(tmp_path: Path) -> None:
    source = small(update_rate=0.5)
    with torch.no_grad():
        source.visible_classifier.weight.add_(1.0)
    torch.save({f"module.{k}": v for k, v in source.state_dict().items()}, tmp_path / "model.pth")
    model = small()
    report = load_official(model, tmp_path / "model.pth")
    assert set(report.loaded) == set(model.state_dict())
    assert not report.dead
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(MixERValueError, match=r"does not fit[\s\S]*attn_pool[\s\S]*parts"):
        load_official(small("saai-base"), tmp_path / "model.pth")
    with pytest.raises(MixERValueError, match="No checkpoint at"):
        load_official(model, tmp_path / "absent.pth")


def test_errors_name_the_way_out() -> None:
    with pytest.raises(MixERValueError, match=r"'sai'.*Did you mean 'saai'"):
        create_baseline("sai", 4)
    with pytest.raises(MixERValueError, match=r"no option 'part'.*Did you mean 'parts'"):
        create_baseline("saai", 4, part=3)
    with pytest.raises(MixERValueError, match=r"'resnet5'.*Did you mean 'resnet50'"):
        create_baseline("saai", 4, trunk="resnet5")
    with pytest.raises(MixERValueError, match=r"'sysu-mm01'.*Did you mean 'sysu'"):
        create_baseline("saai", 4, dataset="sysu-mm01")
    for options, message in [
        ({"parts": -1}, "parts is -1"),
        ({"update_rate": 2.0}, r"update_rate is 2\.0"),
        ({"modality_attention": 3}, "modality_attention is 3"),
        ({"last_stride": 4}, "last_stride is 4"),
    ]:
        with pytest.raises(MixERValueError, match=message):
            small(**options)
    with pytest.raises(MixERValueError, match="num_classes is 0"):
        create_baseline("saai", 0)


def test_errors_of_the_forward() -> None:
    images, labels, cams = batch()
    model = small()
    with pytest.raises(MixERValueError, match="Pass cam_ids="):
        model.eval()(images)
    with pytest.raises(MixERValueError, match=r"cam_ids of shape \(3,\) for 8 images"):
        model(images, cam_ids=cams[:3])
    with pytest.raises(MixERValueError, match=r"no labels.*eval\(\)"):
        model.train()(images, cam_ids=cams)
    with pytest.raises(MixERValueError, match=r"image_size"):
        model(images[..., :16], labels, cam_ids=cams)
    # Without parts any size goes.
    assert small("saai-base").eval()(images[..., :16], cam_ids=cams).shape == (8, 128)


RECIPES = [
    (name, dataset)
    for name in list_baselines()
    for dataset in ("sysu", "regdb", "llcm")
    if not name.endswith("-base") and dataset in datasets_of(name)
]


@pytest.mark.parametrize(("name", "dataset"), RECIPES)
def test_recipe_builds_the_network_it_names(name: str, dataset: str) -> None:
    """The options a recipe names are those that the builder takes by itself for that data set."""
    recipe = load_recipe(name, dataset)
    build = baselines._BASELINES[name].build
    names = inspect.signature(build).parameters
    assert set(recipe["network"]) <= set(names)
    torch.manual_seed(0)
    by_recipe = build(4, trunk="small", dataset=dataset, **recipe["network"])
    torch.manual_seed(0)
    by_itself = build(4, trunk="small", dataset=dataset)
    pairs = zip(by_recipe.state_dict().items(), by_itself.state_dict().items(), strict=True)
    assert all(k == j and torch.equal(v, w) for (k, v), (j, w) in pairs)
    for option, value in recipe["network"].items():
        if names[option].default is not None:
            assert names[option].default == value, option
    assert recipe["rows"] == create_loop(name).rows


@pytest.mark.parametrize(("name", "dataset"), RECIPES)
def test_recipe_makes_the_public_optimizer(name: str, dataset: str) -> None:
    recipe = load_recipe(name, dataset)
    model = create_baseline(name, 4, trunk="small", dataset=dataset)
    optimizer = build_optimizer(model, recipe)
    taken = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in model.parameters())
    lr, epochs = recipe["optimizer"]["lr"], recipe["schedule"]["epochs"]
    for epoch in (0, epochs - 1):
        set_rates(optimizer, recipe, epoch)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates[0] == pytest.approx(rates[-1] * (1 if len(rates) == 1 else 0.1))
    assert rates[-1] == pytest.approx(lr * 0.1 ** len(recipe["schedule"]["milestones"]))


def test_recipe_errors() -> None:
    with pytest.raises(MixERValueError, match="Did you mean 'ddag'"):
        load_recipe("dagg")
    with pytest.raises(MixERValueError, match="no settings for 'llcm'"):
        load_recipe("ddag", "llcm")
