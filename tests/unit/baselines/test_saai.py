"""SAAI: losses against literal loops, structure, moving copies, odd batches, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin.baselines import create_baseline
from mixer_plugin.baselines.common.losses import center_separation_loss
from mixer_plugin.baselines.saai import DualNeck, PartPooling, part_diversity_loss
from mixer_plugin.errors import MixERValueError
from tests.unit.baselines.small_saai import HEADS, NECK, batch, small


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
