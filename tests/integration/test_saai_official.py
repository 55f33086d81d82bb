"""Our SAAI against the public code, where a checkout of it is at hand.

Set MIXER_CODEBASES to a folder that holds the checkout as ``SAAI/`` (github.com/xiaoye-hhh/SAAI).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mixer_plugin.baselines import create_baseline, load_official

CHECKOUT = Path(os.environ.get("MIXER_CODEBASES", "")) / "SAAI"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHECKOUT / "models" / "baseline.py").is_file(),
        reason="set MIXER_CODEBASES to a folder that holds a checkout of xiaoye-hhh/SAAI as SAAI/",
    ),
]

# In a process of its own: the checkout's top-level names (data, layers, models, utils) are common.
OFFICIAL = """
import sys
import torch

checkout, file = sys.argv[1:]
sys.path.insert(0, checkout)
torch.hub.load_state_dict_from_url = lambda *args, **kwargs: {}  # pretrained=True downloads
from models.baseline import Baseline

case = torch.load(file)
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
torch.save({"steps": steps, "features": features, "state": state}, file)
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
    file = tmp_path / "case.pt"
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
    torch.save({**case, "state": ours.state_dict(), "strict": parts > 0}, file)
    subprocess.run(
        [sys.executable, "-c", OFFICIAL, str(CHECKOUT), str(file)], check=True, cwd=tmp_path
    )
    public = torch.load(file)

    terms = ["ce", "id", "cs", "dp"] if parts else ["ce", "id", "cs"]
    for public_loss, public_metrics, public_grads in public["steps"]:
        ours.zero_grad()
        loss, metrics = ours(images, labels, cam_ids=cams, epoch=1)
        loss.backward()
        for term in terms:
            torch.testing.assert_close(metrics[term], public_metrics[term], rtol=1e-5, atol=1e-5)
        if parts:
            torch.testing.assert_close(loss.detach(), public_loss, rtol=1e-5, atol=1e-5)
            grads = {k: p.grad.norm() for k, p in ours.named_parameters() if p.grad is not None}
            assert grads.keys() == public_grads.keys()
            total = torch.stack(list(public_grads.values())).norm()
            for key, grad in grads.items():
                assert abs(grad - public_grads[key]) < 1e-3 * public_grads[key] + 1e-5 * total, key
    with torch.no_grad():
        features = ours.eval()(images, cam_ids=cams)
    torch.testing.assert_close(features, public["features"], rtol=1e-5, atol=1e-5)

    if parts:
        torch.save(public["state"], file)
        load_official(ours, file)
        with torch.no_grad():
            again = ours(images, cam_ids=cams)
        torch.testing.assert_close(again, public["features"], rtol=1e-5, atol=1e-5)


WRAPPED = """
import copy
import sys
import torch

sys.path.insert(0, sys.argv[1])
torch.hub.load_state_dict_from_url = lambda *args, **kwargs: {}
from models.baseline import Baseline
from mixer_plugin import check_optimizer, unwrap_mixer, wrap_with_mixer

torch.manual_seed(0)
model = Baseline(
    num_classes=6, backbone="resnet50", drop_last_stride=True, modality_attention=2, k_size=4,
    num_parts=7, update_rate=0.02,
)
model.attn_pool.part_tokens.data.mul_(0.1)  # unsaturated masks: their loss has a gradient
images, labels = torch.randn(8, 3, 288, 144), torch.arange(2).repeat_interleave(4)
cams = torch.tensor([3, 1, 6, 2] * 2)


def train(net):
    optimizer = torch.optim.Adam(net.parameters(), lr=3.5e-4, weight_decay=5e-4)
    torch.manual_seed(1)
    for epoch in range(3):
        net.train()
        net.update_rate = min(100 / (epoch + 2), 1.0) * net.update_rate_
        loss, metrics = net(images, labels, cam_ids=cams, epoch=epoch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return optimizer, metrics


plain, erased, end_to_end = (copy.deepcopy(model) for _ in range(3))
before = list(plain.state_dict())
wrap_with_mixer(erased, mode="f")
wrap_with_mixer(end_to_end, mode="e2e")
assert erased.mixer.adapter.name == "saai"
with torch.no_grad():
    expected = plain.eval()(images, cam_ids=cams)
    assert torch.equal(expected, erased.eval()(images, cam_ids=cams))
    assert torch.equal(expected, end_to_end.eval()(images, cam_ids=cams))
train(plain)
optimizer, metrics = train(erased)
assert check_optimizer(erased, optimizer) == []
assert "mixer/orthogonal" in metrics
for key, value in plain.state_dict().items():
    assert torch.equal(value, erased.state_dict()[key]), key
train(end_to_end)
assert any(not torch.equal(v, end_to_end.state_dict()[k]) for k, v in plain.state_dict().items())
assert all(torch.isfinite(v).all() for v in end_to_end.state_dict().values())
assert list(unwrap_mixer(erased).state_dict()) == before
"""


def test_the_public_model_takes_the_plug_in_in_both_modes(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", WRAPPED, str(CHECKOUT)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
