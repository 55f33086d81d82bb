"""``mixer-plugin`` in a process that kills itself once, at a step of a training.

Run as: python -m tests.integration.table3.parallel_table3_worker RANK CALL MARK ARGUMENT…
RANK is that of the process, CALL the number of the step among all of the run, from 1; the file MARK
says that it has happened.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mixer_plugin.benchmarks.training import fit
from mixer_plugin.cli import main


def dying(rank: int, call: int, mark: Path) -> None:
    """Replaces the trainer's seeding, which comes once a step."""
    seed, calls = fit.seed_step, 0

    def counted(*arguments: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call and int(os.environ["RANK"]) == rank and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        seed(*arguments)

    fit.seed_step = counted


if __name__ == "__main__":
    dying(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    sys.exit(main(sys.argv[4:]))
