"""From the ``augmentation:`` section of a public recipe to the steps that carry it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mixer_plugin.data.loading.pipeline import Colour, Crop, Erase, Flip, Normalise, Pipeline, Step
from mixer_plugin.errors import MixERValueError, check_name, closest


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
    makers = _makers(section, script=recipe["rows"] == "blocks")
    for key in section:
        check_name("augmentation step", key, (*makers, "pad", "shapes"))
    if ("pad" in section) != bool(section.get("random_crop")):
        raise MixERValueError(
            "pad and random_crop go together: the crop goes back to the size before the padding; "
            f"got only {'pad' if 'pad' in section else 'random_crop'}."
        )
    made = {key: makers[key](value) for key, value in section.items() if key in makers}
    shapes = section.get("shapes")
    for key in shapes or ():
        if key not in section:
            raise MixERValueError(f"shapes names the step {key!r}.{closest(key, made)}")
    picked = None if shapes is None else tuple(made[key] for key in shapes if key != "pad")
    return Pipeline(steps=tuple(made.values()), shape_steps=picked)


def _makers(section: Mapping[str, Any], script: bool) -> dict[str, Callable[[Any], Step]]:
    """The steps by their keys, each made from the key's value."""
    return {
        "random_crop": lambda _: Crop(pad=section["pad"]["pixels"], mode=section["pad"]["mode"]),
        "horizontal_flip": lambda p: Flip(p=p),
        "random_grayscale": lambda p: Colour(grayscale=p),
        "channel_copy": lambda p: Colour(channel_copy=p),
        "visible": lambda shares: Colour(modality=0, **shares),
        "infrared": lambda shares: Colour(modality=1, **shares),
        "normalize": lambda of: Normalise(mean=tuple(of["mean"]), std=tuple(of["std"])),
        "random_erasing": lambda settings: _erase(settings, script),
    }


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
