"""``mixer-plugin extract``."""

from __future__ import annotations

import argparse


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.epilog = (
        "Several processes share the images: torchrun --nproc-per-node N -m mixer_plugin.cli "
        "extract … writes the same file."
    )
    command.add_argument("checkpoint", help="cells/JOB/CELL.pt of a result folder of table3")
    command.add_argument("root", help="folder of a data set")
    command.add_argument("--out", required=True, help="FeatureSet file (.npz) to write")
    command.add_argument("--split", default="test", help="train or test (default); SYSU also val")
    command.add_argument("--layout", help="default: recognised by what is there")
    command.add_argument(
        "--trial", type=int, help="RegDB's split, 1 to 10 (default: the network's)"
    )
    command.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    command.add_argument("--batch", type=int, default=128, help="images at once (default 128)")
    command.add_argument("--workers", type=int, default=0, help="processes that read images")


def run(options: argparse.Namespace) -> int:
    """Extracts the features of a data set and writes them."""
    from mixer_plugin.benchmarks.experiment.extract import extract_file

    names = ("split", "layout", "trial", "device", "batch", "workers")
    given = {name: getattr(options, name) for name in names}
    features = extract_file(options.checkpoint, options.root, options.out, **given)
    if features is not None:
        print(f"{options.out}: {features}")
    return 0
