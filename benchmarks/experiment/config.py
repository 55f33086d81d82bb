"""The configuration of a benchmark run, read from YAML."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from mixer_plugin.baselines import check_network_options, create_loop, list_baselines
from mixer_plugin.benchmarks.experiment.sources import CUES, NO_CUE, ImageSource, Sources
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.config import MODES, MixERConfig, check_mode
from mixer_plugin.data.synthetic import SyntheticConfig, layout_config
from mixer_plugin.errors import MixERValueError, check_keys, check_name
from mixer_plugin.evaluation.settings import SIDES
from mixer_plugin.io.options import build, check_options, fit, option
from mixer_plugin.io.yaml_file import naming, read_yaml_file

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
HEAD_RULES = ("mixer", "mixer-calibrated", "fused", "fused-calibrated")
_LARGEST_SEED = 2**32 - 1
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
    """A further row: MixER with other options than the run's, or a baseline trained otherwise.

    Attributes:
        mode: ``e2e`` or ``f``; ``baseline``: without MixER.
        mixer: its options; None of a baseline.
        recipe: of its training, such as a longer one; None: the run's for its mode.
        finish: as in :class:`HeadTraining`.
        base: another variant, on whose finished network these heads train; None: the baseline.
        only: of a baseline: ``visible`` or ``infrared``, it trains on the images of one modality,
            which it is shown as both.
    """

    mode: str = option(choices=(*MODES, "baseline"))
    mixer: MixERConfig | None = None
    recipe: Recipe | PublicRecipe | None = None
    finish: bool = True
    base: str | None = None
    only: str | None = option(None, choices=tuple(SIDES))

    def __post_init__(self) -> None:
        check_options(self)
        if (self.mode == "baseline") != (self.mixer is None):
            raise MixERValueError(
                f"A variant of mode {self.mode!r} has mixer={self.mixer}; a baseline has none, and "
                "the modes e2e and f have one."
            )
        if self.only is not None and self.mode != "baseline":
            raise MixERValueError(
                f"A variant of mode {self.mode!r} has only={self.only!r}; MixER needs images of "
                "both modalities. Set mode: baseline, or remove only."
            )
        if self.mixer is not None:
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
        baselines: name → options of ``create_baseline`` (trunk, parts, …). For a second entry of
            the same baseline, ``NAME@LABEL``.
        seeds: every row is trained once on each; a control on those that ``controls`` gives it.
        paper: also train the literal setting of the paper, end to end.
        controls: control → the seeds it runs on: ``f-ens``, ``e2e-ens``, ``erased-triplet``,
            ``no-cue`` (baseline, (f) and its ens without modality-only cues), ``no-cue-e2e`` (e2e
            and its ens there).
        recipe: training of baselines and of e2e; with :class:`PublicRecipe` each network's own.
        heads: training of the (f) heads.
        training: how it runs, whatever the recipe.
        mixer: changes to the default :class:`MixERConfig`.
        variants: name → a further row, trained on every seed.
        rule: of matching, for the rows that are shown first; ``mixer`` is the paper's. A control
            has the same calibration.
        query: ``infrared``, ``visible`` or ``both``, whose mean the tables show; None: as the
            protocol has it.
        trials: draws of the gallery; None: the protocol's own number.
        workers: processes on this machine; each trains one job at a time.
    """

    name: str
    seeds: tuple[int, ...] = option(minimum=0, maximum=_LARGEST_SEED)
    baselines: Mapping[str, Mapping[str, Any]]
    data: Sources
    shapes: str | None = None
    cache: str | None = None
    image_size: tuple[int, int] | None = option(
        (288, 144), noun="a number of pixels", minimum=1, maximum=4096
    )
    paper: bool = False
    controls: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    recipe: Recipe | PublicRecipe = field(default_factory=Recipe)
    heads: HeadTraining = field(default_factory=HeadTraining)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    mixer: MixERConfig = field(default_factory=MixERConfig)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    rule: str = option("mixer", choices=HEAD_RULES)
    query: str | None = option(None, choices=("infrared", "visible", "both"))
    trials: int | None = option(None, minimum=1)
    workers: int = option(2, minimum=1, maximum=256)

    def __post_init__(self) -> None:
        check_options(self, "config")
        if not self.seeds:
            raise MixERValueError("seeds is empty; expected at least one whole number.")
        if not self.baselines:
            raise MixERValueError(f"baselines is empty. Options: {', '.join(list_baselines())}.")
        for name, options in self.baselines.items():
            baseline, at, label = name.partition("@")
            check_network_options(baseline, options, f"baselines.{name}")
            if at and not _WORD.fullmatch(label):
                raise MixERValueError(
                    f"baselines has {name!r}; expected a word after the '@' (letters, digits, '-', "
                    "'_', '.', '=')."
                )
        for name, seeds in (("seeds", self.seeds), *self.controls.items()):
            if len(set(seeds)) != len(seeds):
                raise MixERValueError(f"{name} repeats a seed: {list(seeds)}.")
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
        for name, variant in self.variants.items():
            self._check_start(name, variant)
        shaped = [name for name in self.baselines if create_loop(baseline_of(name)).needs_shapes]
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
            for name in map(baseline_of, self.baselines):
                self.recipe.facts(name)  # names the data sets there are, if it is none of them
        elif self.image_size is None:
            raise MixERValueError("image_size is missing; only `recipe: public` brings its own.")

    def _check_start(self, name: str, variant: Variant) -> None:
        if variant.base is None:
            return
        apart = [n for n, v in self.variants.items() if v.mode != "f" and n != name]
        if variant.mode != "f" or self.heads.recipe is None:
            raise MixERValueError(
                f"variants.{name}.base names a finished network, and heads train on one where "
                "mode is f and heads.when is after. Set both, or remove base."
            )
        check_name(f"network to train the heads of variants.{name} on", variant.base, apart)


def baseline_of(entry: str) -> str:
    """The baseline that an entry of ``baselines`` is of: ``NAME`` of ``NAME@LABEL``."""
    return entry.partition("@")[0]


STUDIES = "studies/"


def load_config(path: str | os.PathLike[str]) -> Table3Config:
    """Reads a benchmark configuration.

    Args:
        path: of a YAML file; or the name of one that comes with the package, such as ``demo``.

    Raises:
        MixERValueError: for a file that is no mapping, an unknown key (the closest is named) or a
            wrong value.
        OSError: if the file cannot be read.
    """
    with naming(path):
        return config_from_dict(read_yaml(path))


_RUN_BY = {
    "": "mixer-plugin table3 --config",
    STUDIES: "python -m mixer_plugin.benchmarks.study --config",
}


def read_yaml(path: str | os.PathLike[str], folder: str = "") -> dict[str, Any]:
    """The ``key: value`` lines of a file, or of the packaged one of that name.

    Args:
        path: of a file; or a packaged one's name.
        folder: of the packaged ones that are meant: empty, table3's; or ``STUDIES``.

    Raises:
        MixERValueError: as :func:`read_yaml_file`, for a file that holds nothing, and for a name
            that another command runs.
        OSError: if it cannot be read.
    """
    root = resources.files("mixer_plugin.benchmarks").joinpath("configs")
    packaged = {each: root.joinpath(f"{each}{path}.yaml") for each in _RUN_BY}
    known = [] if Path(path).is_file() else [each for each in packaged if packaged[each].is_file()]
    if folder in known:
        with resources.as_file(packaged[folder]) as file:
            values = read_yaml_file(file)
    elif known:
        raise MixERValueError(f"Another command runs it: `{_RUN_BY[known[0]]} {path}`.")
    else:
        values = read_yaml_file(path)
    if not values:
        raise MixERValueError(f"{path} is empty; expected `key: value` lines.")
    return values


def config_from_dict(values: Mapping[str, Any]) -> Table3Config:
    """Builds a configuration from a YAML file's contents; see :func:`load_config`."""
    values = dict(values)
    protocol = fit(values.pop("protocol", None), str | None, "protocol")
    values |= _sources(section("data", values.pop("data", None)), protocol)
    for name in ("baselines", "controls", "variants"):
        if name in values:
            values[name] = section(name, values[name])
    values["baselines"] = {
        name: section(f"baselines.{name}", options)
        for name, options in values.get("baselines", {}).items()
    }
    for name, seeds in values.get("controls", {}).items():
        values["controls"][name] = _several(seeds)
    if "seeds" in values:
        values["seeds"] = _several(values["seeds"])
    values["recipe"] = _recipe("recipe", values.get("recipe"))
    if isinstance(values["recipe"], PublicRecipe):
        values.setdefault("image_size", None)
    heads = section("heads", values.get("heads"))
    if "recipe" in heads:
        heads["recipe"] = _recipe("heads.recipe", heads["recipe"], values["recipe"])
    values["heads"] = build(HeadTraining, heads, "heads")
    values["training"] = build(
        TrainingOptions, section("training", values.get("training")), "training"
    )
    values["mixer"] = build(MixERConfig, section("mixer", values.get("mixer")), "mixer")
    for name, options in values.get("variants", {}).items():
        where = f"variants.{name}"
        values["variants"][name] = _variant(where, section(where, options), values)
    return build(Table3Config, values, "")


def _variant(name: str, options: dict[str, Any], run: Mapping[str, Any]) -> Variant:
    """A variant; options it does not name are the run's."""
    mode = options.setdefault("mode", "e2e")
    changes = section(f"{name}.mixer", options.get("mixer"))
    if mode != "baseline":
        mixer = {**run["mixer"].to_dict(), **changes}
        options["mixer"] = build(MixERConfig, mixer, f"{name}.mixer")
    elif changes or "finish" in options:
        raise MixERValueError(
            f"{name} is a baseline, which has no heads: remove mixer and finish, or name a mode of "
            "MixER's."
        )
    after = mode == "f" and run["heads"].when == "after"
    base = run["heads"].recipe if after else run["recipe"]
    if options.get("recipe") is not None:
        options["recipe"] = _recipe(f"{name}.recipe", options["recipe"], base)
    options.setdefault("finish", run["heads"].finish)
    return build(Variant, options, name)


def _sources(data: dict[str, Any], protocol: str | None) -> dict[str, Any]:
    """The data section of a file, in which folders stand beside their data set."""
    check_keys("data", data, ("synthetic", "root", "layout", "test", "split", "shapes", "cache"))
    folders: dict[str, Any] = {
        key: fit(data.pop(key), str | None, f"data.{key}")
        for key in ("shapes", "cache")
        if key in data
    }
    split, test = data.pop("split", "test"), data.pop("test", None)
    train = _source("data", data)
    other = None if test is None else _source("data.test", section("data.test", test))
    given = {"train": train, "test": other, "split": split, "protocol": protocol}
    return {"data": build(Sources, given, "data"), **folders}


def _source(name: str, values: dict[str, Any]) -> ImageSource:
    """A data set; generator settings that are left out are those of its layout."""
    check_keys(name, values, ("synthetic", "root", "layout"))
    if "synthetic" in values:
        settings = section(f"{name}.synthetic", values["synthetic"])
        build(SyntheticConfig, settings, f"{name}.synthetic")
        values["synthetic"] = layout_config(values.get("layout") or "sysu", **settings)
    return build(ImageSource, values, name)


def _recipe(
    name: str, value: Any, base: Recipe | PublicRecipe | None = None
) -> Recipe | PublicRecipe:
    """``public``, ``public: {…}``, or keys of a :class:`Recipe`.

    What they do not say is as in ``base``, where that is of the same kind.
    """
    values = {"public": None} if value == "public" else section(name, value)
    kind: type[Recipe] | type[PublicRecipe] = Recipe
    if "public" in values:
        check_keys(name, values, ("public",))
        kind, name = PublicRecipe, f"{name}.public"
        values = section(name, values["public"])
    return build(kind, {**(vars(base) if isinstance(base, kind) else {}), **values}, name)


def section(name: str, value: Any) -> dict[str, Any]:
    """A copy of what a key of a file holds; nothing for a key without a value."""
    return dict(fit(value, Mapping[str, Any] | None, name) or {})


def _several(value: Any) -> Any:
    """One value stands for a list of one."""
    return value if isinstance(value, (list, tuple)) else (value,)
