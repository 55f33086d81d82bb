"""Images per second of the synthetic generator: rendering alone, and writing a data set.

Run on one core, from the root of a checkout::

    OMP_NUM_THREADS=1 python -m mixer_plugin.benchmarks.generator_speed
    OMP_NUM_THREADS=1 python -m mixer_plugin.benchmarks.generator_speed --sizes 256x128 --images 500

Prints a Markdown table; seconds are processor time of this process, so that other work on the
machine matters less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from mixer_plugin.data.synthetic import SyntheticConfig, plan, render, write_sysu


def measure(height: int, width: int, images: int, repeats: int) -> tuple[float, float]:
    """Measures one size.

    Args:
        height: Pixels.
        width: Pixels.
        images: At least so many images are rendered and written.
        repeats: The best of so many runs counts.

    Returns:
        Images per second of processor time: rendered, and written (rendered, encoded, stored).
    """
    ids = -(-images // 32)
    config = SyntheticConfig(train_ids=ids, val_ids=1, test_ids=1, height=height, width=width)
    rows = plan(config)
    render(config, rows[:64])  # the first call loads code
    rendered = written = 0.0
    for _ in range(repeats):
        start = time.process_time()
        render(config, rows)
        rendered = max(rendered, len(rows) / (time.process_time() - start))
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            write_sysu(Path(folder) / "set", config)
            written = max(written, len(rows) / (time.process_time() - start))
    return rendered, written


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Images per second of the synthetic generator.")
    parser.add_argument("--sizes", nargs="+", default=["64x32", "128x64", "288x144"])
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print("| size | rendered / s | written / s |\n|---|---|---|")
    for size in options.sizes:
        height, width = (int(part) for part in size.split("x"))
        rendered, written = measure(height, width, options.images, options.repeats)
        print(f"| {size} | {rendered:,.0f} | {written:,.0f} |")


if __name__ == "__main__":
    main()
