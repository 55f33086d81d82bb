"""The measuring loop of all speed scripts: contestants take turns, so other load meets all alike.

A script makes its data, names its contestants and says what its numbers mean. Here are the order of
the turns, the clocks, the statistics, memory, the environment, the common options and the file.
Other load on the machine disturbs processor time least. A GPU is waited for before and after each
turn, and only the wall's clock counts there.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixer_plugin.errors import MixERRuntimeError
from mixer_plugin.io import atomic_write

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Runs = dict[str, list[float]]  # seconds by contestant, one of each round
Seconds = dict[str, Runs]  # by clock
Statistic = Callable[[Sequence[float]], float]


@dataclass(frozen=True, kw_only=True)
class Turns:
    """The times of all contestants.

    Attributes:
        seconds: by clock and contestant, one of each round.
        results: by contestant, what it returned last.
        peaks: by contestant, most bytes of tensors beyond those held before; of a GPU only.
    """

    seconds: Seconds
    results: dict[str, Any] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)


def take_turns(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    device: str = "cpu",
    per: int = 1,
    warm_up: int | None = None,
) -> Turns:
    """Runs all contestants once in each round, each round beginning with another one.

    Args:
        contestants: by name.
        rounds: timed runs of each.
        device: ``cpu`` or ``cuda``, which is waited for.
        per: steps of a run; seconds are those of one step.
        warm_up: how many contestants run once before, not timed; None: all.
    """
    taken = Turns(seconds={clock: {name: [] for name in contestants} for clock in CLOCKS})
    for number, name in order(list(contestants), rounds, warm_up):
        taken.results.pop(name, None)  # frees its memory
        before = _reset_peak() if device == "cuda" else 0
        with timed(taken.seconds if number else {}, name, device=device, per=per):
            taken.results[name] = contestants[name]()
        if device == "cuda":
            peak = torch.cuda.max_memory_allocated() - before
            taken.peaks[name] = max(peak, taken.peaks.get(name, 0))
    return taken


def order(names: list[Any], rounds: int, warm_up: int | None = None) -> Iterator[tuple[int, Any]]:
    """Whose turn it is: (round, name), rounds counted from 1; 0 warms up."""
    yield from ((0, name) for name in names[:warm_up])
    for number in range(rounds):
        shift = number % len(names)
        yield from ((number + 1, name) for name in (*names[shift:], *names[:shift]))


@contextmanager
def timed(seconds: Seconds, name: str, *, device: str = "cpu", per: int = 1) -> Iterator[None]:
    """Adds the time spent in the block to ``seconds[clock][name]``, for every clock."""
    wait_for(device)
    started = {clock: read() for clock, read in CLOCKS.items()}
    yield
    wait_for(device)
    for clock, read in CLOCKS.items():
        spent = (read() - started[clock]) / per
        seconds.setdefault(clock, {}).setdefault(name, []).append(spent)


def wait_for(device: str) -> None:
    """Waits until the GPU is done; does nothing for ``cpu``."""
    if device == "cuda":
        torch.cuda.synchronize()


def clock_of(device: str) -> str:
    """The clock that counts: the processor's on a CPU, the wall's on a GPU."""
    return "cpu" if device == "cpu" else "wall"


def spread(values: Sequence[float]) -> float:
    """Standard deviation, 0 of one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


STATISTICS: dict[str, Statistic] = {"minimum": min, "median": statistics.median, "spread": spread}


def summary(runs: Runs) -> dict[str, dict[str, float]]:
    """Every contestant's minimum, median and spread, by statistic."""
    return {s: {name: of(own) for name, own in runs.items()} for s, of in STATISTICS.items()}


def paired(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of two contestants in every round."""
    return [one / other for one, other in zip(above, below, strict=True)]


def ratios(runs: Runs, floor: str | None = None) -> dict[str, dict[str, float]]:
    """All contestants over the floor (None: the first one), by statistic.

    ``minimum`` and ``median`` are ratios of these, ``spread`` is that of the ratios of the rounds.
    """
    floor = floor or next(iter(runs))
    above = [name for name in runs if name != floor]
    found = summary(runs)
    over = {s: {n: found[s][n] / found[s][floor] for n in above} for s in ("minimum", "median")}
    return over | {"spread": {name: spread(paired(runs[name], runs[floor])) for name in above}}


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the products and convolutions of a run."""
    from torch.utils.flop_counter import FlopCounterMode  # 80 MB, which peaks would show

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def peak_memory(device: str, run: Callable[[], object]) -> int:
    """Bytes at the peak of a run beyond what was held before: of a GPU's tensors or the process.

    Raises:
        MixERRuntimeError: on a CPU where the system is not Linux.
    """
    if device == "cuda":
        before = _reset_peak()
        run()
        return torch.cuda.max_memory_allocated() - before
    resident("VmHWM")  # raises where the system is not Linux
    # Garbage of earlier work, and what the allocator kept of it, would hide what the run adds.
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak: what is held now
    before = resident("VmHWM")
    run()
    return resident("VmHWM") - before


def _reset_peak() -> int:
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def resident(name: str) -> int:
    """Bytes of this process's memory, by Linux's account, such as ``VmHWM``: at most so far.

    Not ``getrusage``, whose peak survives ``exec``: it would be the parent's.

    Raises:
        MixERRuntimeError: where the system is not Linux.
    """
    found = next((line for line in _lines("/proc/self/status") if line.startswith(name)), None)
    if found is None:
        raise MixERRuntimeError("Memory is read from /proc, as Linux has it. Measure it there.")
    return int(found.split()[1]) * 1024


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a fresh process with the same number of threads."""
    context, threads = multiprocessing.get_context("spawn"), torch.get_num_threads()
    with ProcessPoolExecutor(
        1, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        return pool.submit(function, *arguments).result()


def environment(device: str = "cpu") -> dict[str, Any]:
    """The environment that the times depend on; of a GPU also its memory and libraries."""
    models = (x.split(": ")[1] for x in _lines("/proc/cpuinfo") if x.startswith("model name"))
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu": next(models, "cpu"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        **(_gpu() if device == "cuda" else {}),
    }


def _gpu() -> dict[str, Any]:
    return {
        "gpu_bytes": torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def speed_parser(
    doc: str | None, rounds: int | None, spelling: str = "--rounds", *, device: bool = True
) -> argparse.ArgumentParser:
    """The common options: rounds (None: without; also otherwise spelt), threads, device, file."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    if rounds is not None:
        names = dict.fromkeys((spelling, "--rounds"))
        made.add_argument(
            *names, dest="rounds", type=int, default=rounds, help="timed runs of each"
        )
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda") if device else ("cpu",))
    made.add_argument("--out", type=Path, help="JSON file to write")
    return made


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, least: int = 1
) -> argparse.Namespace:
    """Reads the command line, refuses what cannot be measured, and sets the number of threads."""
    options = parser.parse_args(argv)
    if getattr(options, "rounds", least) < least:
        parser.error(f"the number of rounds must be at least {least}, got {options.rounds}")
    for name, value in vars(options).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and not isinstance(number, bool) and number < 1:
                parser.error(f"--{name} must be at least 1, got {number}")
    refuse_missing_gpu(parser, options.device)
    torch.set_num_threads(options.threads)
    return options


def refuse_missing_gpu(parser: argparse.ArgumentParser, device: str) -> None:
    """Ends with a message if the device is a GPU that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; use --device cpu")


def write_json(path: Path | None, value: Any) -> None:
    """Writes JSON if there is a path, with its folder; the file is whole or not there."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write.write_json(path, value)
