"""What a training step costs more with MixER, against the floor of one extra stage per image.

One CPU core, batches of four identities; a GPU, the public batches::

    python -m mixer_plugin.benchmarks.speed.step_overhead --mode e2e f --memory --threads 1 \
        --out benchmarks/results/step_overhead.json
    python -m mixer_plugin.benchmarks.speed.step_overhead --mode e2e f --memory --device cuda \
        --precision bf16 --out benchmarks/results/step_overhead_gpu.json

Each network is the full public one (ResNet-50, options, image size and optimizer of its recipe for
SYSU-MM01, random weights and images) in its own loop. Three variants of the same weights take
turns, in another order each round: ``bare``; ``floor``, the network and nothing but one clone of
its stage per modality; ``mixer``, wrapped, with all its losses. A step is forward, backward and
optimizer. ``overhead_ratio`` is mixer's time over bare's, over what counted operations
(``torch.utils.flop_counter``) say of floor and bare: 1 is a step that costs the physical minimum,
at the speed at which the bare network computes. ``mixer_over_floor`` compares times with times.
Time is the processor's on a CPU, which other load disturbs least, and the wall's on a GPU, which is
waited for at the end of each turn.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.benchmarks.experiment.run_cell import write_json
from mixer_plugin.benchmarks.speed.step_variants import VARIANTS, Case, Variant, make_variant
from mixer_plugin.benchmarks.training.recipe import plain
from mixer_plugin.errors import MixERRuntimeError
from mixer_plugin.run_card import run_card

_RATIOS = (("mixer", "bare"), ("floor", "bare"), ("mixer", "floor"))


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description="Cost of a training step with MixER.")
    made.add_argument("--baseline", nargs="+", default=["saai", "ddag", "mpanet"])
    made.add_argument("--mode", nargs="+", default=["e2e"], choices=("e2e", "f"))
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    made.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    made.add_argument("--contiguous", action="store_true", help="maps not channels-last")
    made.add_argument("--p", type=int, help="identities per batch; default: 4, on a GPU as public")
    made.add_argument("--k", type=int, help="images per identity and modality; default: as public")
    made.add_argument("--size", type=int, nargs=2, help="height and width; default: as public")
    made.add_argument("--trunk", default="resnet50")
    made.add_argument("--rounds", type=int, default=12)
    made.add_argument("--steps", type=int, help="of a turn; default: 1, on a GPU 10")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--memory", action="store_true", help="also measure peak memory")
    made.add_argument("--alone", choices=VARIANTS, help="print one variant's peak memory and end")
    made.add_argument("--out", type=Path, help="JSON file")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    options = parser().parse_args(arguments)
    cpu = options.device == "cpu"
    torch.set_num_threads(options.threads)
    cases = [case_of(options, b, m) for b in options.baseline for m in options.mode]
    if options.alone:
        print(process_memory(cases[0], options.alone))
        return 0
    card = run_card({k: v for k, v in vars(options).items() if k not in ("out", "alone")})
    card["device"] = device_name(options.device)
    networks: list[dict[str, Any]] = []
    for case in cases:
        found = measure(case, options.rounds, options.steps or (1 if cpu else 10))
        found["memory"] = memory(case, options.threads) if options.memory else None
        networks.append(found)
        print(summary(found), flush=True)
        if options.out:
            write_json(options.out, {**card, "networks": networks})
    return 0


def case_of(options: argparse.Namespace, baseline: str, mode: str) -> Case:
    """What the command line says of a network; where it says nothing, the public recipe."""
    facts = load_recipe(baseline, "sysu")
    # On one thread PyTorch convolves batches below 16 rows in another, slower way: 4 identities
    # are 16 rows of each modality.
    identities = 4 if options.device == "cpu" else facts["batch"]["identities"]
    height, width = options.size or facts["image_size"]
    return Case(
        baseline=baseline,
        mode=mode,
        p=options.p or identities,
        k=options.k or facts["batch"]["visible"],
        size=(height, width),
        trunk=options.trunk,
        device=options.device,
        precision=options.precision,
        channels_last=not options.contiguous,
    )


def measure(case: Case, rounds: int, steps: int) -> dict[str, Any]:
    """Operations and times of a case's variants, and their ratios."""
    variants = {kind: make_variant(case, kind) for kind in VARIANTS}
    flops = {kind: counted(variant) for kind, variant in variants.items()}
    turns = {kind: turn(variant, steps) for kind, variant in variants.items()}
    seconds = take_turns(turns, rounds, steps)
    clock = "cpu" if case.device == "cpu" else "wall"
    images = len(variants["bare"].batch.images)
    ratios = {
        f"{above}_over_{below}": {
            which: seconds[above][f"{clock}_{which}"] / seconds[below][f"{clock}_{which}"]
            for which in ("median", "min")
        }
        for above, below in _RATIOS
    }
    floor = flops["floor"] / flops["bare"]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "baseline": case.baseline,
        "mode": case.mode,
        "case": plain(case),
        "network": plain(case.network),
        "optimizer": case.recipe.facts(case.baseline)["optimizer"]["name"],
        "images": images,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "steps": steps,
        "clock": clock,
        "seconds": seconds,
        "images_per_s": {kind: images / seconds[kind]["wall_median"] for kind in VARIANTS},
        "flops": flops,
        "flop_floor": floor,
        "mixer_over_floor_flops": flops["mixer"] / flops["floor"],
        **ratios,
        "overhead_ratio": {k: v / floor for k, v in ratios["mixer_over_bare"].items()},
    }


def counted(variant: Variant) -> int:
    """Floating-point operations of the products and convolutions of one step."""
    with FlopCounterMode(display=False) as counter:
        variant.step()
    return counter.get_total_flops()


def turn(variant: Variant, steps: int) -> Callable[[], None]:
    """So many steps, at whose end the device is waited for."""

    def run() -> None:
        for _ in range(steps):
            variant.step()
        if variant.case.device == "cuda":
            torch.cuda.synchronize()

    return run


def take_turns(
    turns: dict[str, Callable[[], None]], rounds: int, steps: int
) -> dict[str, dict[str, float]]:
    """Seconds per step, the variants taking turns, in another order each round."""
    taken: dict[str, dict[str, list[float]]] = {k: {"wall": [], "cpu": []} for k in turns}
    names = list(turns)
    for run in turns.values():
        run()
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            started, used = time.perf_counter(), time.process_time()
            turns[name]()
            taken[name]["cpu"].append((time.process_time() - used) / steps)
            taken[name]["wall"].append((time.perf_counter() - started) / steps)
    return {
        name: {
            f"{clock}_{which}": of(values)
            for clock, values in clocks.items()
            for which, of in (("median", statistics.median), ("min", min))
        }
        for name, clocks in taken.items()
    }


def memory(case: Case, threads: int) -> dict[str, Any]:
    """Peak memory in bytes of each variant in training, without the others."""
    if case.device == "cuda":
        return {
            "of": "torch.cuda.max_memory_allocated",
            **{kind: device_memory(case, kind) for kind in VARIANTS},
        }
    height, width = case.size
    words = ["--baseline", case.baseline, "--mode", case.mode, "--precision", case.precision]
    words += ["--p", str(case.p), "--k", str(case.k), "--size", str(height), str(width)]
    words += ["--trunk", case.trunk, "--threads", str(threads)]
    words += [] if case.channels_last else ["--contiguous"]
    command = [sys.executable, "-m", "mixer_plugin.benchmarks.speed.step_overhead", *words]
    peaks = {
        kind: int(
            subprocess.run(
                [*command, "--alone", kind], check=True, stdout=subprocess.PIPE, text=True
            ).stdout
        )
        for kind in VARIANTS
    }
    return {"of": "peak resident set of a process of its own, beyond what it held before", **peaks}


def device_memory(case: Case, kind: str) -> int:
    """Peak bytes of a variant's tensors on the GPU over two steps."""
    gc.collect()
    before = torch.cuda.memory_allocated()
    variant = make_variant(case, kind)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        variant.step()
    return torch.cuda.max_memory_allocated() - before


def process_memory(case: Case, kind: str) -> int:
    """Peak bytes of this process over two steps of a variant, beyond what it held before.

    Raises:
        MixERRuntimeError: where the system is not Linux.
    """
    before = resident("VmRSS")
    variant = make_variant(case, kind)
    for _ in range(2):
        variant.step()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Bytes of this process's memory, by Linux's account: ``VmRSS`` now, ``VmHWM`` at most so far.

    Not ``getrusage``, whose peak survives ``exec``: it would be the parent's.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise MixERRuntimeError("Memory is read from /proc, as Linux has it. Leave out --memory.")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def device_name(device: str) -> str:
    """Name of the GPU, or of the processor where the system tells."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "cpu")


def summary(found: dict[str, Any]) -> str:
    """One line."""
    ratio, over = found["overhead_ratio"], found["mixer_over_floor"]
    return (
        f"{found['baseline']:10s} {found['mode']:4s} "
        f"overhead {ratio['median']:.3f} (min {ratio['min']:.3f}): "
        f"time x {found['mixer_over_bare']['median']:.3f}, floor x {found['flop_floor']:.3f} by "
        f"operations, x {found['floor_over_bare']['median']:.3f} by time; mixer over floor "
        f"{over['median']:.3f} (min {over['min']:.3f})"
    )


if __name__ == "__main__":
    sys.exit(main())
