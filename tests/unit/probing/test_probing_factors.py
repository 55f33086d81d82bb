"""The generator's factors: found again from a written root, and probed without error of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixer_plugin.data.datasets.layouts import read_images
from mixer_plugin.data.synthetic import (
    SyntheticConfig,
    identity_factors,
    layout_config,
    plan,
    render,
    write_layout,
)
from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.probing import read_factors
from mixer_plugin.probing.factors import generator_factors, probe_factors


def generated(**settings):
    """Test images of 100 identities: 4x4 pixel means, a random net's features, images, truth."""
    config = SyntheticConfig(
        train_ids=1, val_ids=1, test_ids=100, height=32, width=16, seed=3, **settings
    )
    rows = plan(config)
    rows = rows[rows["split"] == "test"]
    pixels = torch.from_numpy(render(config, rows)).permute(0, 3, 1, 2).float() / 255
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 32, 5, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten()),
    )
    with torch.no_grad():
        features = {"means": F.avg_pool2d(pixels, 4).flatten(1), "net": net(pixels)}
    modality = rows["infrared"].astype(int)
    images = FeatureSet(features["means"], None, rows["pid"], rows["cam"], modality)
    return features, images, generator_factors(config, rows)


def r2(x, images, factors):
    return {(p.images, p.group): p.r2 for p in probe_factors(x, images, factors)}


def test_without_modality_only_cues_their_probes_are_zero():
    features, images, factors = generated(visible_cue=0.0, infrared_cue=0.0)
    assert factors.settings == {"shared_cue": 1.0, "visible_cue": 0.0, "infrared_cue": 0.0}
    for name, x in features.items():
        found = r2(x, images, factors)
        for (shown, group), value in found.items():
            if group in ("visible", "infrared"):
                assert abs(value) < 0.01, (name, shown, group)
            elif group == "nuisance":  # the table of columns is right, and the probe finds things
                assert value > 0.08, (name, shown)


def test_with_cues_they_are_found_where_they_are_shown():
    features, images, factors = generated()
    found = r2(features["means"], images, factors)
    assert found["visible", "visible"] > 0.02
    assert found["infrared", "infrared"] > 0.02
    assert abs(found["visible", "infrared"]) < 0.01
    assert abs(found["infrared", "visible"]) < 0.01
    gains = probe_factors(features["means"], images, factors)
    gain = {probe.images: probe.factors["gain"] for probe in gains if probe.group == "nuisance"}
    assert min(gain.values()) > 0.3


def test_a_planted_factor_is_found():
    _, images, factors = generated(visible_cue=0.0)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(len(images), 20, generator=g)
    at = factors.names.index("shoe_hue")
    x[:, 4] = factors.values[:, at] * 5
    probe = next(p for p in probe_factors(x, images, factors) if p.group == "visible")
    assert probe.factors["shoe_hue"] > 0.8  # the penalty is one for all of a group
    assert all(abs(v) < 0.1 for name, v in probe.factors.items() if name != "shoe_hue")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roots")
    counts = {"train_ids": 3, "val_ids": 1, "test_ids": 3, "height": 32, "width": 16}
    for layout in ("sysu", "market"):
        write_layout(folder / layout, layout_config(layout, **counts), layout)
    return folder


def features_of(root, split="test"):
    images = read_images(root, split)
    x = torch.zeros(len(images), 1)
    return FeatureSet(x, None, images.ids, images.cams, images.modality, images.paths)


def test_factors_of_a_written_root_are_the_generators(roots):
    config = layout_config("sysu", train_ids=3, val_ids=1, test_ids=3, height=32, width=16)
    found = read_factors(roots / "sysu", features_of(roots / "sysu"))
    truth, names = identity_factors(config)
    assert found.names[: len(names)] == names
    ids = features_of(roots / "sysu").ids
    np.testing.assert_allclose(found.values[:, : len(names)], truth[ids - 1])
    assert found.known.all()
    assert found.groups.count("nuisance") == len(found.names) - len(names)


def test_paths_may_have_moved_and_strangers_are_not_known(roots, tmp_path):
    images = features_of(roots / "sysu")
    away = tuple("/elsewhere/" + "/".join(path.split("/")[-3:]) for path in images.paths)
    moved = FeatureSet(images.erased, None, images.ids, images.cams, images.modality, away)
    assert torch.equal(
        read_factors(roots / "sysu", moved).values, read_factors(roots / "sysu", images).values
    )
    market = features_of(roots / "market", "gallery")
    assert torch.equal(read_factors(roots / "market", market).known, market.ids > 0)


def test_what_has_no_factors_is_refused(roots, tmp_path):
    images = features_of(roots / "sysu")
    named = FeatureSet(
        *(getattr(images, n) for n in ("erased", "related", "ids", "cams")), [0] * 48
    )
    with pytest.raises(MixERValueError, match="no image paths"):
        read_factors(roots / "sysu", named)
    with pytest.raises(MixERValueError, match="not an image of this"):
        read_factors(roots / "market", images)
    with pytest.raises(MixERValueError, match="cannot be read"):
        read_factors(tmp_path, images)
    card = json.loads((roots / "sysu" / "synthetic.json").read_text())
    (tmp_path / "synthetic.json").write_text(json.dumps({**card, "digest": "other"}))
    with pytest.raises(MixERValueError, match="another version"):
        read_factors(tmp_path, images)
