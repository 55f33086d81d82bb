from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixer_plugin.data.loading.transforms import Augmentation, normalise
from mixer_plugin.errors import MixERTypeError, MixERValueError

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}  # results are pixel values
NONE = {"flip": 0.0, "pad": 0}


def _images(batch: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, (batch, 3, 12, 8), generator=generator, dtype=torch.uint8)


def _run(
    images: Tensor, modality: Tensor | None = None, seed: int = 0, **settings: object
) -> Tensor:
    config = Augmentation(**{**NONE, **PLAIN, **settings})  # type: ignore[arg-type]
    if modality is None:
        modality = torch.arange(len(images)) % 2
    return config(images, modality, torch.Generator().manual_seed(seed))


def test_normalise() -> None:
    images = _images(2)
    config = Augmentation()
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (config.mean, config.std)
    )
    result = normalise(images, config)
    assert result.dtype == torch.float32
    torch.testing.assert_close(
        result.double(), (images.double() / 255 - mean) / std, rtol=0, atol=1e-5
    )


def test_nothing_to_do_is_normalisation() -> None:
    images = _images()
    before = images.clone()
    torch.testing.assert_close(_run(images), images.float())
    assert torch.equal(images, before)


@pytest.mark.parametrize("pad_mode", ["zero", "mean", "symmetric"])
def test_every_crop_is_a_window_of_the_padded_image(pad_mode: str) -> None:
    images = _images()
    mean = (0.2, 0.4, 0.6)
    # With std = 1/255 the result is pixel - 255 * mean.
    result = _run(images, flip=0.5, pad=2, pad_mode=pad_mode, mean=mean)
    offset = 255 * torch.tensor(mean).view(3, 1, 1)
    seen = set()
    for image, got in zip(images.float(), result + offset, strict=True):
        if pad_mode == "symmetric":
            rows = torch.tensor([1, 0, *range(12), 11, 10])
            cols = torch.tensor([1, 0, *range(8), 7, 6])
            padded = image[:, rows][:, :, cols]
        else:
            fill = offset if pad_mode == "mean" else torch.zeros(3, 1, 1)
            padded = fill.expand(3, 16, 12).clone()
            padded[:, 2:-2, 2:-2] = image
        windows = {
            (y, x, flip): window.flip(2) if flip else window
            for y in range(5)
            for x in range(5)
            for flip in (False, True)
            for window in [padded[:, y : y + 12, x : x + 8]]
        }
        matches = [key for key, window in windows.items() if (window - got).abs().max() < 0.01]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 35  # of 50; 200 draws


def test_flip_probability() -> None:
    images = _images(1000)
    assert torch.equal(_run(images, flip=1.0), images.flip(3).float())
    flipped = (_run(images, flip=0.25) == images.flip(3)).flatten(1).all(1)
    assert 0.2 < flipped.float().mean() < 0.3


def test_grey_channel_copies_each_channel_equally_often() -> None:
    images = _images(4400)
    result = _run(images, grey="channel")
    copied = [
        (result == images[:, c : c + 1].float()).flatten(1).all(1).float().mean() for c in range(3)
    ]
    torch.testing.assert_close(torch.stack(copied), torch.full((3,), 1 / 11), rtol=0, atol=0.02)
    untouched = (result == images.float()).flatten(1).all(1).float().mean()
    assert abs(untouched - 8 / 11) < 0.03
    always = _run(images, grey="channel", grey_p=1.0)
    assert torch.equal(always, always[:, :1].expand_as(always))


def test_grey_mix_changes_visible_images_only() -> None:
    images = _images(2000)
    modality = torch.arange(2000) % 2
    result = _run(images, modality, grey="mix")
    assert torch.equal(result[modality == 1], images[modality == 1].float())
    visible, source = result[modality == 0], images[modality == 0].float()
    changed = (visible != source).flatten(1).any(1)
    assert 0.45 < changed.float().mean() < 0.55
    grey = visible[changed]
    assert torch.equal(grey, grey[:, :1].expand_as(grey))
    # A convex mix: weights found by least squares are >= 0, sum to one and average to a third.
    pixels = source[changed].flatten(2).transpose(1, 2).double()
    weights = torch.linalg.lstsq(pixels, grey[:, 0].flatten(1).double()[..., None]).solution[..., 0]
    assert weights.min() > -0.02
    torch.testing.assert_close(weights.sum(1), torch.ones(len(grey)).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(weights.mean(0), torch.full((3,), 1 / 3).double(), rtol=0, atol=0.03)
    # Uniform over the triangle: variance 1/18.
    assert abs(weights.var(0).mean() - 1 / 18) < 0.006


@pytest.mark.parametrize("value", ["grey", "random", "mean"])
def test_erase_takes_one_rectangle_of_the_asked_area(value: str) -> None:
    images = torch.zeros(1000, 3, 24, 16, dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2)
    config = Augmentation(
        **NONE, mean=mean, std=std, erase=0.4, erase_area=(0.1, 0.3), erase_value=value
    )  # type: ignore[arg-type]
    modality = torch.zeros(1000, dtype=torch.long)
    result = config(images, modality, torch.Generator().manual_seed(0))
    hit = (result != normalise(images[:1], config)).any(1)
    erased = hit.flatten(1).any(1)
    assert 0.35 < erased.float().mean() < 0.45
    areas = []
    for image, mask in zip(result[erased], hit[erased], strict=True):
        rows, cols = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = image[:, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        assert mask.sum() == box[0].numel()  # a full rectangle
        areas.append(box[0].numel() / (24 * 16))
        if value == "mean":
            assert box.abs().max() == 0
        elif value == "grey":
            expected = torch.tensor([(0.5 - m) / s for m, s in zip(mean, std, strict=True)])
            torch.testing.assert_close(box, expected.view(3, 1, 1).expand_as(box))
    assert min(areas) > 0.08
    assert max(areas) < 0.33
    if value == "random":
        drawn = result[hit[:, None].expand_as(result)]
        assert abs(drawn.mean()) < 0.02
        assert abs(drawn.std() - 1) < 0.02


def test_all_randomness_is_the_generators() -> None:
    settings = {"flip": 0.5, "pad": 2, "grey": "mix", "erase": 0.5, "erase_value": "random"}
    images = _images()
    torch.manual_seed(0)
    first = _run(images, seed=3, **settings)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(_run(images, seed=3, **settings), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(_run(images, seed=4, **settings), first)
    # One step switched off leaves the draws of the others alone.
    still = {**settings, "erase": 0.0}
    assert (_run(images, seed=3, **still) == first).float().mean() > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, r"flip is 1.5; expected a probability in \[0, 1\]"),
        ({"pad": -1}, "pad is -1; expected a number of pixels"),
        ({"pad_mode": "reflect"}, "pad_mode is 'reflect'"),
        ({"grey": "mixed"}, "grey is 'mixed'. Did you mean 'mix'"),
        ({"grey_p": 0.5}, "grey_p has no effect with grey='none'"),
        ({"erase_area": (0.4, 0.02)}, "erase_area"),
        ({"erase_value": "black"}, "erase_value is 'black'"),
        ({"std": (0.1, 0.0, 0.1)}, "std is .*; expected 3 values, each a number > 0"),
    ],
)
def test_config_errors(settings: dict[str, object], message: str) -> None:
    with pytest.raises(MixERValueError, match=message):
        Augmentation(**settings)  # type: ignore[arg-type]


def test_input_errors() -> None:
    images = _images(4)
    with pytest.raises(MixERTypeError, match="must be uint8"):
        normalise(images.float(), Augmentation())
    with pytest.raises(MixERValueError, match=r"must be \[B, 3, H, W\]"):
        normalise(images[0], Augmentation())
    with pytest.raises(MixERValueError, match=r"modality must have shape \(4,\)"):
        _run(images, torch.zeros(3))
    with pytest.raises(MixERValueError, match="needs pad <= image size"):
        _run(images, pad=9, pad_mode="symmetric")
