"""``mixer-plugin synth``."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

from mixer_plugin.commands import advice_if_interrupted
from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments, progress
from mixer_plugin.io.folder import make_folder

_ATTRIBUTE = re.compile(r"^ {8}(\w+): ([^;]*?)[.;]", re.MULTILINE)  # its first sentence


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    from mixer_plugin.data.synthetic.config import SyntheticConfig

    describe(
        command,
        "data/small --train-ids 12 --val-ids 4 --test-ids 8",
        "data/llcm --layout llcm --seed 1",
    )
    command.add_argument("root", help="folder to make; ROOT.partial until it is complete")
    command.add_argument("--layout", default="sysu", help="sysu, regdb, llcm or market")
    command.add_argument("--workers", type=int, default=2, help="processes at most")
    add_output_arguments(command, quiet=True)
    said = dict(_ATTRIBUTE.findall(SyntheticConfig.__doc__ or ""))
    for item in dataclasses.fields(SyntheticConfig):
        kind = int if item.type == "int" else float
        flag = "--" + item.name.replace("_", "-")
        whose = " for sysu, others have their own" * item.name.endswith("_per_camera")
        text = " ".join(said.get(item.name, "").split()).rstrip(".").replace("%", "%%")
        text = text[:1].lower() + text[1:]
        command.add_argument(flag, type=kind, help=f"{text} (default: {item.default}{whose})")


def run(options: argparse.Namespace) -> int:
    """Writes a synthetic data set."""
    from mixer_plugin.data.synthetic import SyntheticConfig, layout_config, write_layout

    values = {
        item.name: getattr(options, item.name)
        for item in dataclasses.fields(SyntheticConfig)
        if getattr(options, item.name) is not None
    }
    config = layout_config(options.layout, **values)
    make_folder(Path(options.root).parent)
    advice = f"What is finished is in {options.root}.partial; the same command continues there."
    with advice_if_interrupted(advice):
        written = write_layout(
            options.root,
            config,
            options.layout,
            workers=options.workers,
            progress=progress(options, "written"),
        )
    state = "holds the same set already, reused" if written.reused else "written"
    if written.continued:
        state += f", {written.continued} of them by an interrupted run"
    print(f"{written.root}: {written.images} images, {state}")
    return 0
