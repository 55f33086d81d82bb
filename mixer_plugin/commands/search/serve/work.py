"""The work of ``mixer-plugin serve``."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack, closing

from mixer_plugin.commands.search.serve.embedding import image_embedder
from mixer_plugin.commands.shared.model import refuse_options
from mixer_plugin.commands.shared.reading import load_model
from mixer_plugin.distributed.device import device_trouble
from mixer_plugin.errors import MissingExtraError, MixERValueError
from mixer_plugin.search.engines import EngineGallery
from mixer_plugin.search.engines.address import connect, is_address
from mixer_plugin.search.service.settings import KEY_VARIABLE, ServiceSettings, check_address
from mixer_plugin.search.store import GalleryStore

_OF_MODELS = ("weights", "bare", "embed", "wrap", "adapter", "stage", "neck", "classes", "mixer")
_ENGINE_KEY = "MIXER_ENGINE_KEY"
_OF_READING = ("size", "mean", "std")


def run_serve(options: argparse.Namespace) -> int:
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
