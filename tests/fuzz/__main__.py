"""``make fuzz``: every door, two at a time, each in processes that a damaged file may end.

``python -m tests.fuzz [DOOR …] [--seconds 600] [--seed 0] [--out results/fuzz]``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.doors import DOORS


def fuzz_door(door: str, seconds: float, seed: int, found: Path) -> int:
    """Runs processes until the time is over; the number of faults."""
    (found / door).mkdir(parents=True, exist_ok=True)
    end, faults = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 5:
        command = [sys.executable, "-m", "tests.fuzz.child", door, str(left), str(seed), found]
        try:
            code = subprocess.run(command, check=False, timeout=left + 120).returncode
        except subprocess.TimeoutExpired:
            code = -9
        if code not in (0, 1):
            kept = sorted((found / door).iterdir(), key=lambda path: path.stat().st_mtime)
            print(f"{door}: the process ended with status {code} at {kept[-1:]}", flush=True)
        faults += code != 0
        seed += 1000
    return faults


def main() -> int:
    """Prints one line per fault; 1 if there is any."""
    parser = argparse.ArgumentParser()
    parser.add_argument("doors", nargs="*", default=[*DOORS], metavar="DOOR")
    parser.add_argument("--seconds", type=float, default=600.0, help="for each door")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/fuzz"))
    given = parser.parse_args()
    if wrong := set(given.doors) - set(DOORS):
        parser.error(f"no door {', '.join(sorted(wrong))}; there are {', '.join(DOORS)}")
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(fuzz_door, door, given.seconds, given.seed, given.out)
            for door in given.doors
        ]
        return int(sum(run.result() for run in runs) > 0)


if __name__ == "__main__":
    sys.exit(main())
