"""What a training step costs more with MixER, against the floor of one extra stage per image.

``python -m mixer_plugin.benchmarks.step_overhead --out benchmarks/results/step_overhead.json``

Three networks of the same weights take turns within one run: the bare baseline; the floor, which is
the baseline plus nothing but a clone of the stage per modality, run forward and backward on its
rows of the detached stage input; and the wrapped model with all its losses. Each step is forward,
backward and optimizer step. Reported: medians and minima of wall and processor time, their ratios,
and the floor by counted multiply-adds.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mixer_plugin import MixERConfig, wrap_with_mixer
from mixer_plugin.baselines import create_baseline
from mixer_plugin.benchmarks.cells import write_json


def make_batch(size: tuple[int, int], p: int, k: int) -> dict[str, Tensor]:
    """Random images of p identities, k per modality, in the ignite families' row order."""
    generator = torch.Generator().manual_seed(0)
    return {
        "inputs": torch.randn(2 * p * k, 3, *size, generator=generator),
        "labels": torch.arange(p).repeat_interleave(2 * k),
        "cam_ids": torch.tensor([3, 1]).repeat(p * k),
    }


def stepper(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """One training step of a network."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3.5e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss())
        optimizer.step()

    return step


class Floor(nn.Module):
    """The baseline and one clone of its stage per modality, without any MixER loss."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        stage: Any = base.get_submodule("backbone.layer4")
        self.clones = nn.ModuleList(copy.deepcopy(stage) for _ in range(2))
        self.seen: list[Tensor] = []
        stage.register_forward_pre_hook(lambda _, args: self.seen.append(args[0].detach()))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The baseline's loss plus the mean of the clones' maps."""
        self.seen.clear()
        loss = self.base(**batch)[0]
        infrared = batch["cam_ids"] == 3
        for clone, rows in zip(self.clones, (~infrared, infrared), strict=True):
            loss = loss + clone(self.seen[0][rows]).mean()
        return loss


def measure(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds per step, the networks taking turns."""
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            started, used = time.perf_counter(), time.process_time()
            step()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - used)
    return {
        name: {
            "wall_median": statistics.median(wall[name]),
            "wall_min": min(wall[name]),
            "cpu_median": statistics.median(cpu[name]),
            "cpu_min": min(cpu[name]),
        }
        for name in steps
    }


def counted(run: Callable[[], Any]) -> int:
    """Floating-point operations of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def main(arguments: list[str] | None = None) -> int:
    """Runs the measurement and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline", default="saai-base")
    parser.add_argument("--trunk", default="resnet50")
    parser.add_argument("--height", type=int, default=288)
    parser.add_argument("--width", type=int, default=144)
    parser.add_argument("--p", type=int, default=2, help="identities per batch")
    parser.add_argument("--k", type=int, default=2, help="images per identity and modality")
    parser.add_argument("--classes", type=int, default=395)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--mode", default="e2e", choices=("e2e", "f"))
    parser.add_argument("--out", help="JSON file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    size = (options.height, options.width)
    torch.manual_seed(0)
    base = create_baseline(
        options.baseline, options.classes, trunk=options.trunk, image_size=size
    ).train()
    batch = make_batch(size, options.p, options.k)
    floor = Floor(copy.deepcopy(base))
    wrapped = wrap_with_mixer(copy.deepcopy(base), options.mode, config=MixERConfig())

    def loss_of(model: nn.Module) -> Callable[[], Tensor]:
        return lambda: model(**batch)[0]

    flops = {
        "bare": counted(lambda: torch.autograd.backward(loss_of(base)())),
        "floor": counted(lambda: torch.autograd.backward(floor(batch))),
        "mixer": counted(lambda: torch.autograd.backward(loss_of(wrapped)())),
    }
    seconds = measure(
        {
            "bare": stepper(base, loss_of(base)),
            "floor": stepper(floor, lambda: floor(batch)),
            "mixer": stepper(wrapped, loss_of(wrapped)),
        },
        options.rounds,
    )
    ratios = {
        f"{kind}_{which}": seconds["mixer"][f"{kind}_{which}"] / seconds["floor"][f"{kind}_{which}"]
        for kind in ("wall", "cpu")
        for which in ("median", "min")
    }
    result = {
        "options": vars(options),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "seconds": seconds,
        "flops": flops,
        "mixer_over_floor": ratios,
        "mixer_over_floor_flops": flops["mixer"] / flops["floor"],
        "mixer_over_bare_cpu_median": seconds["mixer"]["cpu_median"]
        / seconds["bare"]["cpu_median"],
        "floor_over_bare_flops": flops["floor"] / flops["bare"],
    }
    print(json.dumps(result, indent=1))
    if options.out:
        write_json(Path(options.out), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
