"""IDKL's adapter: how it embeds and pools."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mixer_plugin import mixer_features, wrap_with_mixer
from mixer_plugin.adapters import resolve_adapter
from mixer_plugin.baselines.idkl import IDKL, gem
from mixer_plugin.errors import MixERValueError
from tests.unit.baselines.small_idkl import batch, small


class PublicLike(IDKL):
    """Returns what the public model returns for a single image: logits."""

    def forward(self, inputs: Tensor, labels: Tensor | None = None, **options: Any) -> Any:
        found = super().forward(inputs, labels, **options)
        return self.classifier(found) if not self.training and len(inputs) == 1 else found


@pytest.mark.parametrize("wrapped", [False, True])
def test_embed_of_one_image_and_of_2048(wrapped: bool) -> None:
    images, _, cams = batch()
    modality = (cams % 3 == 0).long()
    model = small().eval()
    model.__class__ = PublicLike
    adapter = resolve_adapter(model)
    assert adapter.name == "idkl"
    assert model(images[:1]).shape == (1, 4)
    if wrapped:
        wrap_with_mixer(model, seed=0).eval()
    expected = adapter.embed(model, images, modality)
    for row in (0, 3):
        one = adapter.embed(model, images[row : row + 1], modality[row : row + 1])
        torch.testing.assert_close(one, expected[row : row + 1])
    with pytest.raises(MixERValueError, match=r"2048 images.*another batch size"):
        adapter.embed(model, torch.zeros(2048, 3, 1, 1), torch.zeros(2048).long())


def test_the_related_feature_pools_as_the_base_does() -> None:
    images, _, cams = batch()
    model = wrap_with_mixer(small(), seed=0).eval()
    with model.mixer.matching(), torch.no_grad():
        erased = model(images, cam_ids=cams)
    # The clones start as the base's stage: before any step the two features are one.
    torch.testing.assert_close(model.mixer.record.related_before, model.mixer.record.erased_before)
    assert torch.equal(mixer_features(model).erased, erased)


def test_the_adapter_pools_half_precision_maps() -> None:
    model = small()
    adapter, stage_map = resolve_adapter(model), torch.randn(2, 128, 4, 2)
    for dtype in (torch.float64, torch.float32, torch.float16):
        found = adapter.pool(model, stage_map.to(dtype))
        assert found.dtype == dtype
        tolerance = 1e-2 if dtype == torch.float16 else 1e-6
        expected = gem(stage_map.double())
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
