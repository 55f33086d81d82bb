"""``mixer-plugin arrays``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixer_plugin.commands.shared.arguments import size_of
from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments, progress
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.folder import make_folder


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(command, "/data/SYSU-MM01", "/data/LLCM --size 384x144 --out arrays/llcm --overwrite")
    command.add_argument("root", help="folder of the data set")
    command.add_argument("--out", help="folder for the four files (default: ROOT)")
    command.add_argument(
        "--size",
        default="288x144",
        metavar="HxW",
        help="of the images, as DDAG and SGEIL read; DEEN: 384x144",
    )
    command.add_argument("--split", help="default: trainval of SYSU-MM01, train of the others")
    command.add_argument("--layout", help="sysu, regdb or llcm (default: recognised)")
    command.add_argument("--trial", type=int, help="RegDB's split, 1 to 10 (default: 1)")
    command.add_argument("--workers", type=int, default=2, help="threads that read images")
    command.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_output_arguments(command, quiet=True)


def run(options: argparse.Namespace) -> int:
    """Writes the training arrays of a data set.

    Raises:
        MixERValueError: One of the files is there already, or the data set cannot be read.
    """
    from mixer_plugin.data.datasets.layouts import detect_layout, read_images
    from mixer_plugin.data.loading.script_arrays import (
        array_paths,
        training_split,
        write_script_arrays,
    )

    size = size_of(options.size)
    out = Path(options.out or options.root)
    there = [str(path) for pair in array_paths(out) for path in pair if path.exists()]
    if there and not options.overwrite:
        raise MixERValueError(
            f"{', '.join(there)} would be replaced. Add --overwrite, or give another --out."
        )
    layout = options.layout or detect_layout(options.root)
    split = options.split or training_split(layout)
    images = read_images(options.root, split, layout=layout, trial=options.trial)
    write_script_arrays(
        images,
        make_folder(out),
        size,
        workers=options.workers,
        progress=progress(options, "written"),
    )
    infrared = int(images.modality.sum())
    print(
        f"{out}: {len(images) - infrared} visible and {infrared} infrared images of "
        f"{images.labels()[1]} identities ({split}), {size[0]} x {size[1]} pixels"
    )
    return 0
