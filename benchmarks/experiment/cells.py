"""The cells of a run, each one network to train, and the jobs that share a baseline's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixer_plugin.benchmarks.experiment.config import CELLS, CONTROLS, Table3Config, Variant
from mixer_plugin.benchmarks.experiment.networks import Network, network_of
from mixer_plugin.benchmarks.experiment.sources import CUES, NO_CUE, Sources
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import MixERValueError, check_name


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network to train. Its name labels files and rows, and means nothing else.

    Attributes:
        name: of its files and rows.
        recipe: of its training.
        mode: MixER's, ``e2e`` or ``f``; None: the baseline, without MixER.
        mixer: MixER's options, or None.
        starts_from: name of a cell of the same job whose weights it starts from; None: the
            network's starting weights.
        finish: recipe of new heads on the finished network, in place of those that were trained
            with it; None: these stay.
        holds_baseline: its erased features are the baseline's, which has no training of its own.
        only: ``visible`` or ``infrared``: it trains on the images of one modality.
    """

    name: str
    recipe: Recipe | PublicRecipe
    mode: str | None = None
    mixer: MixERConfig | None = None
    starts_from: str | None = None
    finish: Recipe | PublicRecipe | None = None
    holds_baseline: bool = False
    only: str | None = None

    @property
    def recipes(self) -> list[Recipe | PublicRecipe]:
        """One for each of its trainings."""
        return [self.recipe] if self.finish is None else [self.recipe, self.finish]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Cells that share a baseline's weights, and their training data.

    Attributes:
        network: the baseline.
        world: ``cues``; ``no-cue``, data without modality-only cues; ``cue=SHARE``, data with a
            share of them.
        seed: of data, initialisation and batches.
        cells: in the order of their training.
        data: what is trained and tested on, and the protocol.
        shapes: folder of body shapes that are not generated, or None.
        cache: folder for the decoded images; None: one in the result folder.
        training: how training runs, whatever the recipe.
    """

    network: Network
    world: str
    seed: int
    cells: tuple[Cell, ...]
    data: Sources
    shapes: str | None
    cache: str | None
    training: TrainingOptions

    @property
    def name(self) -> str:
        """A folder name."""
        return f"{self.network.name}-{self.world}-seed{self.seed}"

    def folder(self, out: Path) -> Path:
        """Where in a result folder its cells' files are."""
        return out / "cells" / self.name

    def of(self, *cells: Cell, world: str | None = None) -> Job:
        """The job of other cells, or of another world too."""
        return dataclasses.replace(self, cells=cells, world=world or self.world)

    def missing(self, out: Path) -> list[Cell]:
        """The cells that are not finished."""
        return [c for c in self.cells if not (self.folder(out) / f"{c.name}.json").exists()]


def cells_of(config: Table3Config) -> dict[str, Cell]:
    """Every cell that a run may train, by name."""
    heads = config.heads.recipe  # None: they train in the baseline's own run
    every = {
        name: Variant(
            mode=mode,
            mixer=dataclasses.replace(config.mixer, **{"frozen_base": False, **changes}),
            finish=config.heads.finish,
        )
        for name, (mode, changes) in CELLS.items()
    }
    cells = {"baseline": Cell(name="baseline", recipe=config.recipe)}
    for name, row in {**every, **config.variants}.items():
        after = heads is not None and row.mode == "f"
        if row.mixer is None:
            cells[name] = Cell(name=name, recipe=row.recipe or config.recipe, only=row.only)
            continue
        has_heads = row.mode == "e2e" and row.mixer.control != "erased-triplet"
        cells[name] = Cell(
            name=name,
            recipe=row.recipe or (heads if after else None) or config.recipe,
            mode=row.mode,
            mixer=dataclasses.replace(row.mixer, frozen_base=after),
            starts_from=(row.base or "baseline") if after else None,
            finish=heads if has_heads and row.finish else None,
            holds_baseline=heads is None and name == "f",
        )
    return cells


def plan_jobs(config: Table3Config) -> list[Job]:
    """All jobs of a run, seed by seed; those of controls come last."""
    cells = cells_of(config)
    # Heads that train jointly share the baseline's run: its features are their erased ones.
    start = [] if cells["f"].holds_baseline else [cells["baseline"]]
    paper = [cells["e2e-paper"]] if config.paper else []
    after, *apart = _of_variants(config, cells)
    first, rest = [], []
    for job in _empty_jobs(config):
        on = [CONTROLS[name] for name in CONTROLS if job.seed in config.controls.get(name, ())]
        cues, bare = (
            [cells[name] for of, names in on if of == world for name in names]
            for world in (CUES, NO_CUE)
        )
        first.append(job.of(*start, cells["f"], *_of_mode("f", cues), *after))
        first += [job.of(cell) for cell in (cells["e2e"], *paper)]
        first += [job.of(*own) for own in apart]
        rest += [job.of(cell) for cell in _of_mode("e2e", cues)]
        if heads := _of_mode("f", bare):
            rest.append(job.of(*start, *heads, world=NO_CUE))
        rest += [job.of(cell, world=NO_CUE) for cell in _of_mode("e2e", bare)]
    return first + rest


def plan_variants(config: Table3Config, worlds: Sequence[str]) -> list[Job]:
    """The jobs of the baselines and the variants alone, seed by seed."""
    cells = cells_of(config)
    after, *apart = _of_variants(config, cells)
    return [
        job.of(*own, world=world)
        for job in sorted(_empty_jobs(config), key=lambda job: config.seeds.index(job.seed))
        for world in worlds
        for own in ([cells["baseline"], *after], *apart)
    ]


def pick_jobs(config: Table3Config, names: Collection[str]) -> list[Job]:
    """A job for each of these cells, baseline and seed; with joint heads, none needs another.

    Raises:
        MixERValueError: for a cell that the run does not have, or heads that train afterwards.
    """
    cells = cells_of(config)
    if not cells["f"].holds_baseline:
        raise MixERValueError("heads.when is 'after'; single cells are picked of joint heads.")
    for name in names:
        check_name("cell", name, cells)
    picked = dict.fromkeys("f" if name == "baseline" else name for name in names)
    return [job.of(cells[name]) for job in _empty_jobs(config) for name in picked]


def _of_variants(config: Table3Config, cells: Mapping[str, Cell]) -> list[list[Cell]]:
    """The variants that start from the baseline; then each other one and those that start from it.

    They are trained one after the other, so that a start is there when it is needed.
    """
    variants = [cells[name] for name in config.variants]
    starting: dict[str | None, list[Cell]] = {}
    for cell in variants:
        starting.setdefault(cell.starts_from, []).append(cell)
    return [
        starting.get("baseline", []),
        *([cell, *starting.get(cell.name, [])] for cell in starting.get(None, [])),
    ]


def _empty_jobs(config: Table3Config) -> list[Job]:
    """A job without cells for each baseline and seed."""
    return [
        Job(
            network=network,
            world=CUES,
            seed=seed,
            cells=(),
            data=config.data,
            shapes=config.shapes,
            cache=config.cache,
            training=config.training,
        )
        for network in [network_of(config, name) for name in config.baselines]
        for seed in config.seeds
    ]


def _of_mode(mode: str, cells: list[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.mode == mode]
