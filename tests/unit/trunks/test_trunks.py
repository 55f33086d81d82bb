"""Trunks: torchvision's names and numbers, map sizes, files of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixer_plugin.baselines import create_baseline
from mixer_plugin.baselines.common.trunks import Trunk
from mixer_plugin.errors import MixERValueError
from tests.unit.baselines.small_saai import small


@pytest.mark.parametrize("name", ["resnet50", "resnet18"])
def test_trunk_names_and_outputs_are_torchvisions(name: str, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    reference = models.get_model(name)
    torch.save(reference.state_dict(), tmp_path / "weights.pt")
    trunk = Trunk(name, last_stride=2, weights=tmp_path / "weights.pt").eval()
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
    net = Trunk(trunk, last_stride=last_stride).eval()
    with torch.no_grad():
        assert tuple(net(torch.zeros(1, 3, *size)).shape[2:]) == net.map_size(size)


def test_small_trunk_leaves_a_map_to_layer4() -> None:
    assert Trunk("small").map_size((64, 32)) == (8, 4)
    assert Trunk("small").channels == 128
    assert Trunk("resnet50").map_size((288, 144)) == (18, 9)


def test_weights_for_the_trunk(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = Trunk("small")
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
    source = Trunk("small").state_dict()
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
