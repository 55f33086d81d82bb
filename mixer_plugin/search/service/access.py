"""Who may ask, and how much."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Request

from mixer_plugin.search.service.refusals import Refused
from mixer_plugin.search.service.settings import ServiceSettings, is_loopback


def check_allowed(request: Request, settings: ServiceSettings) -> None:
    """Lets in who has the key; without a key, who asks from this machine.

    A page of another site that a browser on this machine shows could send requests too: its
    ``Origin`` or, where it has made its name lead here, its ``Host`` tells.

    Raises:
        Refused: 401 or 403.
    """
    if settings.key is not None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else ""
        given = request.headers.get("x-api-key", given)
        if not hmac.compare_digest(given.encode("latin-1"), settings.key.encode()):
            raise Refused(
                401,
                "The API key is missing or wrong; send it as the header "
                "'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
            )
        return
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if not is_loopback(_name(host)):
        raise Refused(
            403, f"This service has no API key and answers to this machine's names, not {host!r}."
        )
    if origin is not None and origin.partition("://")[2] != host:
        raise Refused(
            403, f"This service has no API key and takes nothing from pages of {origin!r}."
        )


def _name(host: str) -> str:
    """A host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def body_reader(settings: ServiceSettings) -> Callable[[Request], Awaitable[bytes]]:
    """What reads the body of a request, within the limits of size and time."""
    most = settings.most_bytes
    large = f"The body is larger than {most:,} bytes; send fewer images at once."

    async def whole(request: Request) -> bytes:
        content = bytearray()
        async for part in request.stream():
            if len(content) + len(part) > most:
                raise Refused(413, large)
            content += part
        return bytes(content)

    async def read(request: Request) -> bytes:
        told = request.headers.get("content-length", "")
        if told.isdecimal() and int(told) > most:
            raise Refused(413, large)
        try:
            return await asyncio.wait_for(whole(request), settings.seconds)
        except asyncio.TimeoutError:
            late = f"The body did not arrive within {settings.seconds:g} seconds."
            raise Refused(408, late) from None

    return read
