"""SGEIL's adapter."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin import MixERConfig, mixer_loss, wrap_with_mixer
from mixer_plugin.adapters import resolve_adapter
from mixer_plugin.adapters.sgeil import SGEILAdapter
from mixer_plugin.baselines.sgeil import generalized_mean
from mixer_plugin.errors import MixERRuntimeError
from tests.unit.baselines.small_sgeil import batch, small, started


def read(model: nn.Module, *args: Tensor, mode: int = 0) -> object:
    with model.mixer.matching():  # type: ignore[union-attr, operator]
        return model(*args, mode=mode)


def test_adapter_joins_the_calls_of_both_modalities() -> None:
    data = batch()
    assert data.shapes is not None
    (v, i), shapes = data.images.chunk(2), data.shapes.chunk(2)
    model = wrap_with_mixer(small(), seed=0)
    record = lambda: model.mixer.record  # type: ignore[union-attr]  # noqa: E731
    assert model.mixer.adapter.name == "sgeil"  # type: ignore[union-attr]
    for training, given in itertools.product((True, False), ((), shapes)):
        model.train(training)
        out = read(model, v, i, *given)
        before = out["rgbir"]["bef"] if given else out[0]  # type: ignore[index]
        assert torch.equal(record().erased_before, before.detach() if not training else before)
        if given:
            assert torch.equal(record().erased_after, out["rgbir"]["aft"])  # type: ignore[index]
        assert record().stage_input.shape[0] == 8
        assert torch.equal(record().modality, data.modality)
        if not training:
            # Clones as they start are the stage: with its norms of their modality, the same again.
            torch.testing.assert_close(record().related_before, before)
    for mode, images in ((1, v), (2, i)):
        out = read(model, images, images, mode=mode)
        torch.testing.assert_close(F.normalize(record().erased_after), out[1])  # type: ignore[index]
        torch.testing.assert_close(F.normalize(record().related_before), out[0])  # type: ignore[index]
        assert record().modality.tolist() == [mode - 1] * 4


@pytest.mark.parametrize("control", ["none", "shared-head"])
def test_norms_that_a_clone_never_uses_are_frozen(control: str) -> None:
    model = wrap_with_mixer(small(), config=MixERConfig(control=control), seed=0).train()
    loop = started(model)
    step = loop(model, batch())
    (step.loss + mixer_loss(model, step.labels)).backward()  # type: ignore[arg-type]
    for head, kind in (
        (("visible", ""), ("infrared", "_ir")) if control == "none" else (("shared", ""),)
    ):
        stage = model.mixer.heads[head].stage  # type: ignore[union-attr, index]
        for name, parameter in stage.named_parameters():
            norm = name.rpartition(".")[0]
            is_norm = "bn" in norm or norm.endswith("downsample.1")
            used = not is_norm or (
                norm.endswith(kind) if kind else not norm.endswith(("_ir", "_shape"))
            )
            assert parameter.requires_grad == used, name
            assert (parameter.grad is not None) == used, name
    base = model.get_submodule("base_resnet.base.layer4")
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_adapter_pools_as_the_network_does() -> None:
    torch.manual_seed(0)
    stage_map = torch.rand(2, 5, 4, 3) * 40
    model = small()
    assert torch.equal(SGEILAdapter().pool(model, stage_map), generalized_mean(stage_map))
    half = SGEILAdapter().pool(model, stage_map.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), generalized_mean(stage_map), rtol=1e-2, atol=0)


def test_adapter_embeds_as_the_public_test_does() -> None:
    model = small().eval()
    images = batch().images
    modality = torch.tensor([1, 0, 0, 1, 1, 1, 0, 0])
    found = resolve_adapter(model).embed(model, images, modality)
    with torch.no_grad():
        for row in range(8):
            views = [images[row : row + 1], images[row : row + 1].flip(3)]
            mode = 1 + int(modality[row])
            expected = sum(model(view, view, mode=mode)[1][0] for view in views) / 2
            torch.testing.assert_close(found[row], expected)


def test_adapter_explains_a_forward_it_does_not_know() -> None:
    adapter = SGEILAdapter()
    taps = adapter.taps(small())
    calls = {name: [torch.zeros(1)] for name in taps}
    with pytest.raises(MixERRuntimeError, match=r"bottleneck_ir \(output\)': 1[\s\S]*neck per"):
        adapter.read({**calls, "stage_input": []}, taps)
