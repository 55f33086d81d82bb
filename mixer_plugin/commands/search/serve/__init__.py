"""``mixer-plugin serve``."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack, closing
from pathlib import Path

from mixer_plugin.commands.search.serve.embedding import image_embedder
from mixer_plugin.commands.shared.model import add_model_arguments, refuse_options
from mixer_plugin.commands.shared.reading import add_reading_arguments, load_model
from mixer_plugin.distributed.device import device_trouble
from mixer_plugin.errors import MissingExtraError, MixERValueError
from mixer_plugin.search.engines import EngineGallery
from mixer_plugin.search.engines.address import connect, is_address
from mixer_plugin.search.service.settings import KEY_VARIABLE, ServiceSettings, check_address
from mixer_plugin.search.store import GalleryStore

_OF_MODELS = ("weights", "bare", "embed", "wrap", "adapter", "stage", "neck", "classes", "mixer")
_ENGINE_KEY = "MIXER_ENGINE_KEY"
_GALLERY = (
    "the store's folder, or a collection of a vector engine: qdrant+URL/NAME, qdrant+FOLDER/NAME, "
    "milvus+URL/NAME or milvus+FILE.db/NAME"
)
_OF_READING = ("size", "mean", "std")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.epilog = (
        f"The environment variable {KEY_VARIABLE} holds the API key, {_ENGINE_KEY} the key or "
        "token of the engine's server. SIGTERM lets running requests finish. Give the model as to "
        "extract, and images are taken too."
    )
    add = command.add_argument
    add("gallery", metavar="STORE|COLLECTION", help=_GALLERY)
    add("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    add("--port", type=int, default=8000, help="port (default 8000; 0: a free one)")
    add("--pictures", type=Path, metavar="FOLDER", help="show images of files below this folder")
    add("--megabytes", type=int, default=16, help="largest body of a request (default 16)")
    add_model_arguments(command)
    add_reading_arguments(command)


def run(options: argparse.Namespace) -> int:
    """Serves until SIGTERM or Ctrl-C.

    Raises:
        MixERError: Options do not fit together, or gallery or model are not what they should be.
        OSError: The port is taken.
    """
    try:
        from mixer_plugin.search.service.server import serve
    except ImportError as error:
        package = "fastapi, uvicorn and prometheus-client"
        raise MissingExtraError(package, "serve", "mixer-plugin serve") from error
    if not 0 <= options.port <= 65535:
        raise MixERValueError(f"--port must be 0 to 65535, got {options.port}.")
    settings = ServiceSettings(
        key=os.environ.get(KEY_VARIABLE) or None,
        pictures=options.pictures,
        most_bytes=options.megabytes * 2**20,
    )
    check_address(options.host, settings.key)
    with ExitStack() as stack:
        gallery = _open(options.gallery, stack)
        embed = None
        if options.model is None:
            refuse_options(options, (*_OF_MODELS, *_OF_READING), "they are of --model")
        else:
            if trouble := device_trouble(options.device):
                raise MixERValueError(trouble)
            embed = stack.enter_context(image_embedder(*load_model(options), options.device))

        def told(address: str) -> None:
            print(f"{options.gallery}: {len(gallery)} images at {address}", flush=True)

        serve(gallery, options.host, options.port, settings, embed, told=told)
    return 0


def _open(word: str, stack: ExitStack) -> GalleryStore | EngineGallery:
    """The gallery that a word names; the stack closes it."""
    if not is_address(word):
        return stack.enter_context(GalleryStore(word))
    engine = stack.enter_context(closing(connect(word, os.environ.get(_ENGINE_KEY) or None)))
    return EngineGallery.open(engine)
