"""The cells of a run, and which of them share a baseline's weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from mixer_plugin.benchmarks.config import Table3Config
from mixer_plugin.benchmarks.sources import CUES, NO_CUE
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
    first, rest = [], []
    for baseline in config.baselines:
        for seed in config.seeds:
            ens = ("f-ens",) if seed in config.controls.get("f-ens", ()) else ()
            first.append(Job(baseline, CUES, seed, (*start, "f", *ens)))
            first.append(Job(baseline, CUES, seed, ("e2e",)))
            if config.paper:
                first.append(Job(baseline, CUES, seed, ("e2e-paper",)))
            rest += [
                Job(baseline, CUES, seed, (control,))
                for control in ("e2e-ens", "erased-triplet")
                if seed in config.controls.get(control, ())
            ]
            if seed in config.controls.get("no-cue", ()):
                rest.append(Job(baseline, NO_CUE, seed, (*start, "f", "f-ens")))
    return first + rest


def mixer_config(cell: str, config: Table3Config) -> tuple[str, MixERConfig]:
    """Mode and options of a cell's MixER."""
    base = config.mixer
    if cell == "e2e-paper":
        return "e2e", MixERConfig.paper()
    if cell == "erased-triplet":
        return "e2e", dataclasses.replace(base, control="erased-triplet")
    control = "shared-head" if cell.endswith("-ens") else "none"
    mode = "f" if cell.startswith("f") else "e2e"
    frozen = trained_after(config, cell)
    return mode, dataclasses.replace(base, control=control, frozen_base=frozen)


def trained_after(config: Table3Config, cell: str) -> bool:
    """Whether a cell is heads trained on the finished, frozen baseline."""
    return config.heads.when == "after" and cell.startswith("f")
