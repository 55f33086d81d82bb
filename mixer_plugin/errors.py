"""Errors that say what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MixERError(Exception):
    """Base of every error raised on purpose by this package.

    Example:
        >>> from mixer_plugin import MixERConfig
        >>> try:
        ...     MixERConfig(related_stages=0)
        ... except MixERError as error:
        ...     print(isinstance(error, ValueError))
        True
    """


class MixERValueError(MixERError, ValueError):
    """A value that cannot be used; also a ``ValueError``."""


class MixERTypeError(MixERError, TypeError):
    """An object of the wrong kind; also a ``TypeError``."""


class MixERRuntimeError(MixERError, RuntimeError):
    """A call at the wrong time, or a state that should not occur; also a ``RuntimeError``."""


class MissingExtraError(MixERError, ImportError):
    """An optional dependency is absent; the message names the ``pip install`` line."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self._arguments = package, extra, purpose
        super().__init__(
            f"{purpose} needs {package}, which is not installed. "
            f"Install it with: pip install 'mixer-plugin[{extra}]'"
        )

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), self._arguments


class MixERWarning(UserWarning):
    """Something that trains, but probably not what was meant; given once per model.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("error", MixERWarning)  # every warning is then an error
    """


def check_keys(where: str, given: Iterable[object], known: Iterable[str]) -> None:
    """Raises :class:`MixERValueError` for a key that ``where`` does not have; names the closest."""
    options = list(known)
    for key in given:
        if key not in options:
            raise MixERValueError(f"Unknown key {key!r} in {where}.{closest(key, options)}")


def check_name(kind: str, name: object, options: Iterable[str]) -> None:
    """Raises :class:`MixERValueError` for a name that is not an option; names the closest."""
    known = list(options)
    if name not in known:
        raise MixERValueError(f"Unknown {kind} {name!r}.{closest(name, known)}")


def check_least(name: str, value: int, least: int = 1) -> None:
    """Raises :class:`MixERValueError` for a number below ``least``."""
    if value < least:
        raise MixERValueError(f"{name} must be at least {least}, got {value}.")


def closest(name: object, options: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'? Options: …``, to append to a message on an unknown name."""
    known = sorted(options)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Options: {', '.join(known) or 'none'}."
