"""From the ``augmentation:`` section of a public recipe to the steps that carry it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixer_plugin.data.loading.pipeline import Colour, Crop, Erase, Flip, Normalise, Pipeline, Step
from mixer_plugin.errors import MixERValueError, closest

_KEYS = (
    "channel_copy",
    "horizontal_flip",
    "infrared",
    "normalize",
    "pad",
    "random_crop",
    "random_erasing",
    "random_grayscale",
    "shapes",
    "visible",
)


def augmentation_of(recipe: Mapping[str, Any]) -> Pipeline:
    """The augmentation that a public recipe trains with.

    The steps are in the recipe's order. Padding is done by the crop that follows it; a recolouring
    between the two (DEEN) leaves what was added as it is, so nothing changes. The crop goes back to
    the size that the images come in, whatever the recipe's is.

    Args:
        recipe: ``baselines.recipe.load_recipe(name, dataset)``: its ``augmentation``, and ``rows``,
            which tells the script family (``blocks``, an erasing class of its own) from the ignite
            family (torchvision's).

    Returns:
        The pipeline, with ``shape_steps`` where the recipe has them.

    Raises:
        MixERValueError: The section has an unknown key, padding without a crop or a crop without
            padding, or a value out of its range.
    """
    section = recipe["augmentation"]
    for key in section:
        if key not in _KEYS:
            raise MixERValueError(f"Unknown augmentation step {key!r}.{closest(key, _KEYS)}")
    if ("pad" in section) != bool(section.get("random_crop")):
        raise MixERValueError(
            "pad and random_crop go together: the crop goes back to the size before the padding; "
            f"got only {'pad' if 'pad' in section else 'random_crop'}."
        )
    script = recipe["rows"] == "blocks"
    made = {key: _step(key, section, script) for key in section if key not in ("pad", "shapes")}
    shapes = section.get("shapes")
    if shapes is None:
        return Pipeline(steps=tuple(made.values()))
    for key in shapes:
        if key not in section:
            raise MixERValueError(f"shapes names the step {key!r}.{closest(key, made)}")
    picked = tuple(made[key] for key in shapes if key != "pad")
    return Pipeline(steps=tuple(made.values()), shape_steps=picked)


def _step(key: str, section: Mapping[str, Any], script: bool) -> Step:
    value = section[key]
    if key == "random_crop":
        return Crop(pad=section["pad"]["pixels"], mode=section["pad"]["mode"])
    if key == "horizontal_flip":
        return Flip(p=value)
    if key == "random_grayscale":
        return Colour(grayscale=value)
    if key == "channel_copy":
        return Colour(channel_copy=value)
    if key in ("visible", "infrared"):
        return Colour(modality=int(key == "infrared"), **value)
    if key == "normalize":
        return Normalise(mean=tuple(value["mean"]), std=tuple(value["std"]))
    return _erase(value, script)


def _erase(settings: Mapping[str, Any], script: bool) -> Erase:
    value = settings["value"]
    if isinstance(value, list):
        value = tuple(value)
    elif value != "random":
        value = (float(value),) * 3
    return Erase(
        p=settings["p"],
        scale=tuple(settings["scale"]),
        ratio=tuple(settings["ratio"]),
        aspect="even" if script else "log",
        attempts=100 if script else 10,
        value=value,
    )
