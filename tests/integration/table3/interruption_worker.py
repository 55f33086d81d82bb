"""Trains a tiny network in a process of its own: ``VARIANT CHECKPOINT RESULT``.

Prints the number of every step that is done; exits as a command would after a signal.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import nn

from mixer_plugin import wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Loop, Step
from mixer_plugin.benchmarks.training.fit import fit
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.benchmarks.training.signals import Interrupted
from mixer_plugin.benchmarks.training.steps import WithMixER
from mixer_plugin.data.loading.transforms import Augmentation
from tests.miniature import training_set

VARIANTS = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "ema": {"ema": 0.9},
    "accumulate": {"accumulate": 2},
}
STEPS = 8
RECIPE = Recipe(p=2, k=2, iterations=STEPS, warmup=2, augmentation=Augmentation(pad=1, erase=0.5))


class Plain(Loop):
    """Cross-entropy."""

    def forward(self, net, batch):
        return Step(None, nn.functional.cross_entropy(net(batch.images), batch.labels))


def plain_network() -> nn.Module:
    """Statistics, dropout and a linear map."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Flatten(), nn.Linear(336, 4)
    )


def train(variant, checkpoint, on_step=None, stepped=None, wrapped=False) -> dict:
    """Weights after training; ``stepped`` is called within each step."""
    torch.manual_seed(0)
    net, loop = plain_network(), Plain()
    if wrapped:
        net = create_baseline("saai-base", 4, trunk="small", image_size=(16, 8))
        wrap_with_mixer(net, seed=0)
        loop = WithMixER(create_loop("saai-base"))
    after = loop.stepped

    def told(net) -> None:
        after(net)
        if stepped is not None:
            stepped()

    loop.stepped = told
    fit(
        net,
        [p for p in net.parameters() if p.requires_grad],
        loop,
        training_set(16, 8),
        RECIPE,
        seed=0,
        options=TrainingOptions(checkpoint_every=3, **VARIANTS[variant]),
        checkpoint=checkpoint,
        on_step=on_step,
    )
    return net.state_dict()


def main() -> int:
    """Trains slowly enough to be interrupted."""
    variant, checkpoint, result = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])

    def say(step, loss) -> None:
        print(step, flush=True)
        time.sleep(0.1)

    try:
        torch.save(train(variant, checkpoint, say, wrapped=True), result)
    except Interrupted as stop:
        return stop.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
