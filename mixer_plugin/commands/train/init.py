"""``mixer-plugin init``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.packaged import packaged_configs
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.io.atomic_write import write_text


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "--dataset sysu --network saai --root /data/SYSU-MM01",
        "--dataset llcm --network deen --weights resnet50.pth --out deen.yaml",
        text="The file is the packaged paper/DATASET-NETWORK with your folder in it. "
        "`mixer-plugin table3 --config FILE --dry-run` says what it will take.",
    )
    add = command.add_argument
    add("--dataset", required=True, help="sysu, regdb or llcm")
    add("--network", required=True, help="saai, saai-base, ddag, mpanet, deen, sgeil or idkl")
    add("--root", help="folder of the data set")
    add("--weights", help="local file of ImageNet weights for the trunk (default: torchvision's)")
    add("--out", help="file to write (default: DATASET-NETWORK.yaml)")


def run(options: argparse.Namespace) -> int:
    """Writes a configuration of the paper's experiment on a data set, to be edited."""
    known = {name.partition("/")[2]: text for name, text in packaged_configs("paper/").items()}
    datasets = sorted({name.partition("-")[0] for name in known})
    check_name("data set", options.dataset, datasets)
    networks = [name.partition("-")[2] for name in known if name.startswith(options.dataset)]
    check_name(f"network with a recipe for {options.dataset}", options.network, networks)
    name = f"{options.dataset}-{options.network}"
    lines = known[name].splitlines()
    out = Path(options.out or f"{name}.yaml")
    if out.exists():
        raise MixERValueError(f"{out} exists; give another --out, or remove it.")
    for i, line in enumerate(lines):
        if line.startswith("  root: ") and options.root:
            lines[i] = f"  root: {json.dumps(options.root)}"
        if line.startswith("training: ") and options.weights:
            lines[i] = line.replace("weights: imagenet", f"weights: {json.dumps(options.weights)}")
    write_text(out, "\n".join(lines) + "\n")
    print(f"{out}: next, mixer-plugin table3 --config {out} --dry-run")
    return 0
