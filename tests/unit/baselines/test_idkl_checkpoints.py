"""IDKL's weights: the public checkpoint with its dead tensors, and the trunk's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixer_plugin.baselines import create_baseline, load_official
from mixer_plugin.baselines.common.trunks import Trunk
from mixer_plugin.errors import MixERValueError
from tests.unit.baselines.small_idkl import small


def public_like(model: nn.Module) -> dict[str, Tensor]:
    """Our state dict and what the public one holds besides: three whole ResNets, an attention."""
    state = dict(model.state_dict())
    for path in (
        "shared_module_fr.model_sh_fr",
        "shared_module_bh.model_sh_bh",
        "special.special_module",
    ):
        for key, value in Trunk("small").state_dict().items():
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
    trunk = Trunk("small")
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
