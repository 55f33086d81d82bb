"""The configuration of a benchmark run, read from YAML."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mixer_plugin.baselines import create_loop, list_baselines
from mixer_plugin.benchmarks.experiment.sources import CUES, NO_CUE, ImageSource, Sources
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.config import MixERConfig, check_options, option
from mixer_plugin.data.synthetic import layout_config
from mixer_plugin.errors import MixERValueError, check_keys, check_name, closest
from mixer_plugin.module import check_mode

# A cell beside the baseline: its mode, and in what its options differ from the run's.
CELLS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "f": ("f", {}),
    "f-ens": ("f", {"control": "shared-head"}),
    "e2e": ("e2e", {}),
    "e2e-ens": ("e2e", {"control": "shared-head"}),
    "erased-triplet": ("e2e", {"control": "erased-triplet"}),
    "e2e-paper": ("e2e", MixERConfig.paper().to_dict()),
}
# A control: its data, and the cells that train on them.
CONTROLS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "f-ens": (CUES, ("f-ens",)),
    "e2e-ens": (CUES, ("e2e-ens",)),
    "erased-triplet": (CUES, ("erased-triplet",)),
    "no-cue": (NO_CUE, ("f", "f-ens")),
    "no-cue-e2e": (NO_CUE, ("e2e", "e2e-ens")),
}
_WORD = re.compile(r"[\w.=-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class HeadTraining:
    """When and how the (f) heads train.

    Attributes:
        when: ``joint``: in the baseline's own run, which mode "f" leaves bit-identical; ``after``:
            on the finished, frozen baseline.
        recipe: of the training afterwards.
        finish: with ``after``, the heads of the e2e rows too are cloned anew from the finished
            network and trained by ``recipe``: both modes then have the same steps.
    """

    when: str = option("joint", choices=("joint", "after"))
    recipe: Recipe | PublicRecipe | None = None
    finish: bool = option(True)

    def __post_init__(self) -> None:
        check_options(self, "heads")
        if (self.when == "after") != (self.recipe is not None):
            raise MixERValueError(
                f"heads.when is {self.when!r} and heads.recipe is "
                f"{'missing' if self.recipe is None else 'given'}; "
                "'after' needs one."
            )


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A further row: MixER with other options than the run's.

    Attributes:
        mode: ``e2e`` or ``f``.
        mixer: its options.
        recipe: of its training; None: the run's for its mode.
        finish: as in :class:`HeadTraining`.
    """

    mode: str
    mixer: MixERConfig
    recipe: Recipe | PublicRecipe | None = None
    finish: bool = True

    def __post_init__(self) -> None:
        check_mode(self.mode, self.mixer)


@dataclass(frozen=True, kw_only=True)
class Table3Config:
    """One benchmark run.

    Attributes:
        name: of the run; a word.
        data: what is trained and tested on, and the protocol.
        shapes: folder of the body shapes of the training images, one file at each image's relative
            path; needed by ``sgeil`` on a data set of one's own.
        cache: folder for the decoded images, which is kept; None: one in the result folder, for as
            long as the run lasts.
        image_size: (height, width) in pixels; None: as each network's public recipe has it.
        baselines: name → options of ``create_baseline`` (trunk, parts, …).
        seeds: of the rows that are judged.
        paper: also train the literal setting of the paper, end to end.
        controls: control → the seeds it runs on.
        recipe: training of baselines and of e2e; with :class:`PublicRecipe` each network's own.
        heads: training of the (f) heads.
        training: how it runs, whatever the recipe.
        mixer: changes to the default :class:`MixERConfig`.
        variants: name → a further row, trained on every seed.
        query: ``infrared`` or ``visible``; None: as the protocol has it.
        trials: draws of the gallery; None: the protocol's own number.
        workers: processes.
    """

    name: str
    seeds: tuple[int, ...]
    baselines: Mapping[str, Mapping[str, Any]]
    data: Sources
    shapes: str | None = None
    cache: str | None = None
    image_size: tuple[int, int] | None = (288, 144)
    paper: bool = False
    controls: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    recipe: Recipe | PublicRecipe = field(default_factory=Recipe)
    heads: HeadTraining = field(default_factory=HeadTraining)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    mixer: MixERConfig = field(default_factory=MixERConfig)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    query: str | None = option(None, choices=("infrared", "visible"))
    trials: int | None = None
    workers: int = option(2, minimum=1)

    def __post_init__(self) -> None:
        check_options(self, "config")
        if not self.seeds:
            raise MixERValueError("seeds is empty; expected at least one whole number.")
        if not self.baselines:
            raise MixERValueError(f"baselines is empty. Options: {', '.join(list_baselines())}.")
        for name in self.baselines:
            if name not in list_baselines():
                raise MixERValueError(
                    f"Unknown baseline {name!r}.{closest(name, list_baselines())}"
                )
        for control, seeds in self.controls.items():
            check_name("control", control, CONTROLS)
            stray = sorted(set(seeds) - set(self.seeds))
            if stray:
                raise MixERValueError(
                    f"controls.{control} runs on seeds {stray} that are not in seeds "
                    f"{list(self.seeds)}; a paired difference needs both."
                )
        for name in self.variants:
            if not _WORD.fullmatch(name) or name in ("baseline", *CELLS):
                raise MixERValueError(
                    f"variants has {name!r}; expected a word (letters, digits, '-', '_', '.', '=') "
                    f"that is none of {', '.join(('baseline', *CELLS))}."
                )
        shaped = [name for name in self.baselines if create_loop(name).needs_shapes]
        generated = self.data.train.synthetic is not None
        if shaped and not generated and self.shapes is None:
            raise MixERValueError(
                f"{', '.join(shaped)} trains on body shapes beside the images. Give data.shapes, a "
                "folder with one grey image per training image at the same relative path (its "
                "public code names the parsing network that makes them)."
            )
        if self.shapes is not None and (generated or not shaped):
            raise MixERValueError(
                "data.shapes is given, and nothing uses it: it goes with data.root and a baseline "
                "that needs shapes (sgeil)."
            )
        without_cues = [name for name in self.controls if CONTROLS[name][0] == NO_CUE]
        if without_cues and not generated:
            raise MixERValueError(
                f"The control {without_cues[0]} needs a generator: a real data set's cues cannot "
                "be taken out. Remove it from controls, or use data.synthetic."
            )
        if isinstance(self.recipe, PublicRecipe):
            for name in self.baselines:
                self.recipe.facts(name)  # names the data sets there are, if it is none of them
        elif self.image_size is None:
            raise MixERValueError("image_size is missing; only `recipe: public` brings its own.")


def load_config(path: str | os.PathLike[str]) -> Table3Config:
    """Reads a benchmark configuration.

    Args:
        path: of a YAML file; or the name of one that comes with the package, such as ``demo``.

    Raises:
        MixERValueError: for a file that is no mapping, an unknown key (the closest is named) or a
            wrong value.
        OSError: if the file cannot be read.
    """
    return config_from_dict(read_yaml(path))


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``key: value`` lines of a file, or of the packaged one of that name.

    Raises:
        MixERValueError: for a file that is no mapping.
        OSError: if it cannot be read.
    """
    source: Any = Path(path)
    own = resources.files("mixer_plugin.benchmarks").joinpath(f"configs/{path}.yaml")
    if not source.exists() and own.is_file():
        source = own
    text = source.read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise MixERValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise MixERValueError(
            f"{path} holds a {type(values).__name__}; expected `key: value` lines."
        )
    return values


def config_from_dict(values: Mapping[str, Any]) -> Table3Config:
    """Builds a configuration from a YAML file's contents; see :func:`load_config`."""
    values = dict(values)
    values |= _sources(_mapping("data", values.pop("data", {})), values.pop("protocol", None))
    check_keys("configuration", values, [item.name for item in fields(Table3Config)])
    for name in ("name", "seeds", "baselines"):
        if name not in values:
            raise MixERValueError(f"The configuration has no {name!r}.")
    values["seeds"] = _seeds("seeds", values["seeds"])
    values["baselines"] = {
        name: _mapping(f"baselines.{name}", options)
        for name, options in _mapping("baselines", values["baselines"]).items()
    }
    values["controls"] = {
        name: _seeds(f"controls.{name}", seeds)
        for name, seeds in _mapping("controls", values.get("controls")).items()
    }
    values["recipe"] = _recipe("recipe", values.get("recipe"))
    if "image_size" in values:
        height, width = values["image_size"]
        values["image_size"] = (int(height), int(width))
    elif isinstance(values["recipe"], PublicRecipe):
        values["image_size"] = None
    heads = _mapping("heads", values.get("heads"))
    check_keys("heads", heads, ("when", "recipe", "finish"))
    if "recipe" in heads:
        heads["recipe"] = _recipe("heads.recipe", heads["recipe"], values["recipe"])
    values["heads"] = HeadTraining(**heads)
    values["training"] = TrainingOptions.from_dict(_mapping("training", values.get("training")))
    values["mixer"] = MixERConfig.from_dict(_mapping("mixer", values.get("mixer")))
    values["variants"] = {
        name: _variant(f"variants.{name}", _mapping(f"variants.{name}", options), values)
        for name, options in _mapping("variants", values.get("variants")).items()
    }
    return Table3Config(**values)


def _variant(name: str, options: dict[str, Any], run: Mapping[str, Any]) -> Variant:
    """A variant; options it does not name are the run's."""
    check_keys(name, options, ("mode", "mixer", "recipe", "finish"))
    mode = options.get("mode", "e2e")
    mixer = {**run["mixer"].to_dict(), **_mapping(f"{name}.mixer", options.get("mixer"))}
    after = mode == "f" and run["heads"].when == "after"
    base = run["heads"].recipe if after else run["recipe"]
    recipe = options.get("recipe")
    return Variant(
        mode=mode,
        mixer=MixERConfig.from_dict(mixer),
        recipe=None if recipe is None else _recipe(f"{name}.recipe", recipe, base),
        finish=options.get("finish", run["heads"].finish),
    )


def _sources(data: dict[str, Any], protocol: str | None) -> dict[str, Any]:
    """The data section of a file, in which folders stand beside their data set."""
    check_keys("data", data, ("synthetic", "root", "layout", "test", "split", "shapes", "cache"))
    folders: dict[str, Any] = {
        key: str(data.pop(key)) for key in ("shapes", "cache") if key in data
    }
    split, test = data.pop("split", "test"), data.pop("test", None)
    train = _source("data", data)
    other = None if test is None else _source("data.test", _mapping("data.test", test))
    return {"data": Sources(train=train, test=other, split=split, protocol=protocol), **folders}


def _source(name: str, values: dict[str, Any]) -> ImageSource:
    """A data set; generator settings that are left out are those of its layout."""
    check_keys(name, values, ("synthetic", "root", "layout"))
    if "root" in values:
        values["root"] = str(values["root"])
    if "synthetic" in values:
        settings = _mapping(f"{name}.synthetic", values["synthetic"])
        values["synthetic"] = layout_config(values.get("layout") or "sysu", **settings)
    return ImageSource(**values)


def _recipe(
    name: str, value: Any, base: Recipe | PublicRecipe | None = None
) -> Recipe | PublicRecipe:
    """``public``, ``public: {…}``, or keys of a :class:`Recipe`.

    What they do not say is as in ``base``, where that is of the same kind.
    """
    values = {"public": None} if value == "public" else _mapping(name, value)
    kind: type[Recipe] | type[PublicRecipe] = Recipe
    if "public" in values:
        check_keys(name, values, ("public",))
        kind, values = PublicRecipe, _mapping(f"{name}.public", values["public"])
    return kind.from_dict({**(vars(base) if isinstance(base, kind) else {}), **values})


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise MixERValueError(f"{name} is {value!r}; expected `key: value` lines.")
    return dict(value)


def _seeds(name: str, value: Any) -> tuple[int, ...]:
    seeds = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in seeds):
        raise MixERValueError(f"{name} is {value!r}; expected whole numbers >= 0.")
    if len(set(seeds)) != len(seeds):
        raise MixERValueError(f"{name} repeats a seed: {list(seeds)}.")
    return tuple(seeds)
