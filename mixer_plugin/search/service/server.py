"""Runs a service until it is told to stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from mixer_plugin.search.service.app import make_app
from mixer_plugin.search.service.bodies import Embed
from mixer_plugin.search.service.gallery import Gallery
from mixer_plugin.search.service.settings import ServiceSettings, check_address

_LAST = 300  # seconds that running requests have after the signal to stop


def serve(
    gallery: Gallery,
    host: str,
    port: int,
    settings: ServiceSettings,
    embed: Embed | None = None,
    *,
    told: Callable[[str], None] = print,
) -> None:
    """Serves a gallery; on SIGTERM takes no more requests, finishes those that run, and returns.

    Args:
        gallery: Open.
        host: Name or address to listen at.
        port: 0: a free one.
        settings: What is allowed.
        embed: Makes features of an image; None: no images are taken.
        told: Called with the address once it listens.

    Raises:
        MixERValueError: Others could reach the address, and there is no key.
        OSError: The address is taken, or not of this machine.
        KeyboardInterrupt: Ctrl-C, after the running requests.
    """
    check_address(host, settings.key)
    config = uvicorn.Config(
        make_app(gallery, settings, embed),
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_LAST,
    )
    server = uvicorn.Server(config)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host.strip("[]"), port), family=family) as listening:
        name = f"[{host.strip('[]')}]" if ":" in host else host
        told(f"http://{name}:{listening.getsockname()[1]}")

        # Uvicorn raises the signal again when it has ended, which would end this process.
        def ended(number: int, frame: FrameType | None) -> None:
            server.should_exit = True

        before = signal.signal(signal.SIGTERM, ended)
        try:
            server.run(sockets=[listening])
        finally:
            signal.signal(signal.SIGTERM, before)
