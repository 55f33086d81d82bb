"""What a study's file says: :mod:`mixer_plugin.benchmarks.study` has its form."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixer_plugin.benchmarks.experiment.cells import Job, plan_variants
from mixer_plugin.benchmarks.experiment.comparisons import Comparison, System
from mixer_plugin.benchmarks.experiment.config import (
    STUDIES,
    Table3Config,
    config_from_dict,
    read_yaml,
    section,
)
from mixer_plugin.benchmarks.experiment.sources import CUES, share_of
from mixer_plugin.errors import MixERValueError, check_name, closest
from mixer_plugin.io.options import fit
from mixer_plugin.io.yaml_file import naming
from mixer_plugin.matching.rules import RULES

TWINS = {"ens": "shared-head", "triplet": "erased-triplet"}
# Eq. 15 on the erased feature trains the base, which (f) never does.
_WITHOUT = {"ens": ("baseline",), "triplet": ("baseline", "f")}


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study.

    Attributes:
        run: baselines, seeds, recipes of training, and all variants with their twins.
        variants: names of the variants that are compared.
        worlds: ``cues``, ``no-cue``, ``cue=SHARE``; several.
        differences: the rows of its tables; none: every one that could be made.
    """

    run: Table3Config
    variants: tuple[str, ...]
    worlds: tuple[str, ...] = (CUES,)
    differences: tuple[Comparison, ...] = ()

    def jobs(self) -> list[Job]:
        """Its trainings."""
        return plan_variants(self.run, self.worlds)

    def twins(self, variant: str) -> tuple[str, ...]:
        """The cells of a variant's twins."""
        names = (f"{variant}-{kind}" for kind in TWINS)
        return tuple(name for name in names if name in self.run.variants)


def load_study(path: str) -> Study:
    """Reads a study's file, or the packaged one of that name.

    Raises:
        MixERValueError: for a key or value that does not fit.
        OSError: if the file cannot be read.
    """
    with naming(path):
        return study_from_dict(read_yaml(path, STUDIES))


def study_from_dict(values: Mapping[str, Any]) -> Study:
    """Builds a study from a file's contents; see :func:`load_study`."""
    values = dict(values)
    twins = section("twins", values.pop("twins", None))
    _names("twins", tuple(twins), tuple(TWINS))
    given = values.pop("worlds", (CUES,))
    worlds = (given,) if isinstance(given, str) else fit(given, tuple[str, ...], "worlds")
    shares = [share_of(world) for world in worlds]
    differences = section("differences", values.pop("differences", None))
    own = {
        name: options
        for given, value in section("variants", values.get("variants")).items()
        for name, options in _expanded(given, section(f"variants.{given}", value))
    }
    if not own:
        raise MixERValueError("The study has no variants to compare.")
    every = dict(own)
    for kind, chosen in twins.items():
        names = own if chosen == "all" else _names(f"twins.{kind}", chosen, tuple(own))
        for name in names:
            options = own[name]
            if options.get("mode", "e2e") in _WITHOUT[kind]:
                continue
            mixer = section(f"variants.{name}.mixer", options.get("mixer"))
            mixer["control"] = TWINS[kind]
            every[f"{name}-{kind}"] = {**options, "mixer": mixer}
    if "controls" in values:
        raise MixERValueError("A study has no controls but its twins and worlds: remove controls.")
    run = config_from_dict({**values, "variants": every})
    if run.data.split != "val" and not differences:
        raise MixERValueError(
            "A study chooses, and so must not see the test identities. Set data.split: val; or, to "
            "prove what was chosen before, list under differences all that is to be shown."
        )
    if any(share is not None for share in shares) and run.data.train.synthetic is None:
        raise MixERValueError(f"worlds is {list(worlds)}, which needs a generator: data.synthetic.")
    cells = ("baseline", *run.variants)
    compared = tuple(
        _comparison(label, sides, worlds, cells) for label, sides in differences.items()
    )
    return Study(run=run, variants=tuple(own), worlds=worlds, differences=compared)


def _comparison(label: str, sides: Any, worlds: Sequence[str], cells: Sequence[str]) -> Comparison:
    """Two systems, each ``cell@rule`` or, of another world than the first, ``world/cell@rule``."""
    found = []
    for text in fit(sides, tuple[str, ...], f"differences.{label}"):
        *world_of, rest = text.split("/")
        cell, _, rule = rest.partition("@")
        world = "/".join(world_of) or worlds[0]
        check_name(f"world of differences.{label}", world, worlds)
        check_name(f"cell of differences.{label}", cell, cells)
        check_name(f"rule of differences.{label}", rule, RULES)
        found.append(System(world, cell, rule))
    if len(found) != 2:
        raise MixERValueError(
            f"differences.{label} has {len(found)} sides; expected two, [cell@rule, cell@rule]."
        )
    return Comparison(label, *found)


def _names(what: str, given: Any, known: Sequence[str]) -> tuple[str, ...]:
    names = [given] if isinstance(given, str) else fit(given, tuple[str, ...], what)
    for name in names:
        if name not in known:
            raise MixERValueError(f"{what} has {name!r}.{closest(str(name), known)}")
    return tuple(dict.fromkeys(names))


def _expanded(name: str, options: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A variant for each combination of the values that are lists."""
    parts = {
        part: section(f"variants.{name}.{part}", options[part])
        for part in ("mixer", "recipe")
        if isinstance(options.get(part), Mapping)
    }
    lists = {
        (part, key): value
        for part, values in parts.items()
        for key, value in values.items()
        if isinstance(value, list)
    }
    found = []
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        label = "-".join([name, *(f"{key}={value}" for (_, key), value in chosen.items())])
        changed = {
            part: {**values, **{key: value for (of, key), value in chosen.items() if of == part}}
            for part, values in parts.items()
        }
        found.append((label, {**options, **changed}))
    return found
