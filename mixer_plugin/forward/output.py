"""What any module of a model gives for images, without MixER."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mixer_plugin.adapters.base import submodule
from mixer_plugin.errors import MixERTypeError
from mixer_plugin.forward.mixed import bare_model
from mixer_plugin.heads import modes_kept


@contextmanager
def output_of(model: nn.Module, path: str) -> Iterator[Callable[[Tensor], Tensor]]:
    """Within the block, what a module of a model gives for images; the model is in eval mode.

    Args:
        model: any, whose forward takes images alone.
        path: of the module; ``output``: what the forward returns.

    Yields:
        A function of images [B, 3, H, W] to the module's output [B, D].

    Raises:
        MixERError: There is no such module, the forward takes more than images, or the module did
            not run exactly once or gives something else than [B, D] or [B, D, 1, 1].
    """
    bare = bare_model(model)
    module = bare if path == "output" else submodule(bare, path)
    try:
        inspect.signature(bare.forward).bind("images")
    except TypeError as error:
        raise MixERTypeError(
            f"{type(bare).__name__}.forward does not take images alone: {error}. Build a module "
            "whose forward does, or wrap the model with an adapter."
        ) from error
    found: list[Any] = []
    hook = module.register_forward_hook(lambda *values: found.append(values[-1]))

    def run(images: Tensor) -> Tensor:
        found.clear()
        model(images)
        value = found[0] if len(found) == 1 else None
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[2:].numel() != 1:
            raise MixERTypeError(
                f"{path!r} of {type(bare).__name__} ran {len(found)} times and gave {shape}; "
                f"expected once, [{len(images)}, D]. Name another module, such as the pooling "
                "behind it."
            )
        return value.flatten(1)

    try:
        with modes_kept(bare):
            bare.eval()
            yield run
    finally:
        hook.remove()
