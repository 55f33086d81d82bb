"""Runs the tests and the speed measurements that need a GPU, within nine minutes, into one file.

    python scripts/gpu.py [--out benchmarks/results/gpu.json] [--only eval_speed rerank_speed]

It needs a source tree, PyTorch, NumPy and PyYAML; what also needs pytest or FAISS is skipped where
these are missing. Every step is a process of its own with its own time. The file is written after
each, so an interruption loses nothing: return code (None: out of time), seconds, the JSON that the
step wrote, the end of its output. ``--device cpu --quick`` tries the same on tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a source tree need not be installed

from mixer_plugin.benchmarks.speed import harness  # noqa: E402
from mixer_plugin.run_card import commit  # noqa: E402

LIMIT = 540.0  # seconds, of everything
TAIL = 3000  # characters of output that are kept
# Seconds that each step may take, its words, and those of the same on tiny sizes.
TESTS = (110, "pytest -q -m gpu -p no:cacheprovider tests/gpu tests/unit/data/test_loading.py")
SPEED = {
    "eval_speed": (45, "", "--width 16 --queries 60 --items 200 --repetitions 5"),
    "eval_speed --once": (60, "--queries 20000 --items 100000", "--queries 60 --items 200"),
    "rerank_speed": (30, "", "--images 60 --repetitions 1"),
    "step_overhead": (
        110,
        "--mode e2e f --memory --rounds 6 --steps 5 --precision bf16",
        "--baseline saai --trunk small --size 32 16 --p 2 --k 2 --rounds 1 --steps 1",
    ),
    "probing_speed": (
        45,
        "--rounds 3 --steps 10",
        "--network saai-base/small --size 32 16 --ids 4 --p 2 --rounds 1 --steps 1",
    ),
    "loading_speed": (
        45,
        "--trunk resnet50 --height 288 --width 144 --p 10 --k 4 --ids 60 --recipe saai --memory "
        "--turns 3",
        "--height 32 --width 16 --ids 4 --p 2 --k 2 --steps 1 --turns 1 --workers 1",
    ),
    "growth": (
        50,
        "--rounds 1",
        "--ids 3 --height 16 --width 8 --p 2 --k 2 --factors 1 --gallery 200 --gallery-factors 1 "
        "--queries 24 --dimensions 8 --rounds 1",
    ),
    "search_speed": (35, "", "--width 8 --repetitions 5"),
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process.

    Attributes:
        name: of the step.
        words: after ``python -m``; ``{out}`` stands for a JSON file that it may write.
        seconds: that it may take.
        needs: a package without which the step is skipped.
    """

    name: str
    words: tuple[str, ...]
    seconds: float
    needs: str | None = None


def steps_of(device: str, quick: bool) -> list[Step]:
    """All steps; the quick ones are of tiny sizes."""
    seconds, words = TESTS
    steps = [Step(name="tests", words=tuple(words.split()), seconds=seconds, needs="pytest")]
    for name, (seconds, full, tiny) in SPEED.items():
        own = f"mixer_plugin.benchmarks.speed.{name} {tiny if quick else full} --device {device}"
        own += " --out {out}"
        needs = "faiss" if name == "search_speed" else None
        steps.append(Step(name=name, words=tuple(own.split()), seconds=seconds, needs=needs))
    return steps


def run(step: Step, seconds: float) -> dict[str, Any]:
    """Runs a step for at most so many seconds, and ends all its processes then."""
    if step.needs and find_spec(step.needs) is None:
        return {"skipped": f"{step.needs} is not installed"}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "found.json", Path(folder) / "log"
        words = [word.replace("{out}", str(out)) for word in step.words]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                rc: int | None = process.wait(max(seconds, 0.0))
            except subprocess.TimeoutExpired:
                rc = None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        return {
            "command": " ".join(step.words),
            "rc": rc,
            "seconds": round(time.monotonic() - started, 1),
            "found": json.loads(out.read_text(encoding="utf-8")) if out.is_file() else None,
            "tail": log.read_text(encoding="utf-8", errors="replace")[-TAIL:],
        }


def run_all(steps: Sequence[Step], out: Path, report: dict[str, Any], end: float) -> int:
    """Runs the steps until the end (monotonic), writes after each; returns how many failed."""
    report["steps"] = {}
    for step in steps:
        found = run(step, min(step.seconds, end - time.monotonic()))
        report["steps"][step.name] = found
        harness.write_json(out, report)
        state = found.get("skipped") or f"rc {found['rc']}, {found['seconds']} s"
        print(f"{step.name}: {state}", flush=True)
    return sum("skipped" not in found and found["rc"] != 0 for found in report["steps"].values())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if a step failed."""
    end = time.monotonic() + LIMIT
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu.json")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the steps")
    parser.add_argument("--only", nargs="+", choices=("tests", *SPEED), help="some of the steps")
    options = parser.parse_args(argv)
    harness.refuse_missing_gpu(parser, options.device)
    report = harness.environment(options.device) | {"commit": commit(), "quick": options.quick}
    print(f"{report['device']}, PyTorch {report['torch']}", flush=True)
    steps = steps_of(options.device, options.quick)
    chosen = [step for step in steps if options.only is None or step.name in options.only]
    return int(run_all(chosen, options.out, report, end) > 0)


if __name__ == "__main__":
    sys.exit(main())
