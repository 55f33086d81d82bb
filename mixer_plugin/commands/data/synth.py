"""``mixer-plugin synth``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mixer_plugin.commands import advice_if_interrupted, timed_progress
from mixer_plugin.io.folder import make_folder


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    from mixer_plugin.data.synthetic.config import SyntheticConfig

    command.add_argument("root", help="folder to make; ROOT.partial until it is complete")
    command.add_argument("--layout", default="sysu", help="sysu (default), regdb, llcm or market")
    command.add_argument("--workers", type=int, default=2, help="processes at most (default 2)")
    for item in dataclasses.fields(SyntheticConfig):
        kind = int if item.type == "int" else float
        flag = "--" + item.name.replace("_", "-")
        text = f"default {item.default}"
        if item.name.endswith("_per_camera"):
            text += " (sysu); other layouts have their own"
        command.add_argument(flag, type=kind, default=None, help=text)


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
            progress=timed_progress("written"),
        )
    state = "holds the same set already, reused" if written.reused else "written"
    if written.continued:
        state += f", {written.continued} of them by an interrupted run"
    print(f"{written.root}: {written.images} images, {state}")
    return 0
