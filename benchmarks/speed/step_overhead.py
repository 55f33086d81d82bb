"""What MixER adds to a training step, against the floor: its clones, run once per image.

One CPU core, batches of four identities; a GPU, the public batches::

    python -m mixer_plugin.benchmarks.speed.step_overhead --mode e2e f --memory --threads 1 \
        --out benchmarks/results/step_overhead.json
    python -m mixer_plugin.benchmarks.speed.step_overhead --mode e2e f --memory --device cuda \
        --precision bf16 --out benchmarks/results/step_overhead_gpu.json

Other heads: ``--mixer related_stages=2 related_heads=shared``, any option of ``MixERConfig``.

Each network is the full public one (ResNet-50, options, image size and optimizer of its recipe for
SYSU-MM01, random weights and images) in its own loop. Variants of the same weights take turns, in
another order each round: ``bare``; ``floor``, the network and nothing but one clone per modality of
what MixER clones; ``mixer``, wrapped in each mode, with all its losses. A step is forward, backward
and optimizer. ``overhead_ratio`` is mixer's time over bare's, over what counted operations
(``torch.utils.flop_counter``) say of floor and bare: 1 is a step that costs the physical minimum,
at the speed at which the bare network computes. ``mixer_over_floor`` compares times with times.
Time is the processor's on a CPU, which other load disturbs least, and the wall's on a GPU, which is
waited for at the end of each turn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any

import torch

from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.speed.step_variants import VARIANTS, Case, make_variant
from mixer_plugin.benchmarks.training.recipe import plain
from mixer_plugin.config import MixERConfig
from mixer_plugin.io.console import run_command
from mixer_plugin.io.yaml_file import read_values
from mixer_plugin.run_card import run_card

_SHARED = ("bare", "floor")  # the same in every mode
_RATIOS = (("mixer", "bare"), ("floor", "bare"), ("mixer", "floor"))
_STATISTICS = {"median": "median", "min": "minimum"}  # the file's names for the harness's


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = harness.speed_parser(__doc__, 12)
    made.add_argument("--baseline", nargs="+", default=["saai", "ddag", "mpanet"])
    made.add_argument("--mode", nargs="+", default=["e2e"], choices=("e2e", "f"))
    made.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    made.add_argument("--contiguous", action="store_true", help="maps not channels-last")
    made.add_argument("--p", type=int, help="identities per batch; default: 4, on a GPU as public")
    made.add_argument("--k", type=int, help="images per identity and modality; default: as public")
    made.add_argument("--size", type=int, nargs=2, help="height and width; default: as public")
    made.add_argument("--trunk", default="resnet50")
    made.add_argument("--steps", type=int, help="of a turn; default: 1, on a GPU 10")
    made.add_argument("--mixer", nargs="+", default=[], metavar="NAME=VALUE", help="of MixERConfig")
    made.add_argument("--memory", action="store_true", help="also measure peak memory")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    options = harness.parse(parser(), arguments)
    cpu = options.device == "cpu"
    machine = harness.environment(options.device)
    card = run_card({k: v for k, v in vars(options).items() if k != "out"})
    card["device"] = machine["cpu" if cpu else "device"]
    networks: list[dict[str, Any]] = []
    for baseline in options.baseline:
        cases = [case_of(options, baseline, mode) for mode in options.mode]
        found = measure(cases, options.rounds, options.steps or (1 if cpu else 10))
        kept = memory(cases) if options.memory else [None] * len(cases)
        for network, peaks in zip(found, kept, strict=True):
            networks.append({**network, "memory": peaks})
            print(summary(network), flush=True)
        harness.write_json(options.out, {**card, "networks": networks})
    return 0


def case_of(
    options: argparse.Namespace, baseline: str, mode: str, mixer: MixERConfig | None = None
) -> Case:
    """The case of a network: options of the command line, else the public recipe."""
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
        mixer=mixer or MixERConfig.from_dict(read_values(options.mixer)),
    )


def measure(cases: Sequence[Case], rounds: int, steps: int) -> list[dict[str, Any]]:
    """Operations and times of the variants of each case, and their ratios.

    The cases differ in their mode alone: they share ``bare`` and ``floor``.
    """
    first = cases[0]
    variants = {kind: make_variant(first, kind) for kind in _SHARED}
    variants |= {case.mode: make_variant(case, "mixer") for case in cases}
    flops = {kind: harness.operations(variant.step) for kind, variant in variants.items()}
    turns = harness.take_turns(
        {kind: partial(repeat, variant.step, steps) for kind, variant in variants.items()},
        rounds,
        device=first.device,
        per=steps,
    )
    images = len(variants["bare"].batch.images)
    return [
        {
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
            **_figures(case, flops, turns.seconds, images),
        }
        for case in cases
    ]


def _figures(
    case: Case, flops: Mapping[str, int], taken: harness.Seconds, images: int
) -> dict[str, Any]:
    """A case's own figures, of those of all variants: ``bare``, ``floor`` and each mode."""
    names = {"bare": "bare", "floor": "floor", "mixer": case.mode}
    counted = {kind: flops[name] for kind, name in names.items()}
    runs = {c: {kind: own[name] for kind, name in names.items()} for c, own in taken.items()}
    by_clock = {clock: harness.summary(own) for clock, own in runs.items()}
    seconds = {
        kind: {
            f"{clock}_{which}": found[statistic][kind]
            for clock, found in by_clock.items()
            for which, statistic in _STATISTICS.items()
        }
        for kind in VARIANTS
    }
    clock = harness.clock_of(case.device)
    ratios = {}
    for above, below in _RATIOS:
        over = harness.ratios(runs[clock], below)
        ratios[f"{above}_over_{below}"] = {
            which: over[statistic][above] for which, statistic in _STATISTICS.items()
        }
    floor = counted["floor"] / counted["bare"]
    return {
        "clock": clock,
        "seconds": seconds,
        "images_per_s": {kind: images / seconds[kind]["wall_median"] for kind in VARIANTS},
        "flops": counted,
        "flop_floor": floor,
        "mixer_over_floor_flops": counted["mixer"] / counted["floor"],
        **ratios,
        "overhead_ratio": {k: v / floor for k, v in ratios["mixer_over_bare"].items()},
    }


def repeat(step: Callable[[], object], steps: int) -> None:
    """So many steps."""
    for _ in range(steps):
        step()


def memory(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Peak memory in bytes of each case's variants in training, without the others.

    The cases differ in their mode alone.
    """
    if cases[0].device == "cuda":
        of, ask = "torch.cuda.max_memory_allocated", peak
    else:
        of = "peak resident set of a process of its own, beyond what it held before"
        ask = partial(harness.in_own_process, peak)
    shared = {kind: ask(cases[0], kind) for kind in _SHARED}
    return [{"of": of, **shared, "mixer": ask(case, "mixer")} for case in cases]


def peak(case: Case, kind: str) -> int:
    """Peak bytes of making a variant and of two steps, beyond what was held before."""
    return harness.peak_memory(case.device, lambda: repeat(make_variant(case, kind).step, 2))


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
    sys.exit(run_command("step_overhead", main))
