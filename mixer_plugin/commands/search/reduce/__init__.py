"""``mixer-plugin reduce``."""

from __future__ import annotations

import argparse

from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "gallery.npz --dim 256 --save pca.npz --out gallery-256.npz --precision int8",
        "query.npz --load pca.npz --out query-256.npz",
        "gallery.npz --report --dims 512,256,128",
        text="Queries and gallery must be reduced by the same reduction: fit and --save it once, "
        "--load it for every other file.",
    )
    command.add_argument("features", help="FeatureSet file (.npz)")
    command.add_argument("--fit", metavar="TRAIN", help="features to fit on (default: FEATURES)")
    command.add_argument("--center", action="store_true", help="subtract the mean before the PCA")
    reduce = command.add_argument_group("reduce")
    reduce.add_argument("--dim", type=int, help="dimensions of each feature afterwards")
    reduce.add_argument("--load", metavar="FILE", help="reduction that --save wrote, for --dim")
    reduce.add_argument("--save", metavar="FILE", help="file to write the reduction to (.npz)")
    reduce.add_argument("--out", help="FeatureSet file (.npz) to write")
    reduce.add_argument(
        "--precision",
        default="float32",
        help="of the features in --out: float32, float16 or int8",
    )
    add_output_arguments(command, json=True)
    report = command.add_argument_group("report")
    report.add_argument(
        "--report", nargs="?", const="-", metavar="FILE",
        help="print what dimensions and precisions cost; also to FILE (.json or .md)",
    )  # fmt: skip
    report.add_argument("--dims", help="comma-separated; default: 2048,1024,512,256,128")
    report.add_argument("--protocol", help="as of evaluate (default: full)")
    report.add_argument("--settings", help="comma-separated; default: all that the protocol has")
    report.add_argument("--rule", help="default: mixer, or erased without related features")
    report.add_argument(
        "--query", choices=("infrared", "visible", "both"), help="default: the protocol's"
    )


def run(options: argparse.Namespace) -> int:
    """Reduces features, or reports what that costs."""
    from mixer_plugin.commands.search.reduce.work import run_reduce

    return run_reduce(options)
