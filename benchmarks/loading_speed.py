"""How long training waits for its batches, as a share of the step.

Two cores, the demo's small network at the demo's size, and ResNet-50 at 288 x 144 on a GPU::

    python -m mixer_plugin.benchmarks.loading_speed --out loading_speed.json
    python -m mixer_plugin.benchmarks.loading_speed --device cuda --trunk resnet50 \
        --height 288 --width 144 --p 10 --k 4 --recipe saai

Each way of loading trains the same network on the same batches, read from the mapped cache of
decoded images, the ways taking turns. ``waited`` is the time between asking for a batch and having
it, ``step`` the time from one batch to the next, both medians over the steps; on a GPU the device
is waited for at the end of each step, and ``waited`` ends when the batch is there. ``in line``
makes each batch when it is asked for.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Batch, Loop
from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.benchmarks.cells import write_json
from mixer_plugin.data.cache import open_cache
from mixer_plugin.data.loading import LoadedBatch, load_batches
from mixer_plugin.data.recipe_augmentation import augmentation_of
from mixer_plugin.data.samplers import IdentitySampler
from mixer_plugin.data.synthetic import SyntheticConfig, write_sysu
from mixer_plugin.data.sysu import read_sysu
from mixer_plugin.data.transforms import Augmentation


def trainer(
    model: nn.Module, loop: Loop, labels: Tensor, modality: Tensor, cams: Tensor, device: str
) -> Callable[[LoadedBatch], None]:
    """One training step on a batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(loaded: LoadedBatch) -> None:
        rows = loaded.rows
        known = [values[rows].to(device) for values in (labels, modality, cams)]
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = loop(model, Batch(loaded.images, *known)).loss
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def measure(
    batches: Iterator[LoadedBatch], step: Callable[[LoadedBatch], None], settle: Callable[[], None]
) -> tuple[list[float], list[float]]:
    """Seconds waited for each batch, and of each step with its wait; the first two are left out."""
    waited: list[float] = []
    whole: list[float] = []
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return waited[2:], whole[2:]
        settle()
        waited.append(time.perf_counter() - started)
        step(batch)
        settle()
        whole.append(time.perf_counter() - started)


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Time that training waits for its batches.")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--trunk", default="small")
    parser.add_argument("--height", type=int, default=48)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--p", type=int, default=8, help="identities per batch")
    parser.add_argument("--k", type=int, default=3, help="images per identity and modality")
    parser.add_argument("--ids", type=int, default=60, help="identities of the synthetic set")
    parser.add_argument("--steps", type=int, default=40, help="of each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--recipe", help="augment as this public recipe; default: as the demo")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", help="JSON file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    size = (options.height, options.width)
    augmentation: Any = Augmentation(flip=0.0, pad=2, grey="mix", erase=0.4, erase_area=(0.02, 0.3))
    if options.recipe:
        augmentation = augmentation_of(load_recipe(options.recipe))

    with tempfile.TemporaryDirectory() as folder:
        made = SyntheticConfig(
            train_ids=options.ids, val_ids=1, test_ids=1, height=size[0], width=size[1]
        )
        write_sysu(Path(folder) / "set", made)
        images = read_sysu(Path(folder) / "set", "train")
        started = time.perf_counter()
        pixels = open_cache(images, size, Path(folder) / "cache")
        written = time.perf_counter() - started
        started = time.perf_counter()
        pixels = open_cache(images, size, Path(folder) / "cache")
        opened = time.perf_counter() - started
        result = {
            "options": vars(options),
            "machine": platform.machine(),
            "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            "torch": torch.__version__,
            "cache": {"images": len(images), "written_s": written, "opened_s": opened},
            "ways": compare(images, pixels, augmentation, options),
        }
    print(json.dumps(result, indent=1))
    if options.out:
        write_json(Path(options.out), result)
    return 0


def compare(images: Any, pixels: Tensor, augmentation: Any, options: Any) -> dict[str, Any]:
    """Trains with every way of loading in turn and sums up."""
    labels, classes = images.labels()
    known = [torch.from_numpy(values) for values in (labels, images.modality, images.cams)]
    torch.manual_seed(0)
    size = (options.height, options.width)
    model = create_baseline("saai-base", classes, trunk=options.trunk, image_size=size).train()
    model.to(options.device).to(memory_format=torch.channels_last)
    loop = create_loop("saai-base").to(options.device)
    loop.start_epoch(model, 0)
    step = trainer(model, loop, known[0], known[1], known[2], options.device)
    settle = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    sampler = IdentitySampler(
        labels, images.modality, p=options.p, k=options.k, iterations=options.steps, seed=0
    )

    def load(steps: range, workers: int) -> Any:
        return load_batches(
            pixels,
            known[1],
            sampler,
            steps,
            augmentation=augmentation,
            seed=0,
            device=options.device,
            depth=2 * workers,
            workers=workers,
        )

    def in_line(steps: range) -> Iterator[LoadedBatch]:
        for number in steps:
            yield from load(range(number, number + 1), 1)

    ways: dict[str, Callable[[range], Any]] = {"in line": in_line}
    for workers in options.workers:
        ways[f"{workers} thread(s)"] = partial(load, workers=workers)
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for turn in range(options.turns):
        for name, batches_of in ways.items():
            first = turn * options.steps
            with closing(batches_of(range(first, first + options.steps))) as batches:
                found = measure(batches, step, settle)
            for total, more in zip(seconds[name], found, strict=True):
                total += more
    return {
        name: {
            "waited_ms": 1000 * statistics.median(waited),
            "step_ms": 1000 * statistics.median(whole),
            "waited_share": sum(waited) / sum(whole),
        }
        for name, (waited, whole) in seconds.items()
    }


if __name__ == "__main__":
    sys.exit(main())
