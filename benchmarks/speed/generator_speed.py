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

import argparse
import tempfile
import time
from pathlib import Path

from mixer_plugin.data.synthetic import layout_config, plan, render, write_layout


def measure(height: int, width: int, images: int, repeats: int) -> tuple[float, float, float]:
    """Measures one size.

    Args:
        height: Pixels.
        width: Pixels.
        images: At least so many images are rendered and written.
        repeats: The best of so many runs counts.

    Returns:
        Images per second of processor time: rendered, and written (rendered, encoded, stored) as
        JPEG files and as bitmaps.
    """
    ids = -(-images // 32)
    sizes = {"train_ids": ids, "val_ids": 1, "test_ids": 1, "height": height, "width": width}
    config = layout_config("sysu", **sizes)
    rows = plan(config)
    render(config, rows[:64])  # the first call loads code
    best = {"rendered": 0.0, "sysu": 0.0, "regdb": 0.0}
    for _ in range(repeats):
        start = time.process_time()
        render(config, rows)
        best["rendered"] = max(best["rendered"], len(rows) / (time.process_time() - start))
        for layout in ("sysu", "regdb"):
            own = layout_config(layout, **sizes)
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                written = write_layout(Path(folder) / "set", own, layout)
                seconds = time.process_time() - start
            best[layout] = max(best[layout], written.images / seconds)
    return best["rendered"], best["sysu"], best["regdb"]


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Images per second of the synthetic generator.")
    parser.add_argument("--sizes", nargs="+", default=["64x32", "128x64", "288x144"])
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print("| size | rendered / s | written / s, JPEG | written / s, bitmap |\n|---|---|---|---|")
    for size in options.sizes:
        height, width = (int(part) for part in size.split("x"))
        rates = measure(height, width, options.images, options.repeats)
        print(f"| {size} | {' | '.join(f'{rate:,.0f}' for rate in rates)} |")


if __name__ == "__main__":
    main()
