"""What a service is started with, and where it may listen."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from mixer_plugin.errors import MixERValueError, check_least

KEY_VARIABLE = "MIXER_API_KEY"
_SHORTEST_KEY = 16


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What a service allows.

    Attributes:
        key: The API key; None: requests need none, and come from this machine alone.
        pictures: Folder whose images may be shown; None: no image is shown.
        most_bytes: Largest body of a request.
        most_requests: Requests at once; more are refused.
        seconds: Time that a body may take to arrive, in seconds.

    Raises:
        MixERValueError: The key is shorter than 16 characters or not printable ASCII, the folder is
            not there, or ``most_bytes`` or ``most_requests`` is below 1.
    """

    key: str | None = None
    pictures: Path | None = None
    most_bytes: int = 16 * 2**20
    most_requests: int = 32
    seconds: float = 60.0

    def __post_init__(self) -> None:
        key = "x" * _SHORTEST_KEY if self.key is None else self.key
        if len(key) < _SHORTEST_KEY or not all("!" <= sign <= "~" for sign in key):
            raise MixERValueError(
                f"{KEY_VARIABLE} must have at least {_SHORTEST_KEY} printable ASCII characters "
                "and no space; make one with: "
                'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        if self.pictures is not None and not self.pictures.is_dir():
            raise MixERValueError(f"{self.pictures} is no folder; --pictures takes one of images.")
        check_least("most_bytes", self.most_bytes)
        check_least("most_requests", self.most_requests)


def check_address(host: str, key: str | None) -> None:
    """Raises ``MixERValueError`` for an address that others reach, unless there is a key."""
    if key is None and not is_loopback(host):
        raise MixERValueError(
            f"Other machines could reach {host}, and there is no API key; set the environment "
            f"variable {KEY_VARIABLE}, or leave --host out to serve this machine alone."
        )


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
