"""Our MPANet against the public code (DoubtedSteam/MPANet), built as its own yml files say."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from mixer_plugin import extract_features, unwrap_mixer, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, load_official
from mixer_plugin.baselines.common.losses import center_separation_loss
from mixer_plugin.baselines.mpanet import BASELINE
from tests.integration.public import official

pytestmark = official.needs("mpanet")

SCRIPT = """
import copy
from models.baseline import Baseline
from mixer_plugin import extract_features, unwrap_mixer, wrap_with_mixer

model = Baseline(num_classes=6, **case["options"])
for name in ("visible_classifier_", "infrared_classifier_"):
    # They share memory with the live classifiers until the first step.
    weight = getattr(model, name).weight
    weight.data = weight.data.clone()
missing, unexpected = model.load_state_dict(case["state"], strict=False)
assert not unexpected, unexpected
images, labels, cams = case["images"], case["labels"], case["cams"]
found = {"missing": missing, "steps": []}

wrapped = wrap_with_mixer(copy.deepcopy(model), seed=0)
found["adapter"] = wrapped.mixer.adapter.name
features = extract_features(wrapped, [(images, labels, cams)])
found["wrapped"] = features.erased, features.related
step = copy.deepcopy(wrapped).train()(images, labels, cam_ids=cams, epoch=1)[1]
found["terms"] = {k: v for k, v in step.items() if k.startswith("mixer/")}
assert list(unwrap_mixer(wrapped).state_dict()) == list(model.state_dict())

for _ in range(2):
    model.zero_grad()
    loss, metrics = model(images, labels, cam_ids=cams, epoch=1)
    loss.backward()
    grads = {k: p.grad.norm() for k, p in model.named_parameters() if p.grad is not None}
    found["steps"].append((loss.detach(), metrics, grads))
found["state"] = {k: v.clone() for k, v in model.state_dict().items()}
model.eval()
with torch.no_grad():
    found["features"] = model(images, cam_ids=cams)
"""


def public_options(dataset: str) -> dict[str, Any]:
    """What train.py passes on from the yml file of a data set."""
    name = {"sysu": "SYSU", "regdb": "RegDB"}[dataset]
    content = yaml.safe_load((official.checkout("mpanet") / f"configs/{name}.yml").read_text())
    keys = "pattern_attention modality_attention mutual_learning drop_last_stride triplet k_size"
    keys += " center_cluster center margin num_parts weight_KL weight_sid weight_sep update_rate"
    return {key: content[key] for key in [*keys.split(), "classification"]}


def randomised(model: nn.Module) -> nn.Module:
    """Also moves the copies away from their live classifiers."""
    # In evaluation a random trunk's map grows from block to block, and saturates the part masks.
    model = official.randomised(
        model, lambda name: 1.3 if name.startswith("backbone") and "running_var" in name else 1.0
    )
    generator = torch.Generator().manual_seed(2)
    for name in ("visible_classifier_", "infrared_classifier_"):
        weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
        weight.data.add_(0.005 * torch.randn(weight.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        ("sysu", {}),
        ("regdb", {}),
        # Centres of random features are further apart than the margin: here its hinge is active.
        ("sysu", {"margin": 60.0}),
        ("sysu", {"modality_attention": 0, "parts": 0}),
    ],
    ids=["sysu", "regdb", "margin", "plain"],
)
def test_equals_the_public_code(dataset: str, options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours: Any = randomised(create_baseline("mpanet", 6, dataset=dataset, **options))
    public_names = public_options(dataset)
    rows = public_names["k_size"]
    labels = torch.tensor([4, 2]).repeat_interleave(rows)
    cams = torch.tensor([3, 1, 6, 2] * rows)[: 2 * rows]
    images = torch.randn(2 * rows, 3, 96, 48)
    if options:
        public_names |= {"margin": ours.margins[1]}
        public_names["modality_attention"] = ours.modality_attention
        public_names["pattern_attention"] = ours.parts > 0
    case = {"state": ours.state_dict(), "options": public_names}
    case |= {"images": images, "labels": labels, "cams": cams}
    public = official.run_official(SCRIPT, "mpanet", case, tmp_path)
    official.assert_only_dead(public["missing"], dict(BASELINE.dead))

    assert public["adapter"] == "mpanet"
    wrapped = wrap_with_mixer(ours, seed=0)
    features = extract_features(wrapped, [(images, labels, cams)])
    related: Any = features.related
    official.assert_close(features.erased, public["wrapped"][0], "erased feature")
    official.assert_close(related, public["wrapped"][1], "related feature")
    assert float((features.erased - related).abs().max()) > 0.1
    terms = copy.deepcopy(wrapped).train()(images, labels, cam_ids=cams)[1]
    for name, value in public["terms"].items():
        official.assert_close(terms[name], value, name)

    unwrap_mixer(ours)
    before: list[Tensor] = []
    ours.bn_neck.register_forward_pre_hook(lambda _, args: before.append(args[0].detach()))
    for public_loss, public_metrics, public_grads in public["steps"]:
        ours.zero_grad()
        loss, metrics = ours(images, labels, cam_ids=cams, epoch=1)
        loss.backward()
        assert list(metrics) == list(public_metrics)
        for name, value in public_metrics.items():
            official.assert_close(metrics[name], value, name)
        official.assert_close(loss, public_loss, "loss")
        official.assert_gradients_close(official.gradient_norms(ours), public_grads)
    pull = center_separation_loss(before[-1], labels, 0.0, 0.0)
    assert (metrics["cc"] > pull + 1) == ("margin" in options), "whether centres are pushed"
    with torch.no_grad():
        official.assert_close(ours.eval()(images), public["features"], "features")

    file = tmp_path / "model_best.pth"
    torch.save(public["state"], file)
    report = load_official(ours, file)
    assert len(report.loaded) == len(public["state"])
    assert all(torch.equal(v, public["state"][k]) for k, v in ours.state_dict().items())
