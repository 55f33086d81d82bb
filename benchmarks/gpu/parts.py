"""What the script runs: every part a command of its own, the most wanted figures first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MINUTES = 8.0  # of a whole run, which the seconds of the parts add up to


@dataclass(frozen=True, kw_only=True)
class Part:
    """One command, run in a process of its own.

    Attributes:
        name: of the part in the report.
        module: what ``python -m`` runs, below ``mixer_plugin.benchmarks``.
        full: its arguments, but for ``--device`` and ``--out``, which every command takes.
        quick: the same in miniature.
        seconds: its share of a run of :data:`MINUTES`.
        needs: packages without which it is left out, by the names they are imported by.
        folder: of the source tree, without which it is left out; None: none.
    """

    name: str
    module: str
    full: str = ""
    quick: str = ""
    seconds: float
    needs: tuple[str, ...] = ()
    folder: str | None = None

    def command(self, quick: bool, device: str, out: Path) -> list[str]:
        """The words after ``python``; the command writes its figures to ``out``, as JSON."""
        own = (self.quick if quick else self.full).split()
        common = ["--device", device, "--out", str(out)]
        return ["-m", f"mixer_plugin.benchmarks.{self.module}", *own, *common]


_TINY = "--trunk small --size 32 16 --p 2 --k 2"
_STEPS = "--mode e2e f --precision bf16"

PARTS = (
    Part(name="tests", module="gpu.own_tests", seconds=80, needs=("pytest",), folder="tests/gpu"),
    *(
        Part(
            name=f"steps-{baseline}",
            module="speed.step_overhead",
            full=f"--baseline {baseline} {_STEPS} --memory --rounds 3 --steps 5",
            # On a CPU each memory is measured in a process of its own: of one network only.
            quick=f"--baseline {baseline} {_STEPS} --rounds 1 --steps 1 {_TINY}"
            + " --memory" * (baseline == "saai"),
            seconds=26,
        )
        for baseline in ("saai", "ddag", "mpanet", "deen", "sgeil", "idkl")
    ),
    Part(
        name="evaluation",
        module="speed.eval_speed",
        full="--repetitions 5",
        quick="--width 16 --queries 60 --items 200 --repetitions 5",
        seconds=15,
    ),
    Part(
        name="evaluation-1m",
        module="speed.eval_speed",
        full="--once --width 512 --queries 10000 --items 1000000",
        quick="--once --width 16 --queries 60 --items 400",
        seconds=40,
    ),
    Part(
        name="reranking",
        module="speed.rerank_speed",
        quick="--images 60 --repetitions 1",
        seconds=15,
    ),
    Part(
        name="reranking-50k",
        module="speed.rerank_speed",
        full="--images 50000 --repetitions 2",
        quick="--images 90 --repetitions 1",
        seconds=30,
    ),
    Part(
        name="agreement",
        module="gpu.agreement",
        quick=f"{_TINY} --steps 3 --ids 3",
        seconds=30,
    ),
    Part(
        name="trainer",
        module="gpu.trainer",
        quick=f"{_TINY} --ids 2 --epochs 2",
        seconds=31,
    ),
    Part(
        name="loading",
        module="speed.loading_speed",
        full="--trunk resnet50 --height 288 --width 144 --p 10 --k 4 --ids 60 --recipe saai "
        "--memory --turns 3",
        quick="--height 32 --width 16 --ids 4 --p 2 --k 2 --steps 1 --turns 1 --workers 1",
        seconds=27,
        needs=("PIL",),
    ),
    Part(
        name="probing",
        module="speed.probing_speed",
        full="--network saai-base/resnet50 saai-base/small --rounds 3 --steps 10",
        quick="--network saai-base/small --size 32 16 --ids 4 --p 2 --rounds 1 --steps 1",
        seconds=22,
        needs=("PIL", "scipy"),
    ),
    Part(
        name="growth",
        module="speed.growth",
        full="--rounds 1",
        quick="--ids 3 --height 16 --width 8 --p 2 --k 2 --factors 1 --gallery 200 "
        "--gallery-factors 1 --queries 24 --dimensions 8 --rounds 1",
        seconds=24,
        needs=("PIL", "scipy", "matplotlib"),
    ),
    Part(
        name="search",
        module="speed.search_speed",
        quick="--width 8 --repetitions 5",
        seconds=10,
        needs=("faiss",),
    ),
)
