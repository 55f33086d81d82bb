"""What an epoch of training related heads costs on cached maps, and on a frozen trunk run anew.

One CPU core::

    python -m mixer_plugin.benchmarks.speed.probing_speed --threads 1 \
        --out benchmarks/results/probing_speed.json

Two ways of training the same heads of the same network (random weights, generated images, size and
rows in memory layout alike) take turns, in another order each round: ``around`` is a loop around
the frozen model, one forward in eval mode without gradients and the heads' step, from decoded
images in memory; ``cached`` is ``train_heads``, from maps on disk, all that it does at its start
included. Both use the same optimizer. An epoch is as many steps as see as many images as there are,
so that steps compare as epochs do. ``faster`` is the median over rounds of the first time over the
second, ``operations`` the same of counted operations (``torch.utils.flop_counter``), and ``epochs``
how many epochs around the model the writing of the maps costs. Time is the processor's on a CPU,
which other load disturbs least, and the wall's on a GPU, which is waited for after each turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.attach import mixer_loss, mixer_parameters, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.benchmarks.experiment.run_cell import write_json
from mixer_plugin.config import MixERConfig
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.layouts import read_images
from mixer_plugin.data.loading.decode import decode
from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.data.loading.transforms import Augmentation, normalise
from mixer_plugin.data.synthetic import layout_config, write_layout
from mixer_plugin.probing import CachedMaps, HeadRecipe, cache_maps, train_heads
from mixer_plugin.run_card import run_card


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description="Head training on cached maps.")
    made.add_argument(
        "--network",
        nargs="+",
        default=["saai-base/resnet50", "torchvision/resnet50", "saai-base/small"],
        help="BASELINE/TRUNK, or torchvision/NAME through the generic adapter",
    )
    made.add_argument("--size", type=int, nargs=2, help="height and width; default: as public")
    made.add_argument("--ids", type=int, default=8, help="identities, of 8 images each")
    made.add_argument("--p", type=int, default=8, help="identities per batch, of 4 images each")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--steps", type=int, help="of a turn; default: 1, of a small trunk 20")
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--out", type=Path, help="JSON file")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        config = layout_config(
            *("sysu",),
            train_ids=options.ids,
            val_ids=1,
            test_ids=1,
            visible_per_camera=1,
            infrared_per_camera=2,
        )
        root = write_layout(Path(folder) / "images", config, "sysu").root
        images = read_images(root, "train")
        for network in options.network:
            row = measure(options, network, images, Path(folder) / "maps")
            rows.append(row)
            print(
                f"{network}: an epoch {row['faster']:.2f} times as fast (operations "
                f"{row['operations']:.2f}; {row['around']:.3f} s, {row['cached']:.3f} s a step)",
                file=sys.stderr,
                flush=True,
            )
            if options.out is not None:
                given = {k: v for k, v in vars(options).items() if k != "out"}
                write_json(options.out, {"networks": rows, "card": run_card(given)})
    return 0


def measure(
    options: argparse.Namespace, network: str, images: ImageList, folder: Path
) -> dict[str, Any]:
    """Times both ways on one network, in turns."""
    family, _, trunk = network.partition("/")
    public = (64, 32) if trunk == "small" else (288, 144)
    if family != "torchvision" and trunk != "small":
        public = tuple(load_recipe(family)["image_size"])
    height, width = options.size or public
    size = (height, width)
    model = _wrapped(family, trunk, options.ids).to(options.device)
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    started = clock()
    maps = cache_maps(model, images, folder, size=size, batch=16)
    caching = clock() - started
    steps = options.steps or (20 if trunk == "small" else 1)
    recipe = HeadRecipe(p=options.p, k=2, iterations=steps, warmup=0)
    ways = {
        "around": _around(model, family, images, size, recipe),
        "cached": _on_maps(model, maps.placed(options.device), recipe),
    }
    counted = {name: _operations(way) for name, way in ways.items()}  # which warms up, too
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1, options.rounds + 1):
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            _wait(options.device)
            started = clock()
            ways[name](number)
            _wait(options.device)
            times[name].append((clock() - started) / steps)
    batch = 2 * recipe.p * recipe.k
    medians = {name: statistics.median(values) for name, values in times.items()}
    pairs = zip(times["around"], times["cached"], strict=True)
    return {
        "network": network,
        "size": list(size),
        "batch": batch,
        "map": list(maps.values["stage_input"].shape[1:]),
        "megabytes_per_image": maps.bytes / len(images) / 1e6,
        **medians,
        "faster": statistics.median(one / other for one, other in pairs),
        "operations": counted["around"] / counted["cached"],
        "epochs": caching / (medians["around"] * len(images) / batch),
        "times": times,
    }


def _wrapped(family: str, trunk: str, classes: int) -> nn.Module:
    torch.manual_seed(0)
    config = MixERConfig(frozen_base=True)
    if family != "torchvision":
        model = create_baseline(family, classes, trunk=trunk)
        return wrap_with_mixer(model, "f", config=config, seed=0)
    import torchvision

    model = torchvision.models.get_model(trunk, weights=None)
    adapter = GenericAdapter("layer4", "avgpool")
    return wrap_with_mixer(model, "f", num_classes=classes, adapter=adapter, config=config, seed=0)


def _operations(way: Callable[[int], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        way(0)
    return int(counter.get_total_flops())


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _around(
    model: nn.Module, family: str, images: ImageList, size: tuple[int, int], recipe: HeadRecipe
) -> Callable[[int], None]:
    """A loop around the frozen model: its forward in eval mode, then the heads' step."""
    device = next(model.parameters()).device
    pixels = decode(images, size)
    labels, modality, cams = (
        torch.from_numpy(v) for v in (images.labels()[0], images.modality, images.cams)
    )
    optimizer = torch.optim.AdamW(
        mixer_parameters(model), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )
    loop = None if family == "torchvision" else create_loop(family)
    sampler = IdentitySampler(
        labels,
        modality,
        p=recipe.p,
        k=recipe.k,
        order="blocks" if loop is None else loop.rows,
        iterations=1,
        seed=0,
    )

    def step(rows: Tensor) -> None:
        given = normalise(pixels[rows], Augmentation()).to(device)
        batch = Batch(given, *(v[rows].to(device) for v in (labels, modality, cams)))
        if loop is None:
            model(batch.images)
        else:
            loop.look(model, batch)
        loss = mixer_loss(model, batch.labels, batch.modality)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def turn(number: int) -> None:
        model.train()
        for at in range(recipe.iterations):
            step(sampler.batch(number * recipe.iterations + at))

    return turn


def _on_maps(model: nn.Module, maps: CachedMaps, recipe: HeadRecipe) -> Callable[[int], None]:
    def turn(number: int) -> None:
        train_heads(model, maps, recipe=recipe, seed=number)

    return turn


if __name__ == "__main__":
    sys.exit(main())
