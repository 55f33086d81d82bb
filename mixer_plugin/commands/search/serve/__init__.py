"""``mixer-plugin serve``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixer_plugin.commands.shared.arguments import add_model_arguments, add_reading_arguments
from mixer_plugin.commands.shared.help import describe


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "gate",
        "gate --port 8080 --pictures crops --model torchvision:resnet18 --weights resnet18.pth "
        "--bare --embed avgpool",
        "qdrant+http://localhost:6333/gate",
        text="The environment variable MIXER_API_KEY holds the API key, MIXER_ENGINE_KEY the key "
        "or token of the engine's server. SIGTERM lets running requests finish. Give the model as "
        "to extract, and images are taken too.",
    )
    add = command.add_argument
    add(
        "gallery",
        metavar="STORE|COLLECTION",
        help="the store's folder, or a collection of a vector engine: qdrant+URL/NAME, "
        "qdrant+FOLDER/NAME, milvus+URL/NAME or milvus+FILE.db/NAME",
    )
    add("--host", default="127.0.0.1", help="address to listen at; 127.0.0.1: this machine alone")
    add("--port", type=int, default=8000, help="port; 0: a free one")
    add("--pictures", type=Path, metavar="FOLDER", help="show images of files below this folder")
    add("--megabytes", type=int, default=16, help="largest body of a request")
    add_model_arguments(command)
    add_reading_arguments(command)


def run(options: argparse.Namespace) -> int:
    """Serves until SIGTERM or Ctrl-C."""
    from mixer_plugin.commands.search.serve.work import run_serve

    return run_serve(options)
