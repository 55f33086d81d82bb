"""What all baselines share: official checkpoints, and errors that name the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixer_plugin.baselines import create_baseline, load_official
from mixer_plugin.errors import MixERValueError
from tests.unit.baselines.small_saai import batch, small


@pytest.mark.parametrize(
    ("name", "other", "pooling"),
    [
        ("saai", {"parts": 0, "modality_attention": 0}, "attn_pool"),
        ("mpanet", {"parts": 0}, "spatial_attention"),
    ],
)
def test_load_official(name: str, other: dict[str, int], pooling: str, tmp_path: Path) -> None:
    source = small(name, update_rate=0.5)
    with torch.no_grad():
        source.visible_classifier.weight.add_(1.0)
    torch.save({f"module.{k}": v for k, v in source.state_dict().items()}, tmp_path / "model.pth")
    model = small(name)
    report = load_official(model, tmp_path / "model.pth")
    assert set(report.loaded) == set(model.state_dict())
    assert not report.dead
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(MixERValueError, match=rf"does not fit[\s\S]*{pooling}[\s\S]*parts"):
        load_official(small(name, **other), tmp_path / "model.pth")
    with pytest.raises(MixERValueError, match="No checkpoint at"):
        load_official(model, tmp_path / "absent.pth")


@pytest.mark.parametrize("name", ["saai", "mpanet"])
def test_bfloat16_autocast_is_close_to_float32(name: str) -> None:
    images, labels, cams = batch()
    expected, _ = small(name)(images, labels, cam_ids=cams)
    with torch.autocast("cpu", torch.bfloat16):
        loss, metrics = small(name)(images, labels, cam_ids=cams)
    loss.backward()
    assert {value.dtype for value in metrics.values()} == {torch.float32}
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)


@pytest.mark.parametrize(
    ("name", "options"),
    [("saai", {}), ("saai-base", {}), ("mpanet", {"parts": 0}), ("mpanet", {"parts": 6})],
)
@pytest.mark.parametrize("camera", [1, 6])
def test_a_batch_of_one_modality_stays_finite(
    name: str, options: dict[str, int], camera: int
) -> None:
    images, labels, _ = batch()
    model = small(name, **options)
    absent = "v" if camera == 6 else "i"
    key = f"bn_neck.bn_neck_{absent}.running_var"  # SAAI's
    before = {k: v.clone() for k, v in model.state_dict().items() if k == key}
    loss, metrics = model(images, labels, cam_ids=torch.full((8,), camera))
    loss.backward()
    assert all(value.isfinite() for value in metrics.values())
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # DistributedDataParallel waits for the gradient of every parameter.
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
    if name == "mpanet":
        assert metrics[f"ce-{absent}"] == 0
        assert metrics["ce-i" if camera == 6 else "ce-v"] > 0
    else:
        assert torch.equal(model.state_dict()[key], before[key])
        assert float(metrics["id"]) > float(metrics["ce"])


@pytest.mark.parametrize("name", ["saai", "mpanet"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": -1}, "parts is -1"),
        ({"update_rate": 2.0}, r"update_rate is 2\.0"),
        ({"update_rate": -0.1}, r"update_rate is -0\.1"),
        ({"modality_attention": 3}, "modality_attention is 3"),
        ({"last_stride": 4}, "last_stride is 4"),
    ],
)
def test_errors_of_options(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(MixERValueError, match=message):
        small(name, **options)


def test_errors_name_the_way_out() -> None:
    with pytest.raises(MixERValueError, match=r"'sai'.*Did you mean 'saai'"):
        create_baseline("sai", 4)
    with pytest.raises(MixERValueError, match=r"Unknown key 'part' in saai.*Did you mean 'parts'"):
        create_baseline("saai", 4, part=3)
    with pytest.raises(MixERValueError, match=r"'resnet5'.*Did you mean 'resnet50'"):
        create_baseline("saai", 4, trunk="resnet5")
    with pytest.raises(MixERValueError, match=r"'sysu-mm01'.*Did you mean 'sysu'"):
        create_baseline("saai", 4, dataset="sysu-mm01")
    with pytest.raises(MixERValueError, match="num_classes is 0"):
        create_baseline("saai", 0)
