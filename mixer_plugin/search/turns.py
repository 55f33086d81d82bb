"""Who may use an index at the same time: many searches, or one change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mixer_plugin.errors import MixERRuntimeError


class Turns:
    """Refuses in place of waiting: a thread learns at once that it came between."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._searches, self._changing = 0, False

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        """A copy of an index is nobody's turn."""
        return Turns, ()

    @contextmanager
    def search(self) -> Iterator[None]:
        """Others may search, none may change."""
        self._begin(searches=1)
        try:
            yield
        finally:
            with self._guard:
                self._searches -= 1

    @contextmanager
    def change(self) -> Iterator[None]:
        """Nobody else may do anything."""
        self._begin(changing=True)
        try:
            yield
        finally:
            self._changing = False

    def _begin(self, searches: int = 0, changing: bool = False) -> None:
        with self._guard:
            if self._changing or (changing and self._searches):
                raise MixERRuntimeError(
                    f"Another thread {'changes' if self._changing else 'searches'} the index at "
                    "the moment, and nothing was done; take turns, for instance by a "
                    "threading.Lock around each search and change."
                )
            self._searches += searches
            self._changing = changing
