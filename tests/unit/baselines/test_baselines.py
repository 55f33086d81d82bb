"""What all baselines share: official checkpoints, and errors that name the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixer_plugin.baselines import create_baseline, load_official
from mixer_plugin.errors import MixERValueError
from tests.unit.baselines.small_saai import small


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
