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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.attach import mixer_loss, mixer_parameters, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.config import MixERConfig
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.layouts import read_images
from mixer_plugin.data.loading.decode import decode
from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.data.loading.transforms import Augmentation, normalise
from mixer_plugin.data.synthetic import layout_config, write_layout
from mixer_plugin.errors import MissingExtraError
from mixer_plugin.io.console import run_command
from mixer_plugin.probing import HeadRecipe, cache_maps, train_heads
from mixer_plugin.run_card import run_card


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = harness.speed_parser(__doc__, 5)
    parser.add_argument(
        "--network",
        nargs="+",
        default=["saai-base/resnet50", "torchvision/resnet50", "saai-base/small"],
        help="BASELINE/TRUNK, or torchvision/NAME through the generic adapter",
    )
    parser.add_argument("--size", type=int, nargs=2, help="height and width; default: as public")
    parser.add_argument("--ids", type=int, default=8, help="identities, of 8 images each")
    parser.add_argument("--p", type=int, default=8, help="identities per batch, of 4 images each")
    parser.add_argument("--steps", type=int, help="of a turn; default: 1, of a small trunk 20")
    options = harness.parse(parser, arguments)
    given = {k: v for k, v in vars(options).items() if k != "out"}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"train_ids": options.ids, "val_ids": 1, "test_ids": 1}
        config = layout_config("sysu", **sizes, visible_per_camera=1, infrared_per_camera=2)
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
            harness.write_json(options.out, {"networks": rows, "card": run_card(given)})
    return 0


def measure(
    options: argparse.Namespace, network: str, images: ImageList, folder: Path
) -> dict[str, Any]:
    """Times both ways on one network, in turns."""
    family, _, trunk = network.partition("/")
    public = (64, 32) if trunk == "small" else (288, 144)
    if family != "torchvision" and trunk != "small":
        public = tuple(load_recipe(family)["image_size"])
    height, width = size = tuple(options.size or public)
    device, clock = options.device, harness.clock_of(options.device)
    model = _wrapped(family, trunk, options.ids).to(device)
    taken: harness.Seconds = {}
    with harness.timed(taken, "cache", device=device):
        maps = cache_maps(model, images, folder, size=(height, width), batch=16)
    steps = options.steps or (20 if trunk == "small" else 1)
    recipe = HeadRecipe(p=options.p, k=2, iterations=steps, warmup=0)
    placed = maps.placed(device)
    ways: dict[str, Callable[[int], object]] = {
        "around": _around(model, family, images, (height, width), recipe),
        "cached": lambda number: train_heads(model, placed, recipe=recipe, seed=number),
    }
    # Warms up, too.
    counted = {name: harness.operations(partial(way, 0)) for name, way in ways.items()}
    for number, name in harness.order(list(ways), options.rounds, warm_up=0):
        with harness.timed(taken, name, device=device, per=steps):
            ways[name](number)
    (caching,), times = taken[clock].pop("cache"), taken[clock]
    batch = 2 * recipe.p * recipe.k
    medians = harness.summary(times)["median"]
    epoch = medians["around"] * len(images) / batch
    return {
        "network": network,
        "size": list(size),
        "batch": batch,
        "map": list(maps.values["stage_input"].shape[1:]),
        "megabytes_per_image": maps.bytes / len(images) / 1e6,
        **medians,
        "faster": statistics.median(harness.paired(times["around"], times["cached"])),
        "operations": counted["around"] / counted["cached"],
        "epochs": caching / epoch,
        "times": times,
    }


def _wrapped(family: str, trunk: str, classes: int) -> nn.Module:
    torch.manual_seed(0)
    config = MixERConfig(frozen_base=True)
    if family != "torchvision":
        model = create_baseline(family, classes, trunk=trunk)
        return wrap_with_mixer(model, "f", config=config, seed=0)
    try:
        from torchvision.models import get_model
    except ImportError as error:
        raise MissingExtraError("torchvision", "bench", f"The network {trunk}") from error
    model = get_model(trunk, weights=None)
    adapter = GenericAdapter("layer4", "avgpool")
    return wrap_with_mixer(model, "f", num_classes=classes, adapter=adapter, config=config, seed=0)


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
    order = "blocks" if loop is None else loop.rows
    sampler = IdentitySampler(
        labels, modality, p=recipe.p, k=recipe.k, order=order, iterations=1, seed=0
    )

    def turn(number: int) -> None:
        model.train()
        for step in range(recipe.iterations):
            rows = sampler.batch(number * recipe.iterations + step)
            given = normalise(pixels[rows], Augmentation()).to(device)
            batch = Batch(given, *(v[rows].to(device) for v in (labels, modality, cams)))
            if loop is None:
                model(batch.images)
            else:
                loop.look(model, batch)
            optimizer.zero_grad()
            loss = mixer_loss(model, batch.labels, batch.modality)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return turn


if __name__ == "__main__":
    sys.exit(run_command("probing_speed", main))
