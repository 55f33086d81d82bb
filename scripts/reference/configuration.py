"""The page of the configuration keys, from the dataclasses that read them."""

from __future__ import annotations

import dataclasses
from typing import Any

from docstring import attributes, cell, plain

from mixer_plugin.benchmarks.experiment.config import HeadTraining, Table3Config, Variant
from mixer_plugin.benchmarks.experiment.sources import ImageSource, Sources
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.config import MixERConfig
from mixer_plugin.data import Augmentation, SyntheticConfig

HEAD = """# Configuration keys

A run of `table3` reads one YAML file ([an example](../benchmark.md#a-configuration)). In Python,
[`MixERConfig`](api/mixer_plugin.md#mixerconfig) has the keys of `mixer`, and reads and writes YAML.
An unknown key is an error that names the closest one; a value of another type or outside its range
is one, too.
"""
# Keys that a file has in another place than the dataclass.
PLACES = {"shapes": "data", "cache": "data", "protocol": ""}
# Title, place in the file, and the dataclasses whose fields stand there.
SECTIONS: tuple[tuple[str, str, tuple[type, ...]], ...] = (
    ("The file", "", (Table3Config, Sources)),
    ("data and data.test", "data", (ImageSource, Sources, Table3Config)),
    ("data.synthetic", "data.synthetic", (SyntheticConfig,)),
    ("mixer", "mixer", (MixERConfig,)),
    ("recipe", "recipe", (Recipe,)),
    ("recipe.augmentation", "recipe.augmentation", (Augmentation,)),
    ("recipe.public", "recipe.public", (PublicRecipe,)),
    ("heads", "heads", (HeadTraining,)),
    ("variants.NAME", "variants.NAME", (Variant,)),
    ("training", "training", (TrainingOptions,)),
)


def page() -> str:
    """A table of keys for each section of a file."""
    return "\n".join([HEAD, *(_section(*one) for one in SECTIONS)])


def _section(title: str, place: str, classes: tuple[type, ...]) -> str:
    rows = [
        _row(item, attributes(cls).get(item.name, ""))
        for number, cls in enumerate(classes)
        for item in dataclasses.fields(cls)
        if _belongs(item.name, place, first=number == 0)
    ]
    heading = f"## {title}"
    table = ["| key | type, values | default | what it says |", "|---|---|---|---|", *rows, ""]
    return "\n".join([heading, "", *table])


def _belongs(name: str, place: str, *, first: bool) -> bool:
    """Whether a file has a dataclass's field at this place."""
    if place == "":
        return PLACES.get(name, "") == "" and (first or name in PLACES)
    if place == "data":
        return first or name in ("split", "test") or PLACES.get(name) == "data"
    return True


def _row(item: dataclasses.Field[Any], text: str) -> str:
    rules = item.metadata
    values = ", ".join(f"`{choice}`" for choice in rules.get("choices", ()))
    kind = values or f"`{cell(str(item.type))}`"
    if bounds := _bounds(rules.get("bounds", {})):
        kind += f", {bounds}"
    said = cell(plain(rules.get("help") or text))
    return f"| `{item.name}` | {kind} | {_default(item)} | {said} |"


def _bounds(bounds: dict[str, float]) -> str:
    signs = {"minimum": "≥", "above": ">", "maximum": "≤", "below": "<"}
    return ", ".join(f"{signs[name]} {value}" for name, value in bounds.items())


def _default(item: dataclasses.Field[Any]) -> str:
    if item.default_factory is not dataclasses.MISSING:
        return "its own defaults" if dataclasses.is_dataclass(item.default_factory) else "none"
    if item.default is dataclasses.MISSING:
        return "required"
    if item.default is None or item.default == ():
        return "none"
    value = item.default
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{shown}`"
