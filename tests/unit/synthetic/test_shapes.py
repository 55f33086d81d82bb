"""Body shapes: in the image's own pose, and read at the image's own path."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mixer_plugin.data import SyntheticConfig, decode, read_images, read_sysu
from mixer_plugin.data.synthetic import layout_config, plan, render_shapes, write_layout
from mixer_plugin.data.synthetic.body_shapes import read_shapes, write_shapes
from mixer_plugin.data.synthetic.factors import NAMES, VISIBLE
from mixer_plugin.data.synthetic.images import _scene
from mixer_plugin.data.synthetic.layouts import list_files
from mixer_plugin.data.synthetic.person import draw, draw_shape
from mixer_plugin.errors import MixERValueError

CONFIG = SyntheticConfig(train_ids=8, val_ids=2, test_ids=2, height=64, width=32, occlusion=0.0)


def visible_rows(count: int = 24) -> np.ndarray:
    rows = plan(CONFIG)
    return rows[rows["cam"] == 1][:: max(1, len(rows[rows["cam"] == 1]) // count)][:count]


def test_what_clothes_change_lies_on_the_shape() -> None:
    """Other colours of the visible-only factors change pixels of the body, and the body alone."""
    scene = _scene(CONFIG, visible_rows(), 3)
    attributes = scene.attributes.copy()
    attributes[:, NAMES.index("bag")] = 0.1  # none: a bag hangs beside the body
    noise = np.zeros_like(scene.noise)
    scene = dataclasses.replace(scene, attributes=attributes, noise=noise)
    other = attributes.copy()
    for name in VISIBLE:
        if not name.startswith(("bag", "logo")):
            other[:, NAMES.index(name)] = 1 - other[:, NAMES.index(name)]
    changed = draw(scene) != draw(dataclasses.replace(scene, attributes=other))
    changed = changed.any(-1)
    shape = draw_shape(scene)
    assert changed.any(axis=(1, 2)).all()
    # The exposure and blur that follow move a border pixel or two.
    inside = (changed & (shape > 0)).sum() / changed.sum()
    assert inside > 0.9
    share = (shape > 127).mean(axis=(1, 2))
    assert 0.05 < share.min() < share.max() < 0.6
    assert (shape[:, 0] == 0).all(), "nothing in the first row of pixels"


def test_occluded_parts_are_missing() -> None:
    rows = visible_rows()
    free = render_shapes(CONFIG, rows)
    hidden = render_shapes(dataclasses.replace(CONFIG, occlusion=1.0), rows)
    assert (hidden <= free).all()
    assert hidden.sum() < 0.97 * free.sum()
    assert (free[..., :1] == free).all()


def test_written_and_read_at_the_images_paths(tmp_path: Path) -> None:
    images = read_sysu(write_layout(tmp_path / "sysu", CONFIG, "sysu").root, "train")
    for _ in range(2):  # the second call finds it complete
        write_shapes(tmp_path / "shapes", CONFIG, images)
    shapes = read_shapes(tmp_path / "shapes", images)
    assert [Path(p).relative_to(shapes.root) for p in shapes.paths] == [
        Path(p).relative_to(images.root) for p in images.paths
    ]
    rows = plan(CONFIG)
    rows = rows[rows["split"] == "train"]
    pixels = decode(shapes, (64, 32)).float().mean((1, 2, 3)).numpy()
    order = {f"cam{r['cam']}/{r['pid']:04d}/{r['number']:04d}.jpg": i for i, r in enumerate(rows)}
    expected = render_shapes(CONFIG, rows).mean((1, 2, 3))
    found = [order[str(Path(p).relative_to(shapes.root))] for p in shapes.paths]
    np.testing.assert_allclose(pixels, expected[found], atol=2)  # JPEG
    Path(shapes.paths[3]).unlink()
    with pytest.raises(MixERValueError, match=r"1 of \d+ images have no body shape"):
        read_shapes(tmp_path / "shapes", images)
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


@pytest.mark.parametrize("layout", ["regdb", "llcm"])
def test_shapes_of_other_layouts(tmp_path: Path, layout: str) -> None:
    config = layout_config(layout, train_ids=3, val_ids=1, test_ids=3, height=32, width=16)
    images = read_images(write_layout(tmp_path / layout, config, layout).root, "train")
    write_shapes(tmp_path / "shapes", config, images, layout)
    shapes = read_shapes(tmp_path / "shapes", images)
    listing = list_files(config, layout)
    places = [own[0] for own in listing.paths]
    rows = [places.index(Path(p).relative_to(images.root).as_posix()) for p in images.paths]
    expected = render_shapes(config, listing.rows[rows]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(decode(shapes, (32, 16)).numpy(), expected, atol=60)  # JPEG
    assert np.array_equal(decode(shapes, (32, 16)).numpy(), expected) == (layout == "regdb")
    counts = {"visible_per_camera": 1, "infrared_per_camera": 1}
    fewer = layout_config(layout, train_ids=1, val_ids=1, test_ids=1, **counts)
    with pytest.raises(MixERValueError, match="do not make"):
        write_shapes(tmp_path / "others", fewer, images, layout)
    assert not (tmp_path / "others").exists()
