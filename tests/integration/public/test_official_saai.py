"""Our SAAI against the public code (xiaoye-hhh/SAAI): features, terms, gradients, checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixer_plugin.baselines import create_baseline, load_official
from tests.integration.public import official

pytestmark = official.needs("saai")

SCRIPT = """
from models.baseline import Baseline

model = Baseline(**case["arguments"])
for name in ("visible_classifier_", "infrared_classifier_"):
    # They share memory with the live classifiers until the first step.
    weight = getattr(model, name).weight
    weight.data = weight.data.clone()
model.load_state_dict(case["state"], strict=case["strict"])
steps = []
for _ in range(2):
    model.zero_grad()
    loss, metrics = model(case["images"], case["labels"], cam_ids=case["cams"], epoch=1)
    loss.backward()
    grads = {k: p.grad.norm() for k, p in model.named_parameters() if p.grad is not None}
    steps.append((loss.detach(), metrics, grads))
state = {k: v.clone() for k, v in model.state_dict().items()}
model.eval()
with torch.no_grad():
    features = model(case["images"], cam_ids=case["cams"])
found = {"steps": steps, "features": features, "state": state}
"""


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Weights and statistics that no initialisation has, so that none of them cancels out."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        noise = torch.rand(value.shape, generator=generator)
        if name.endswith("running_mean"):
            value.copy_(0.1 * noise)
        elif name.endswith(("running_var", "bn_neck_v.weight", "bn_neck_i.weight")):
            value.copy_(0.5 + noise)
        elif name.endswith("classifier_.weight"):
            value.add_(0.01 * noise)
        elif name == "attn_pool.part_tokens":
            # Random trunks have large features; saturated masks would be equal to each other, and
            # the public root of their distance has no finite gradient there.
            value.mul_(0.1)
    return model


@pytest.mark.parametrize(
    ("name", "dataset", "parts"),
    [("saai", "sysu", 7), ("saai", "regdb", 7), ("saai-base", "sysu", 0)],
)
def test_equals_the_public_code(name: str, dataset: str, parts: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = randomised(create_baseline(name, 6, dataset=dataset))
    labels = torch.arange(2).repeat_interleave(4)
    cams = torch.tensor([3, 1, 6, 2] * 2)
    images = torch.randn(8, 3, 288, 144)
    arguments = {
        "num_classes": 6,
        "backbone": "resnet50",  # its part pooling takes no other width
        "drop_last_stride": True,
        "modality_attention": ours.modality_attention,
        "k_size": 4,
        "num_parts": parts,
        "update_rate": 0.02,
        # The l2 form divides by zero without parts; cos is NaN then, which spares the other terms.
        "dp": "l2" if parts else "cos",
    }
    case = {"images": images, "labels": labels, "cams": cams, "arguments": arguments}
    # Without parts the public model still holds an (empty) attn_pool.
    case["state"], case["strict"] = ours.state_dict(), parts > 0
    public = official.run_official(SCRIPT, "saai", case, tmp_path)

    terms = ["ce", "id", "cs", "dp"] if parts else ["ce", "id", "cs"]
    for public_loss, public_metrics, public_grads in public["steps"]:
        ours.zero_grad()
        loss, metrics = ours(images, labels, cam_ids=cams, epoch=1)
        loss.backward()
        for term in terms:
            official.assert_close(metrics[term], public_metrics[term], term)
        if parts:
            official.assert_close(loss, public_loss, "loss")
            official.assert_gradients_close(official.gradient_norms(ours), public_grads)
    with torch.no_grad():
        features = ours.eval()(images, cam_ids=cams)
    official.assert_close(features, public["features"], "features")

    if parts:
        file = tmp_path / "model.pth"
        torch.save(public["state"], file)
        load_official(ours, file)
        with torch.no_grad():
            again = ours(images, cam_ids=cams)
        official.assert_close(again, public["features"], "after load_official")
