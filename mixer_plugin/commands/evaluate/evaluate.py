"""``mixer-plugin evaluate``."""

from __future__ import annotations

import argparse

from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "mine.npz --fair",
        "mine.npz --protocol sysu/all/single --settings cross,mix --out results/mine",
        "mine.npz --against other.npz --json",
        text="Without --rules and --calibration, the table holds the controls that make a mixed "
        "gallery comparable. Several processes: torchrun --nproc-per-node N -m mixer_plugin.cli "
        "evaluate … gives the same numbers. Exit code: 0; 2: wrong input; 4: --audit found a "
        "difference.",
    )
    command.add_argument(
        "features",
        nargs="+",
        help="FeatureSet (.npz), SYSU-MM01 .mat features (a file or folder) or .npy with --labels",
    )
    command.add_argument("--labels", help="CSV with columns id, camera, modality[, path]")
    command.add_argument("--related", help=".npy of the related features")
    command.add_argument("--related-mat", help=".mat (file or folder) of the related features")
    command.add_argument(
        "--protocol",
        default="full",
        help="as `mixer-plugin list --protocols` shows; regdb: input i is of split i, and their "
        "mean comes last",
    )
    command.add_argument("--settings", help="comma-separated; default: all that the protocol has")
    command.add_argument(
        "--rules",
        help="comma-separated; default: erased and, with related features, mixer,mixer-shuffled; "
        "others: fused, {mixer,fused,erased}-calibrated, related, routed, dev-sum, dev-switch",
    )
    command.add_argument(
        "--calibration",
        help="comma-separated among none, znorm, center; default: all, with --rerank none",
    )
    command.add_argument(
        "--query",
        choices=("infrared", "visible", "both"),
        help="default: what the protocol says (infrared; market1501: visible)",
    )
    command.add_argument("--trials", type=int, help="number of gallery draws")
    command.add_argument("--permutation", help="path of rand_perm_cam.mat")
    command.add_argument("--cmc", help="dedup or standard; default: what the protocol says")
    command.add_argument(
        "--colocated-mixed",
        action="store_true",
        help="mix-cam and mix-cam-id treat SYSU-MM01's cameras 2 and 3 as one",
    )
    command.add_argument(
        "--same-camera",
        help="what cross and uni remove of the query's camera: any-id, same-id or keep; default: "
        "what the protocol says",
    )
    command.add_argument(
        "--no-positive", default="drop", help="queries without a positive: drop or error"
    )
    command.add_argument("--rerank", help="k-reciprocal, k-reciprocal@queries, aim or bridge")
    command.add_argument("--device", help="e.g. cuda; default: the CPU")
    command.add_argument(
        "--shard",
        default="auto",
        help="what the processes of torchrun divide: rows (queries), gallery or auto",
    )
    command.add_argument(
        "--fair", action="store_true", help="say for each setting whether a gain beats its controls"
    )
    command.add_argument(
        "--diagnostics",
        action="store_true",
        help="modality bias; results by modality and camera, in growing galleries, under wrong "
        "modality labels",
    )
    command.add_argument(
        "--against", metavar="OTHER", help="features of the same images to compare with, paired"
    )
    command.add_argument(
        "--compare-rule",
        metavar="RULE[,RULE]",
        help="rule of both, or of this one and OTHER; default: mixer if both have related "
        "features, else erased",
    )
    command.add_argument(
        "--worst", type=int, nargs="?", const=20, metavar="N",
        help="print the N queries (default 20) that are found worst; --out holds all, queries.csv",
    )  # fmt: skip
    command.add_argument(
        "--audit", type=int, nargs="?", const=64, metavar="N",
        help="rank N queries (default 64) again one by one from the definitions and compare",
    )  # fmt: skip
    command.add_argument(
        "--format",
        choices=("txt", "md", "csv", "tex", "json"),
        help="what is printed; json: a line per input (default: txt on a terminal, md elsewhere)",
    )
    command.add_argument(
        "--details",
        dest="format",
        action="store_const",
        const="md",
        help="print the protocol's contract, R5 to R20, mINP and intervals, too",
    )
    command.add_argument(
        "--out", help="folder for the table in all forms, and what else is printed"
    )
    add_output_arguments(command, json=True, quiet=True)


def run(options: argparse.Namespace) -> int:
    """Evaluates stored features and prints the tables."""
    from mixer_plugin.commands.evaluate.run import run_evaluate

    return run_evaluate(options)
