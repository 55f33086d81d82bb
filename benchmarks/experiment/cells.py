"""The cells of a run, and which of them share a baseline's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from mixer_plugin.benchmarks.experiment.config import Table3Config
from mixer_plugin.benchmarks.experiment.sources import CUES, NO_CUE
from mixer_plugin.config import MixERConfig


@dataclass(frozen=True)
class Job:
    """Cells that share a baseline's weights.

    Attributes:
        baseline: name of the baseline.
        world: ``cues``, or ``no-cue``: data without modality-only cues.
        seed: of data, initialisation and batches.
        cells: names of its variants, in order.
    """

    baseline: str
    world: str
    seed: int
    cells: tuple[str, ...]

    @property
    def name(self) -> str:
        """A folder name."""
        return f"{self.baseline}-{self.world}-seed{self.seed}"


def plan_jobs(config: Table3Config) -> list[Job]:
    """All jobs of a run; those that every table needs come first."""
    # Heads that train jointly share the baseline's run: its features are their erased ones.
    start = ("baseline",) if config.heads.when == "after" else ()
    after, own = _variants(config)
    first, rest = [], []
    for baseline in config.baselines:
        for seed in config.seeds:
            ens = ("f-ens",) if seed in config.controls.get("f-ens", ()) else ()
            first.append(Job(baseline, CUES, seed, (*start, "f", *ens, *after)))
            first.append(Job(baseline, CUES, seed, ("e2e",)))
            if config.paper:
                first.append(Job(baseline, CUES, seed, ("e2e-paper",)))
            rest += [
                Job(baseline, CUES, seed, (control,))
                for control in ("e2e-ens", "erased-triplet")
                if seed in config.controls.get(control, ())
            ]
            rest += [Job(baseline, CUES, seed, (cell,)) for cell in own]
            if seed in config.controls.get("no-cue", ()):
                rest.append(Job(baseline, NO_CUE, seed, (*start, "f", "f-ens")))
            if seed in config.controls.get("no-cue-e2e", ()):
                rest += [Job(baseline, NO_CUE, seed, (cell,)) for cell in ("e2e", "e2e-ens")]
    return first + rest


def plan_variants(config: Table3Config, worlds: Sequence[str]) -> list[Job]:
    """The jobs of the baselines and the variants alone."""
    after, own = _variants(config)
    return [
        Job(baseline, world, seed, cells)
        for seed in config.seeds
        for baseline in config.baselines
        for world in worlds
        for cells in (("baseline", *after), *((cell,) for cell in own))
    ]


def _variants(config: Table3Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The variants whose heads train on the finished baseline, and the others."""
    after = tuple(name for name in config.variants if trained_after(config, name))
    return after, tuple(name for name in config.variants if name not in after)


def mixer_config(cell: str, config: Table3Config) -> tuple[str, MixERConfig]:
    """Mode and options of a cell's MixER."""
    base, after = config.mixer, trained_after(config, cell)
    if cell in config.variants:
        own = config.variants[cell]
        return own.mode, dataclasses.replace(own.mixer, frozen_base=after)
    if cell == "e2e-paper":
        return "e2e", MixERConfig.paper()
    if cell == "erased-triplet":
        return "e2e", dataclasses.replace(base, control="erased-triplet")
    control = "shared-head" if cell.endswith("-ens") else "none"
    mode = "f" if cell.startswith("f") else "e2e"
    return mode, dataclasses.replace(base, control=control, frozen_base=after)


def trained_after(config: Table3Config, cell: str) -> bool:
    """Whether a cell is heads trained on the finished, frozen baseline."""
    mode = config.variants[cell].mode if cell in config.variants else cell.split("-")[0]
    return config.heads.when == "after" and mode == "f"


def finishes(config: Table3Config, cell: str) -> bool:
    """Whether a cell's heads are made and trained anew once its network is finished."""
    if cell == "baseline":
        return False
    mode, mixer = mixer_config(cell, config)
    own = config.variants.get(cell, config.heads)
    heads = mixer.control != "erased-triplet"
    return config.heads.when == "after" and mode == "e2e" and heads and own.finish
