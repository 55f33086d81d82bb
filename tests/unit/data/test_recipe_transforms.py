from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.data.loading.pipeline import Colour, Crop, Erase, Flip, Normalise, Pipeline
from mixer_plugin.data.loading.public_augmentation import augmentation_of
from mixer_plugin.errors import MixERTypeError, MixERValueError

HEIGHT, WIDTH = 24, 12
MODALITY = torch.arange(200) % 2
NAMES = ("ddag", "deen", "idkl", "mpanet", "saai", "sgeil")


def _images(batch: int = 200) -> Tensor:
    shape = (batch, 3, HEIGHT, WIDTH)
    return torch.randint(0, 256, shape, generator=_seeded(1), dtype=torch.uint8)


def _seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["zero", "grey", "symmetric"])
def test_crop_takes_torchvisions_windows(mode: str) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    images = _images()
    result = Crop(pad=5, mode=mode)(images, MODALITY, _seeded())
    moves = torch.randint(11, (2, 200, 1), generator=_seeded())[:, :, 0]
    settings = {
        "zero": {"fill": 0},
        "grey": {"fill": 127},
        "symmetric": {"padding_mode": "symmetric"},
    }[mode]
    for image, top, left, got in zip(images, *moves.tolist(), result, strict=True):
        padded = functional.pad(_pil(image), 5, **settings)
        assert torch.equal(_tensor(functional.crop(padded, top, left, HEIGHT, WIDTH)), got)
    assert set(moves.flatten().tolist()) == set(range(11))


def test_flip() -> None:
    images = _images()
    result = Flip(p=0.25)(images, MODALITY, _seeded())
    flipped = (result == images.flip(3)).flatten(1).all(1)
    assert torch.equal(result[~flipped], images[~flipped])
    assert 35 <= int(flipped.sum()) <= 65
    assert torch.equal(Flip(p=1.0)(images, MODALITY, _seeded()), images.flip(3))


def test_grayscale_is_pillows_before_the_normalisation() -> None:
    images = _images()
    result = Colour(grayscale=1.0)(images, MODALITY, _seeded())
    for image, got in zip(images, result, strict=True):
        grey = torch.from_numpy(np.array(_pil(image).convert("L")))
        assert torch.equal(got, grey.expand(3, -1, -1))
    floats = images.float() / 50 - 2
    weights = torch.tensor([0.2989, 0.5870, 0.1140]).view(1, 3, 1, 1)
    after = Colour(grayscale=1.0)(floats, MODALITY, _seeded())
    torch.testing.assert_close(after, (floats * weights).sum(1, keepdim=True).expand_as(after))


def test_colour_has_three_cases_of_the_given_probabilities() -> None:
    images = _images(4000)
    modality = torch.arange(4000) % 2
    grey = Colour(grayscale=1.0)(images, modality, _seeded())

    def shares(**options: Any) -> list[float]:
        result = Colour(channel_copy=0.6, grayscale=0.3, **options)(images, modality, _seeded())
        copies = [images[:, c : c + 1].expand_as(images) for c in range(3)]
        kinds = [(result == kind).flatten(1).all(1) for kind in (*copies, grey, images)]
        assert torch.stack(kinds).any(0).all()
        return [float(kind[modality == 1].float().mean()) for kind in kinds] + [
            float(kinds[-1][modality == 0].float().mean())
        ]

    expected = [0.2, 0.2, 0.2, 0.3, 0.1]
    np.testing.assert_allclose(shares(), [*expected, 0.1], atol=0.03)
    np.testing.assert_allclose(shares(modality=1), [*expected, 1.0], atol=0.03)
    np.testing.assert_allclose(shares(modality=0), [0, 0, 0, 0, 1, 0.1], atol=0.03)


def _literal_box(
    erase: Erase, draws: list[list[float]], last: list[float]
) -> tuple[int, int, int, int]:
    """One image's rectangle, from the numbers that the batch draws for it."""
    if last[0] >= erase.p:
        return 0, 0, 0, 0
    (small, large), (low, high) = erase.scale, erase.ratio
    for share, place in draws:
        area = (small + (large - small) * share) * HEIGHT * WIDTH
        if erase.aspect == "log":
            ratio = math.exp(math.log(low) + (math.log(high) - math.log(low)) * place)
        else:
            ratio = low + (high - low) * place
        tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if tall < HEIGHT and wide < WIDTH:
            top = math.floor(last[1] * (HEIGHT - tall + 1))
            return top, math.floor(last[2] * (WIDTH - wide + 1)), tall, wide
    return 0, 0, 0, 0


@pytest.mark.parametrize("scale", [(0.02, 0.33), (0.2, 0.8)])
@pytest.mark.parametrize(("aspect", "attempts"), [("log", 10), ("even", 100), ("log", 1)])
def test_boxes_are_those_of_a_literal_loop(
    scale: tuple[float, float], aspect: str, attempts: int
) -> None:
    erase = Erase(p=0.7, scale=scale, aspect=aspect, attempts=attempts)
    boxes = erase.boxes(500, HEIGHT, WIDTH, _seeded())
    generator = _seeded()
    draws = torch.rand(500, attempts, 2, generator=generator, dtype=torch.float64).tolist()
    last = torch.rand(500, 3, generator=generator, dtype=torch.float64).tolist()
    expected = [_literal_box(erase, *drawn) for drawn in zip(draws, last, strict=True)]
    assert boxes.tolist() == [list(box) for box in expected]
    assert (0.62 if attempts > 1 else 0.2) < (boxes[:, 2] > 0).float().mean() < 0.78


@pytest.mark.parametrize("value", ["random", (0.5, -1.5, 3.0)])
def test_erase_writes_into_the_boxes_alone(value: str | tuple[float, float, float]) -> None:
    images = _images().float()
    erase = Erase(value=value)
    result = erase(images, MODALITY, _seeded())
    drawn = []
    for image, got, box in zip(images, result, erase.boxes(200, 24, 12, _seeded()), strict=True):
        top, left, tall, wide = box.tolist()
        expected = image.clone()
        inside = (slice(None), slice(top, top + tall), slice(left, left + wide))
        if value == "random":
            drawn.append(got[inside].flatten())
            expected[inside] = got[inside]
        else:
            expected[inside] = torch.tensor(value).view(3, 1, 1)
        assert torch.equal(got, expected)
    if value == "random":
        numbers = torch.cat(drawn)
        assert abs(numbers.mean()) < 0.02
        assert abs(numbers.std() - 1) < 0.02
        assert len(numbers.unique()) > 0.99 * len(numbers)


def test_all_randomness_is_the_generators_and_the_input_stays() -> None:
    images = _images()
    before = images.clone()
    for name in NAMES:
        pipeline = augmentation_of(load_recipe(name))
        torch.manual_seed(0)
        first = pipeline(images, MODALITY, _seeded(3))
        torch.manual_seed(1)
        state = torch.get_rng_state()
        assert torch.equal(pipeline(images, MODALITY, _seeded(3)), first)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(pipeline(images, MODALITY, _seeded(4)), first)
        assert first.dtype == torch.float32
    assert torch.equal(images, before)


# The six recipes image by image, with Pillow, torchvision and Python's own random numbers.


class _ScriptErasing:
    def __init__(self, low: float, high: float, mean: tuple[float, float, float]) -> None:
        self.low, self.high, self.mean = low, high, mean

    def __call__(self, image: Tensor) -> Tensor:
        if random.random() < 0.5:
            return image
        while True:  # the public limit of 100 attempts is never reached at this size
            area = random.uniform(self.low, self.high) * HEIGHT * WIDTH
            ratio = random.uniform(0.3, 3.3333)
            tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if tall < HEIGHT and wide < WIDTH:
                top, left = random.randint(0, HEIGHT - tall), random.randint(0, WIDTH - wide)
                fill = torch.tensor(self.mean).view(3, 1, 1)
                image[:, top : top + tall, left : left + wide] = fill
                return image


def _copied(image: Tensor, case: int) -> Tensor:
    return image[case].expand(3, -1, -1).clone()


def _saai_colour(image: Tensor) -> Tensor:
    case = random.randrange(11)
    return _copied(image, case) if case < 3 else image


def _sgeil_visible(image: Tensor) -> Tensor:
    return _copied(image, random.randrange(3)) if random.random() < 0.5 else image


def _sgeil_infrared(image: Tensor) -> Tensor:
    case = random.randrange(4)
    if case < 3:
        return _copied(image, case)
    if random.random() < 0.5:
        return image
    return (0.2989 * image[0] + 0.5870 * image[1] + 0.1140 * image[2]).expand(3, -1, -1).clone()


def _public(name: str, dataset: str, modality: int) -> Callable[[Image.Image], Tensor]:
    tv = pytest.importorskip("torchvision.transforms")
    crop, flip = tv.RandomCrop((HEIGHT, WIDTH)), tv.RandomHorizontalFlip()
    end = [tv.ToTensor(), tv.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    script = [tv.Pad(10), crop, flip, *end]
    imagenet, cifar = (0.485, 0.456, 0.406), (0.4914, 0.4822, 0.4465)
    if name == "deen":
        shares = (0.2, 0.8) if dataset == "sysu" else (0.02, 0.4)
        script.insert(1, tv.RandomGrayscale(p=0.5))
        script.append(_ScriptErasing(*shares, imagenet))
    elif name == "sgeil":
        colour = _sgeil_infrared if modality else _sgeil_visible
        script += [_ScriptErasing(0.02, 0.4, cifar), colour]
    elif name == "saai":
        pad = tv.Pad(10, padding_mode="symmetric")
        erasing = tv.RandomErasing(value="random")
        script = [flip, pad, crop, end[0], _saai_colour, end[1], erasing]
    elif name != "ddag":
        script = [flip, tv.Pad(10, fill=127), crop, *end, tv.RandomErasing()]
    return tv.Compose(script)


def _traits(images: Tensor) -> dict[str, Tensor]:
    """Numbers per image that tell what was done to it."""
    red, green, blue = images.double().unbind(1)
    std, mean = Normalise().std, Normalise().mean
    pixels = [p * s + m for p, s, m in zip((red, green, blue), std, mean, strict=True)]
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    kept = (pixels[2] - pixels[0]).abs().mul(255).round()
    return {
        "brightness": green.mean((1, 2)),
        "colour": (red - green).mean((1, 2)),
        "colourfulness": (pixels[0] - pixels[1]).abs().mean((1, 2)),
        "equal channels": ((red == green) & (green == blue)).float().mean((1, 2)),
        "grey pixels": (kept == 0).float().mean((1, 2)),
        "place across": (blue * (x - WIDTH / 2)).mean((1, 2)),
        "place down": (blue * (y - HEIGHT / 2)).mean((1, 2)),
        "contrast": blue.flatten(1).std(1),
        "common value": (blue == blue.flatten(1).mode(1).values[:, None, None])
        .float()
        .mean((1, 2)),
        "corner": blue[:, 0, 0],
    }


def _distance(one: Tensor, other: Tensor) -> float:
    """Kolmogorov-Smirnov: the largest difference of the two distribution functions."""
    one, other = (values.mul(1e4).round().sort().values for values in (one, other))
    points = torch.cat([one, other])
    shares = [
        torch.searchsorted(values, points, right=True) / len(values) for values in (one, other)
    ]
    return float((shares[0] - shares[1]).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("modality", [0, 1])
@pytest.mark.parametrize(
    ("name", "dataset"), [*((name, "sysu") for name in NAMES), ("deen", "llcm")]
)
def test_recipes_agree_with_the_public_transforms(name: str, dataset: str, modality: int) -> None:
    count = 1500
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    image = torch.stack([4 * y, 100 + 10 * x, 250 - 3 * y - 5 * x]).to(torch.uint8)
    pipeline = augmentation_of(load_recipe(name, dataset))
    batch = image.expand(count, -1, -1, -1)
    result = pipeline(batch, torch.full((count,), modality), _seeded())
    random.seed(0)
    torch.manual_seed(0)
    public = _public(name, dataset, modality)
    picture = _pil(image)
    expected = _traits(torch.stack([public(picture) for _ in range(count)]))
    for trait, values in _traits(result).items():
        # By chance above 0.08 in one of 7000 comparisons.
        assert _distance(values, expected[trait]) < 0.08, trait


def test_steps_are_in_the_recipes_order() -> None:
    ignite = augmentation_of(load_recipe("saai")).steps
    assert ignite == (
        Flip(p=0.5),
        Crop(pad=10, mode="symmetric"),
        Colour(channel_copy=0.2727),
        Normalise(),
        Erase(value="random"),
    )
    script = augmentation_of(load_recipe("deen")).steps
    assert script[:4] == (Colour(grayscale=0.5), Crop(pad=10), Flip(p=0.5), Normalise())


def test_erasing_is_the_familys_own() -> None:
    # Shapes of rectangles, which the traits above do not tell apart.
    for name, family in (("deen", ("even", 100)), ("sgeil", ("even", 100)), ("saai", ("log", 10))):
        steps = augmentation_of(load_recipe(name)).steps
        (erase,) = (step for step in steps if isinstance(step, Erase))
        assert (erase.aspect, erase.attempts) == family


def test_sgeils_shapes_are_moved_alone() -> None:
    pipeline = augmentation_of(load_recipe("sgeil"))
    shapes = pipeline.for_shapes()
    assert [type(step) for step in shapes.steps] == [Crop, Flip, Normalise]
    assert [type(step) for step in pipeline.steps][3:] == [Erase, Colour, Colour]
    with pytest.raises(MixERValueError, match="no augmentation of body shapes"):
        augmentation_of(load_recipe("ddag")).for_shapes()


def test_a_pipeline_tells_its_normalisation() -> None:
    pipeline = Pipeline(steps=(Normalise(mean=(0.1, 0.2, 0.3), std=(1, 2, 3)),))
    assert pipeline.mean == (0.1, 0.2, 0.3)
    assert pipeline.std == (1, 2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crop(pad=0), "pad is 0; expected a number of pixels >= 1"),
        (lambda: Crop(mode="gray"), "mode is 'gray'. Did you mean 'grey'"),
        (lambda: Flip(p=1.5), r"p is 1.5; expected a probability in \[0, 1\]"),
        (lambda: Colour(channel_copy=0.7, grayscale=0.7), "their sum must be a probability"),
        (
            lambda: Colour(modality=2),
            r"expected a modality \(0 visible, 1 infrared\)",
        ),
        (lambda: Normalise(std=(1, 0, 1)), "std is .*; expected 3 values, each a number > 0"),
        (lambda: Erase(scale=(0.4, 0.2)), "scale must be two shares"),
        (lambda: Erase(ratio=(0.0, 2.0)), "ratio is .*; expected 2 values, each a number > 0"),
        (lambda: Erase(aspect="uniform"), "aspect is 'uniform'. Options: even, log"),
        (lambda: Erase(attempts=0), "attempts is 0; expected a whole number >= 1"),
        (lambda: Erase(value="black"), "value must be 'random' or three numbers"),
        (lambda: Pipeline(steps=(Flip(),)), "has one Normalise step; got"),
        (lambda: Pipeline(steps=(Normalise(), Crop())), "Crop comes before Normalise"),
        (lambda: Pipeline(steps=(Erase(), Normalise())), "Crop comes before Normalise"),
        (lambda: Pipeline(steps=(Normalise(),), shape_steps=()), "has one Normalise step; got"),
    ],
)
def test_configuration_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(MixERValueError, match=message):
        make()


def test_batch_errors() -> None:
    pipeline = Pipeline(steps=(Crop(pad=20, mode="symmetric"), Normalise()))
    with pytest.raises(MixERValueError, match="needs pad <= image size"):
        pipeline(_images(), MODALITY, _seeded())
    with pytest.raises(MixERTypeError, match="must be uint8"):
        pipeline(_images().float(), MODALITY, _seeded())
    with pytest.raises(MixERValueError, match=r"modality must have shape \(200,\)"):
        pipeline(_images(), MODALITY[1:], _seeded())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizontal_flop": 0.5}, "Unknown augmentation step 'horizontal_flop'. Did you mean"),
        ({"random_crop": False}, "pad and random_crop go together.*only pad"),
        ({"shapes": ["random_erasing"]}, "shapes names the step 'random_erasing'"),
    ],
)
def test_section_errors(change: dict[str, Any], message: str) -> None:
    recipe = load_recipe("ddag")
    recipe["augmentation"] = {**recipe["augmentation"], **change}
    with pytest.raises(MixERValueError, match=message):
        augmentation_of(recipe)
