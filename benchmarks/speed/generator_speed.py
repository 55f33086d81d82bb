"""Images per second of the synthetic generator: rendering alone, and writing a data set.

Written are JPEG files in SYSU-MM01's layout and bitmaps in RegDB's.

Run on one core, from the root of a checkout::

    OMP_NUM_THREADS=1 python -m mixer_plugin.benchmarks.speed.generator_speed
    OMP_NUM_THREADS=1 python -m mixer_plugin.benchmarks.speed.generator_speed --sizes 256x128 \
        --images 500

Prints a Markdown table; seconds are processor time of this process, so that other work on the
machine matters less.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import count
from pathlib import Path

from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.data.synthetic import layout_config, plan, render, write_layout
from mixer_plugin.io.console import run_command


def measure(height: int, width: int, images: int, rounds: int) -> dict[str, float]:
    """Images per second of processor time, of at least so many images, in the best of the rounds.

    Rendered, and written (rendered, encoded, stored) as JPEG files (``sysu``) and as bitmaps
    (``regdb``).
    """
    ids = -(-images // 32)
    sizes = {"train_ids": ids, "val_ids": 1, "test_ids": 1, "height": height, "width": width}
    configs = {layout: layout_config(layout, **sizes) for layout in ("sysu", "regdb")}
    rows = plan(configs["sysu"])
    render(configs["sysu"], rows[:64])  # the first call loads code
    with tempfile.TemporaryDirectory() as folder:
        places = (Path(folder) / str(number) for number in count())

        def written(layout: str) -> int:
            return write_layout(next(places), configs[layout], layout).images

        contestants = {
            "rendered": lambda: len(render(configs["sysu"], rows)),
            "sysu": lambda: written("sysu"),
            "regdb": lambda: written("regdb"),
        }
        turns = harness.take_turns(contestants, rounds, warm_up=0)
    least = harness.summary(turns.seconds["cpu"])["minimum"]
    return {name: turns.results[name] / seconds for name, seconds in least.items()}


def main(argv: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = harness.speed_parser(__doc__, 3, "--repeats", device=False)
    parser.add_argument("--sizes", nargs="+", default=["64x32", "128x64", "288x144"])
    parser.add_argument("--images", type=int, default=1600)
    options = harness.parse(parser, argv)
    report = harness.environment() | {"images_per_s": {}}
    print("| size | rendered / s | written / s, JPEG | written / s, bitmap |\n|---|---|---|---|")
    for size in options.sizes:
        height, width = (int(part) for part in size.split("x"))
        rates = measure(height, width, options.images, options.rounds)
        print(f"| {size} | {' | '.join(f'{rate:,.0f}' for rate in rates.values())} |")
        report["images_per_s"][size] = rates
    harness.write_json(options.out, report)


if __name__ == "__main__":
    sys.exit(run_command("generator_speed", main))
