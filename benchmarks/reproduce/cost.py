"""Table B.2: what MixER costs, counted and measured."""

from __future__ import annotations

from typing import Any

import torch

from mixer_plugin.benchmarks.experiment.config import baseline_of
from mixer_plugin.benchmarks.experiment.tables import Table
from mixer_plugin.benchmarks.paper.numbers import paper_table
from mixer_plugin.benchmarks.reproduce.artifact import Artifact, Made
from mixer_plugin.benchmarks.reproduce.grid import errata
from mixer_plugin.benchmarks.reproduce.networks import METHODS, Bench, Network
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.speed.step_overhead import measure
from mixer_plugin.benchmarks.speed.step_variants import Case, make_variant
from mixer_plugin.config import MixERConfig

_ORDER = ("ddag", "deen", "sgeil", "saai", "idkl", "mpanet")
_ROUNDS, _STEPS = 5, 1


def case_of(bench: Bench, entry: str, mixer: MixERConfig | None = None) -> Case:
    """A training step of a network, with the batch and the images of its configuration."""
    config = bench.config("sysu", entry)
    job = next(iter(bench.jobs([Network("sysu", entry, "e2e")])["sysu"]))
    labels, modality = torch.zeros(2).long(), torch.arange(2)
    plan = config.recipe.plan(baseline_of(entry), labels, modality)
    cuda = config.training.device == "cuda" and torch.cuda.is_available()
    return Case(
        baseline=baseline_of(entry),
        mode="e2e",
        p=plan.p,
        k=plan.k,
        size=job.network.image_size,
        trunk=str(job.network.given.get("trunk", "resnet50")),
        device="cuda" if cuda else "cpu",
        precision="bf16" if cuda else "fp32",
        mixer=mixer or config.mixer,
    )


def operations_of(bench: Bench, network: Network) -> int:
    """Operations of a training step of a network with MixER, forward and backward."""
    job = bench.job(network, bench.seeds_of(network)[0])
    (cell,) = job.cells
    return harness.operations(make_variant(case_of(bench, network.entry, cell.mixer), "mixer").step)


def parameters(case: Case, kind: str) -> int:
    """Parameters of one of ``VARIANTS``."""
    return sum(p.numel() for p in make_variant(case, kind).net.parameters())


def _measure(bench: Bench, entry: str) -> dict[str, Any]:
    case = case_of(bench, entry)
    (found,) = measure([case], 2 if bench.mini else _ROUNDS, _STEPS)
    clock = found["clock"]
    return {
        "row": METHODS[entry],
        "parameters": parameters(case, "bare"),
        "parameters_mixer": parameters(case, "mixer"),
        "operations": found["flops"]["bare"],
        "operations_mixer": found["flops"]["mixer"],
        "seconds": found["seconds"]["bare"][f"{clock}_median"],
        "seconds_mixer": found["seconds"]["mixer"][f"{clock}_median"],
        "times": found["mixer_over_bare"]["median"],
        "floor": found["flop_floor"],
        "device": case.device,
        "images": found["images"],
    }


def _b2() -> Artifact:
    title = "Table B.2: parameters, operations and time of a training step, without and with MixER"

    def make(bench: Bench) -> Made:
        rows = [_measure(bench, entry) for entry in _ORDER]
        saai = next(row for row in rows if row["row"] == "SAAI")
        body = [_line(row) for row in rows]
        three = ("parameters", "operations", "seconds")
        body.append(_line({"row": "Upper bound", **{name: 3 * saai[name] for name in three}}))
        header = (
            "", "parameters, M", "+MixER", "operations, T", "+MixER", "seconds", "+MixER",
            "times as long", "floor",
        )  # fmt: skip
        note = (
            f"A step on {saai['device']}, forward, backward and optimizer, of each network's own "
            f"batch (SAAI: {saai['images']} images). Floor: the operations of the network and one "
            "clone of its last stage per modality, over the network's: what MixER cannot do "
            "without. Upper bound: three SAAI networks."
        )
        ours = Table(title, note, header, tuple(body))
        return Made([ours, _printed()], rows=rows)

    return Artifact(title=title, networks=lambda bench: [], make=make)


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    forms = {
        "parameters": (1e6, ".3g"), "parameters_mixer": (1e6, ".3g"),
        "operations": (1e12, ".2g"), "operations_mixer": (1e12, ".2g"),
        "seconds": (1, ".3g"), "seconds_mixer": (1, ".3g"), "times": (1, ".2f"),
        "floor": (1, ".2f"),
    }  # fmt: skip
    cells = [f"{row[n] / unit:{form}}" if n in row else "—" for n, (unit, form) in forms.items()]
    return (row["row"], *cells)


def _printed() -> Table:
    """The paper's own table, whose minutes are of whole trainings on a machine it does not name."""
    names = {
        "parameters_m": "parameters, M", "parameters_m_mixer": "+MixER",
        "operations_t": "operations, T", "operations_t_mixer": "+MixER",
        "minutes": "minutes", "minutes_mixer": "+MixER", "epochs": "epochs",
    }  # fmt: skip
    rows = paper_table("b2")
    body = tuple(
        (
            f"paper: {row.method}{' †' if row.erratum else ''}",
            *(f"{row.values[n]:g}" if n in row.values else "—" for n in names),
        )
        for row in rows
    )
    note = f"Minutes of a whole training; the paper names no device.{errata(rows)}"
    return Table("Table B.2 as the paper prints it", note, ("", *names.values()), body)


ARTIFACTS = {"b2": _b2()}
