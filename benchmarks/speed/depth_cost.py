r"""What related heads cost by depth and kind: parameters, operations, time and memory of a step.

    python -m mixer_plugin.benchmarks.speed.depth_cost --threads 1 --memory \
        --out benchmarks/results/depth/step_cost.json > benchmarks/results/depth/step_cost.md

A step of our SAAI (ResNet-50, 288×144, its public options and optimizer) with each kind of head,
in three ways: ``afterwards``, on the finished, frozen network; ``joint``, mode "f" in the network's
own run; ``e2e``. Each is compared with the network's own step, which takes its turn beside them. On
a CPU a batch has four identities (32 images) and time is the processor's.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.speed.step_overhead import case_of, parser, peak, repeat
from mixer_plugin.benchmarks.speed.step_variants import Case, make_variant
from mixer_plugin.config import MixERConfig
from mixer_plugin.evaluation.tables import markdown_table
from mixer_plugin.io.console import run_command
from mixer_plugin.run_card import run_card

_SHARED = {"related_heads": "shared", "related_labels": "identity"}
HEADS: dict[str, dict[str, Any]] = {
    "per modality, 1 stage": {},
    "per modality, 2 stages": {"related_stages": 2},
    "per modality, 3 stages": {"related_stages": 3},
    "shared, 1 stage": _SHARED,
    "shared, 2 stages": {**_SHARED, "related_stages": 2},
    "shared, 3 stages": {**_SHARED, "related_stages": 3},
    "shared, 3 stages, half width": {**_SHARED, "related_stages": 3, "related_width": 0.5},
}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "afterwards": ("f", {"frozen_base": True}),
    "joint": ("f", {}),
    "e2e": ("e2e", {}),
}


def cases_of(options: argparse.Namespace, heads: dict[str, Any]) -> dict[str, Case]:
    """The case of each way to train heads, and of the network without."""
    baseline = options.baseline[0]
    found = {"bare": case_of(options, baseline, "f")}
    for way, (mode, changes) in WAYS.items():
        config = MixERConfig.from_dict({**heads, **changes})
        found[way] = case_of(options, baseline, mode, config)
    return found


def measure(cases: dict[str, Case], rounds: int, steps: int, memory: bool) -> dict[str, Any]:
    """Parameters of the heads; operations, seconds and bytes of a step by way, and over bare's."""
    kinds = {way: "bare" if way == "bare" else "mixer" for way in cases}
    made = {way: make_variant(case, kinds[way]) for way, case in cases.items()}
    wrapped: Any = made["joint"].net
    found: dict[str, Any] = {
        "head_parameters": sum(p.numel() for p in wrapped.mixer.heads.parameters()),
        "operations": {way: harness.operations(one.step) for way, one in made.items()},
    }
    device = cases["bare"].device
    turns = harness.take_turns(
        {way: partial(repeat, one.step, steps) for way, one in made.items()},
        rounds,
        device=device,
        per=steps,
    )
    runs = turns.seconds[harness.clock_of(device)]
    found["seconds"] = harness.summary(runs)
    found["time_over_bare"] = harness.ratios(runs, "bare")
    if memory:
        where = partial(harness.in_own_process, peak) if device == "cpu" else peak
        found["memory"] = {way: where(case, kinds[way]) for way, case in cases.items()}
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row per kind of head: each way's operations, time and memory over the network's own."""
    head = ["heads", "parameters"]
    for way in WAYS:
        head += [f"{way}: operations", "time", "memory"]
    rows = []
    for name, one in found.items():
        row = [name, f"{one['head_parameters'] / 1e6:.1f} M"]
        for way in WAYS:
            row.append(f"{one['operations'][way] / one['operations']['bare']:.2f}")
            row.append(f"{one['time_over_bare']['minimum'][way]:.2f}")
            memory = one.get("memory")
            row.append(f"{memory[way] / memory['bare']:.2f}" if memory else "—")
        rows.append(row)
    return markdown_table(head, rows)


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    made = parser()
    made.set_defaults(baseline=["saai"], rounds=2)
    options = harness.parse(made, arguments)
    cpu = options.device == "cpu"
    machine = harness.environment(options.device)
    card = run_card({k: v for k, v in vars(options).items() if k != "out"})
    card["device"] = machine["cpu" if cpu else "device"]
    found: dict[str, dict[str, Any]] = {}
    for name, heads in HEADS.items():
        steps = options.steps or (1 if cpu else 10)
        found[name] = measure(cases_of(options, heads), options.rounds, steps, options.memory)
        harness.write_json(options.out, {**card, "heads": found})
        print(name, flush=True, file=sys.stderr)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(run_command("depth_cost", main))
