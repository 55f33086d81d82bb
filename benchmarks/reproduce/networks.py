"""The networks behind the paper's tables: which there are, and each one's configuration.

One result folder a data set holds them all, so that a network which one table has trained is there
for every other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.experiment.cells import Job, pick_jobs
from mixer_plugin.benchmarks.experiment.config import (
    Table3Config,
    baseline_of,
    config_from_dict,
    read_yaml,
)
from mixer_plugin.benchmarks.experiment.measure import features_of_row
from mixer_plugin.benchmarks.experiment.run_folder import check, claim
from mixer_plugin.benchmarks.experiment.sources import permutation_of
from mixer_plugin.benchmarks.experiment.workers import train
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.evaluation import Protocol, get_protocol
from mixer_plugin.evaluation.settings import SIDES
from mixer_plugin.features import FeatureSet

SCALES = ("mini", "full")
DATASETS = {"sysu": "SYSU-MM01", "regdb": "RegDB", "llcm": "LLCM", "market": "Market-1501"}
METHODS = {"ddag": "DDAG", "mpanet": "MPANet", "deen": "DEEN", "sgeil": "SGEIL", "saai": "SAAI",
           "idkl": "IDKL"}  # fmt: skip
OURS = "saai-base"  # the paper's own baseline, "SAAI without prototype learning"
_MINI = "bench/mini"

# Table 5: row → the weights of the losses that it leaves out. L_yme is the base's own.
LOSSES: Mapping[str, Mapping[str, float]] = {
    "L_yme, L_ymr": {"lambda_orthogonal": 0, "lambda_confusion": 0, "lambda_fusion": 0},
    "L_yme, L_o": {"lambda_related": 0, "lambda_confusion": 0, "lambda_fusion": 0},
    "L_yme, L_m": {"lambda_related": 0, "lambda_orthogonal": 0, "lambda_fusion": 0},
    "L_yme, L_ymr, L_o, L_m": {"lambda_fusion": 0},
}
# Figure B.1: one weight changes, the others stay at the paper's best.
WEIGHTS: Mapping[str, float] = {
    "lambda_confusion": 0.4,
    "lambda_orthogonal": 0.6,
    "lambda_fusion": 0.4,
}
SWEEP: Mapping[str, tuple[float, ...]] = {
    "mini": (0.0, 0.4, 0.8),
    "full": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
}
# Table B.4: entry → its trunk, and the size of its images where it is another than the paper's.
TRUNKS: Mapping[str, tuple[str, tuple[int, int] | None]] = {
    f"{OURS}@resnet18": ("resnet18", None),
    f"{OURS}@vit-b16": ("vit-b16", (224, 224)),
    f"{OURS}@vit-l16": ("vit-l16", (224, 224)),
}


@dataclass(frozen=True, order=True)
class Network:
    """A trained network of a table.

    Attributes:
        dataset: that it is trained on: ``sysu``, ``regdb`` or ``llcm``.
        entry: baseline, or ``NAME@LABEL``.
        cell: ``baseline``, ``f``, ``e2e``, or a variant of the entry.
    """

    dataset: str
    entry: str
    cell: str


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How the networks are trained, and where.

    Attributes:
        scale: ``mini``: in small, on generated images; ``full``: the paper's.
        out: folder; each data set's networks are in one below it.
        roots: data set → its folder, at full scale.
        weights: of trunks, as in ``table3``, a file being a ResNet-50's; None: as the
            configurations have it.
        seeds: None: as the configurations have them.
        device: of training; ``cpu``: in float32; None: as the configurations have it.
        quiet: whether trainings say nothing of how far they are.
    """

    scale: str
    out: Path
    roots: Mapping[str, str] = field(default_factory=dict)
    weights: str | None = None
    seeds: tuple[int, ...] | None = None
    device: str | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        check_name("scale", self.scale, SCALES)
        if self.mini and self.roots:
            raise MixERValueError(
                "--data is given, and --scale mini generates its images. Add --scale full, or "
                "leave --data out."
            )

    @property
    def mini(self) -> bool:
        """Whether everything is small and generated."""
        return self.scale == "mini"

    def folder(self, dataset: str) -> Path:
        """The result folder of a data set's networks."""
        return self.out / "networks" / dataset

    def config(self, dataset: str, entry: str) -> Table3Config:
        """The configuration of an entry, with all variants that a table asks for.

        Raises:
            MixERValueError: if the paper has no such network on the data set, or its folder was not
                given.
        """
        check_name(f"network on {DATASETS[dataset]}", entry, entries(dataset))
        network = baseline_of(entry)
        values = read_yaml(_MINI if self.mini else f"paper/{dataset}-{network}")
        if self.mini:
            values["data"] = {**values["data"], "layout": dataset}
            options = values["baselines"][entry]
        else:
            values["data"] = {**values["data"], "root": self.root(dataset)}
            trunk, size = TRUNKS.get(entry, (None, None))
            options = {**values["baselines"][network], **({"trunk": trunk} if trunk else {})}
            if size is not None:
                values["image_size"] = size
        values |= {"name": f"{dataset}-{entry}", "baselines": {entry: options}}
        values["variants"] = variants(dataset, entry, self.scale)
        if self.seeds is not None:
            values["seeds"] = self.seeds
        training = dict(values.get("training") or {})
        # A file is one of a ResNet-50; Table B.4's other trunks have their own.
        if self.weights is not None and (self.weights == "none" or entry not in TRUNKS):
            training["weights"] = None if self.weights == "none" else self.weights
            training["weights_missing"] = "error"
        if self.device is not None:
            training["device"] = self.device
        if self.device == "cpu":  # where half precision takes longer
            training["precision"] = "fp32"
        return config_from_dict({**values, "training": training})

    def root(self, dataset: str) -> str:
        """The folder of a data set that was given.

        Raises:
            MixERValueError: if it was not.
        """
        if dataset not in self.roots:
            raise MixERValueError(
                f"This table needs {DATASETS[dataset]}, and --data names no folder with its "
                "layout. Give --data ROOT, the folder of a data set or one that holds several."
            )
        return self.roots[dataset]

    def jobs(self, networks: Iterable[Network]) -> dict[str, list[Job]]:
        """Data set → the trainings of these networks, of every seed, each one once."""
        found: dict[str, list[Job]] = {}
        for dataset, entry in dict.fromkeys((n.dataset, n.entry) for n in networks):
            cells = [n.cell for n in networks if (n.dataset, n.entry) == (dataset, entry)]
            found.setdefault(dataset, []).extend(pick_jobs(self.config(dataset, entry), cells))
        return found

    def train(self, networks: Sequence[Network]) -> None:
        """Trains those that are missing.

        Raises:
            MixERError: as ``table3.run``; nothing is trained then.
            KeyboardInterrupt: running trainings save first; finished networks stay.
        """
        every = self.jobs(networks)
        for dataset, jobs in every.items():
            check(self.config(dataset, jobs[0].network.name), jobs, self.folder(dataset))
        for dataset, jobs in every.items():
            settings = {
                entry: dataclasses.asdict(self.config(dataset, entry)) for entry in entries(dataset)
            }
            claim(self.folder(dataset), {"scale": self.scale, "networks": settings}, True)
            workers = self.config(dataset, jobs[0].network.name).workers
            train(jobs, self.folder(dataset), workers, quiet=self.quiet)

    def seeds_of(self, network: Network) -> tuple[int, ...]:
        """The seeds that a network is trained on."""
        return self.config(network.dataset, network.entry).seeds

    def job(self, network: Network, seed: int) -> Job:
        """The training of a network on a seed."""
        jobs = self.jobs([network])[network.dataset]
        return next(job for job in jobs if job.seed == seed)

    def features(self, network: Network, seed: int) -> FeatureSet:
        """The test images of its data set, as a trained network sees them."""
        return features_of_row(self.job(network, seed), network.cell, self.folder(network.dataset))

    def protocol(self, network: Network, seed: int, search: str = "all") -> Protocol:
        """The protocol that the paper evaluates a network by; ``search``: of SYSU-MM01's two."""
        job, out = self.job(network, seed), self.folder(network.dataset)
        name = job.data.protocol_of(seed).replace("/all/", f"/{search}/")
        root = job.data.test_root(out, job.world, seed)
        return get_protocol(name, permutation=permutation_of(root, name))


def entries(dataset: str) -> tuple[str, ...]:
    """The networks that the paper trains on a data set."""
    folder = resources.files("mixer_plugin.benchmarks").joinpath("configs/paper")
    names = (file.name.removesuffix(".yaml").partition("-") for file in folder.iterdir())
    plain = sorted(network for of, _, network in names if of == dataset)
    return (*plain, *(TRUNKS if dataset == "sysu" else ()))


def variants(dataset: str, entry: str, scale: str) -> dict[str, dict[str, Any]]:
    """The rows that single tables add to an entry, as ``variants`` of a configuration."""
    if dataset != "sysu":
        return {}
    if entry == "saai":
        return {f"{side}-only": {"mode": "baseline", "only": side} for side in SIDES}
    if entry != OURS:
        return {}
    losses = {loss_cell(name): {"mixer": dict(off)} for name, off in LOSSES.items()}
    swept = {
        sweep_cell(name, value): {"mixer": {name: value}}
        for name, best in WEIGHTS.items()
        for value in SWEEP[scale]
        if value != best
    }
    return {**losses, **swept, "attention": {"mixer": {"related_fusion": "cross-attention"}}}


def loss_cell(row: str) -> str:
    """The cell of a row of Table 5."""
    return row.replace(", ", "-")


def sweep_cell(weight: str, value: float) -> str:
    """The cell of a bar of Figure B.1; the paper's best value is e2e itself."""
    return "e2e" if value == WEIGHTS[weight] else f"{weight}={value:g}"
