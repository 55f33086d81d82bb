"""Our IDKL against the public code (1KK077/IDKL), built as its own yml files say."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mixer_plugin import extract_features, unwrap_mixer, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, load_official
from mixer_plugin.baselines.idkl import BASELINE
from tests.integration.public import official

pytestmark = official.needs("idkl")

SCRIPT = """
import copy
from models import resnet
for cls in (resnet.Shared_module_fr, resnet.Special_module, resnet.Shared_module_bh):
    cls.__init__.__defaults__ = (0,)  # as published, an argument that no caller gives
from models.baseline import Baseline
from mixer_plugin import extract_features, unwrap_mixer, wrap_with_mixer

model = Baseline(num_classes=12, **case["options"])
missing, unexpected = model.load_state_dict(case["state"], strict=False)
assert not unexpected, unexpected
images, labels, cams = case["images"], case["labels"], case["cams"]
found = {"missing": missing, "steps": []}

wrapped = wrap_with_mixer(copy.deepcopy(model), seed=0)
found["adapter"] = wrapped.mixer.adapter.name
# The last batch of a loader may hold one image.
loader = [(images[a:b], labels[a:b], cams[a:b]) for a, b in ((0, 5), (5, 6))]
features = extract_features(wrapped, loader)
found["wrapped"] = features.erased, features.related
torch.manual_seed(4)
step = copy.deepcopy(wrapped).train()(images, labels, cam_ids=cams, epoch=1)[1]
found["terms"] = {k: v for k, v in step.items() if k.startswith("mixer/")}
assert list(unwrap_mixer(wrapped).state_dict()) == list(model.state_dict())

for seed in range(2):
    torch.manual_seed(seed)  # of the dropout
    model.zero_grad()
    loss, metrics = model(images, labels, cam_ids=cams, epoch=1)
    loss.backward()
    grads = {k: p.grad.norm() for k, p in model.named_parameters() if p.grad is not None}
    found["steps"].append((loss.detach(), metrics, grads))
found["state"] = {k: v.clone() for k, v in model.state_dict().items()}
model.eval()
with torch.no_grad():
    found["features"] = model(images, cam_ids=cams)
    found["one"] = model(images[:1], cam_ids=cams[:1])
"""


def public_options(dataset: str) -> dict[str, Any]:
    """What train.py passes on from the yml file of a data set, where the model reads it."""
    name = {"sysu": "SYSU", "regdb": "RegDB", "llcm": "LLCM"}[dataset]
    content = yaml.safe_load((official.checkout("idkl") / f"configs/{name}.yml").read_text())
    keys = "decompose drop_last_stride triplet k_size center_cluster center margin classification"
    keys += " bg_kl sm_kl fb_dt IP distalign"
    return {key: content[key] for key in keys.split()}


def calm(name: str) -> float:
    """In evaluation a random trunk's map grows from block to block; a random mask hardly masks."""
    if name.startswith("backbone") and name.endswith("running_var"):
        return 1.3
    return 5.0 if name.startswith("backbone.mask") else 1.0


@pytest.mark.parametrize(
    ("dataset", "identities", "options"),
    [
        ("sysu", 12, {}),
        ("regdb", 6, {}),
        # Not a published setting: what the public code does with any other batch.
        ("sysu", 4, {"loss_weights": "regdb"}),
    ],
    ids=["sysu", "regdb", "other batch"],
)
def test_equals_the_public_code(
    dataset: str, identities: int, options: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    ours: Any = official.randomised(create_baseline("idkl", 12, dataset=dataset, **options), calm)
    public_names = public_options(dataset)
    rows = public_names["k_size"]
    labels = torch.randperm(12)[:identities].repeat_interleave(rows)
    cams = torch.tensor([3, 1, 6, 2] * len(labels))[: len(labels)]
    images = torch.randn(len(labels), 3, 64, 32)
    case = {"state": ours.state_dict(), "options": public_names}
    case |= {"images": images, "labels": labels, "cams": cams}
    public = official.run_official(SCRIPT, "idkl", case, tmp_path)
    official.assert_only_dead(public["missing"], dict(BASELINE.dead))

    assert public["adapter"] == "idkl"
    wrapped = wrap_with_mixer(ours, seed=0)
    features = extract_features(wrapped, [(images[:6], labels[:6], cams[:6])])
    related: Any = features.related
    official.assert_close(features.erased, public["wrapped"][0], "erased feature")
    official.assert_close(related, public["wrapped"][1], "related feature")
    torch.manual_seed(4)
    terms = copy.deepcopy(wrapped).train()(images, labels, cam_ids=cams)[1]
    for name, value in public["terms"].items():
        official.assert_close(terms[name], value, name)

    unwrap_mixer(ours)
    for seed, (public_loss, public_metrics, public_grads) in enumerate(public["steps"]):
        torch.manual_seed(seed)
        ours.zero_grad()
        loss, metrics = ours(images, labels, cam_ids=cams, epoch=1)
        loss.backward()
        assert set(metrics) == set(public_metrics)
        for name, value in public_metrics.items():
            assert name == "acc" or value > 1e-3, f"{name} does not count"
            official.assert_close(metrics[name], value, name)
        official.assert_close(loss, public_loss, "loss")
        official.assert_gradients_close(official.gradient_norms(ours), public_grads)
    with torch.no_grad():
        official.assert_close(ours.eval()(images), public["features"], "features")
        assert public["one"].shape == (1, 12), "the public model's logits of a single image"
        assert ours(images[:1]).shape == (1, 2048)

    file = tmp_path / "model_best.pth"
    torch.save(public["state"], file)
    report = load_official(ours, file)
    assert len(report.loaded) + len(report.dead) == len(public["state"])
    assert all(torch.equal(v, public["state"][k]) for k, v in ours.state_dict().items())


def test_llcm_is_configured_as_sysu() -> None:
    assert public_options("llcm") == public_options("sysu")
    assert public_options("regdb") == {**public_options("sysu"), "distalign": False}
