"""A client of an engine, as threads may share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from mixer_plugin.errors import MixERRuntimeError


@contextmanager
def explained(place: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Within the block, an engine's own error becomes one that names the place.

    Raises:
        MixERRuntimeError: The engine does not answer, or refuses.
    """
    try:
        yield
    except errors as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise MixERRuntimeError(
            f"The engine at {place} did not do what was asked ({said}). See whether it runs and "
            "which key it takes, and ask again."
        ) from error


@dataclass(frozen=True)
class Client:
    """Passes calls on to a client.

    Attributes:
        client: The engine's own.
        place: Where the engine is, for errors.
        errors: What the engine's client raises.
        turn: Entered for each call: a lock where the client serves one thread at a time.
    """

    client: Any
    place: str
    errors: tuple[type[Exception], ...]
    turn: AbstractContextManager[Any] = field(default_factory=nullcontext)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)

        def call(*given: Any, **named: Any) -> Any:
            with self.turn, explained(self.place, self.errors):
                return method(*given, **named)

        return call
