"""Ready-made poolings for :class:`GenericAdapter`: they pickle, which a lambda does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.errors import MixERTypeError, MixERValueError, closest

Pooling = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GeM:
    """Generalised-mean pooling of a map [B, D, H, W] → [B, D] (Radenović et al., TPAMI 2019).

    Attributes:
        exponent: the base's exponent: a number, or the dotted path of the parameter, buffer or
            attribute of the model that holds it, such as ``"gem.p"``. It is read at every call and
            detached: the related branch does not train the base's exponent.
        floor: smaller values are raised to it; roots have no gradient at zero.

    Example:
        >>> import torch
        >>> GeM(1.0)(torch.ones(2, 8, 4, 3)).shape
        torch.Size([2, 8])
    """

    exponent: float | str = 3.0
    floor: float = 1e-6

    def of(self, model: nn.Module) -> Pooling:
        """The pooling with the model's own exponent.

        Raises:
            MixERValueError: if the model has nothing at the path.
            MixERTypeError: if what is there is no single number.
        """
        if not isinstance(self.exponent, str):
            return self
        value: Any = model
        for name in self.exponent.split("."):
            value = getattr(value, name, None)
        if value is None:
            known = [n for n, p in model.named_parameters() if p.numel() == 1]
            raise MixERValueError(
                f"The model has no exponent {self.exponent!r} for GeM."
                f"{closest(self.exponent, known)}"
            )
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.detach().reshape(())
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise MixERTypeError(
                f"The exponent {self.exponent!r} of GeM is {type(value).__name__}; expected a "
                "number or a tensor of one value."
            )
        return lambda x: _generalised_mean(x, value, self.floor)

    def __call__(self, x: Tensor) -> Tensor:
        """[B, D, H, W] → [B, D], in float32 at least: powers of half-precision maps overflow."""
        if isinstance(self.exponent, str):
            raise MixERTypeError(
                f"GeM({self.exponent!r}) reads its exponent off a model. Call GeM(…).of(model)."
            )
        return _generalised_mean(x, self.exponent, self.floor)

    def __repr__(self) -> str:
        """As it is written in code."""
        floor = "" if self.floor == 1e-6 else f", floor={self.floor!r}"
        return f"GeM({self.exponent!r}{floor})"


def _generalised_mean(x: Tensor, exponent: float | Tensor, floor: float) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    root = wide.clamp(min=floor).pow(exponent).flatten(2).mean(-1).pow(1 / exponent)
    return root.to(x.dtype)


def mean_pool(x: Tensor) -> Tensor:
    """The mean over the positions of a map: [B, D, H, W] → [B, D].

    Example:
        >>> import torch
        >>> mean_pool(torch.zeros(2, 8, 4, 3)).shape
        torch.Size([2, 8])
    """
    return x.flatten(2).mean(-1)


def max_pool(x: Tensor) -> Tensor:
    """The maximum over the positions of a map: [B, D, H, W] → [B, D].

    Example:
        >>> import torch
        >>> max_pool(torch.zeros(2, 8, 4, 3)).shape
        torch.Size([2, 8])
    """
    return x.flatten(2).amax(-1)


def class_token(tokens: Tensor) -> Tensor:
    """The first token: [B, T, D] → [B, D].

    Example:
        >>> import torch
        >>> class_token(torch.zeros(2, 13, 8)).shape
        torch.Size([2, 8])
    """
    return tokens[:, 0]


def token_mean(tokens: Tensor) -> Tensor:
    """The mean of all tokens: [B, T, D] → [B, D].

    Example:
        >>> import torch
        >>> token_mean(torch.zeros(2, 13, 8)).shape
        torch.Size([2, 8])
    """
    return tokens.mean(1)


def patch_mean(tokens: Tensor) -> Tensor:
    """The mean of all tokens but the first: [B, T, D] → [B, D].

    Example:
        >>> import torch
        >>> patch_mean(torch.zeros(2, 13, 8)).shape
        torch.Size([2, 8])
    """
    return tokens[:, 1:].mean(1)


POOLINGS: dict[str, Pooling] = {
    function.__name__: function
    for function in (mean_pool, max_pool, class_token, token_mean, patch_mean)
}
