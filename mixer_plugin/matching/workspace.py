"""Working memory that is reused."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from mixer_plugin.features.validation import empty


class Workspace:
    """Named buffers, each as large as the largest request under its name.

    Fresh memory for every block of scores costs as much as a pass over it. What was taken under a
    name is overwritten when that name is taken again.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Uninitialised memory of a shape, with the dtype and on the device of ``like``."""
        size = prod(shape)
        held = self._held.get(name)
        if held is None or len(held) < size:
            held = self._held[name] = empty((size,), like)
        return held[:size].view(tuple(shape))
