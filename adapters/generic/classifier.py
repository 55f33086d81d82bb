"""Finds the identity classifier of a network: the linear layer that takes the embedding."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def takers_of(model: nn.Module, width: int, stage: Sequence[str]) -> dict[str, int]:
    """Columns of each linear layer behind the stage that takes an embedding, by path.

    Where none is registered behind the stage, the last one of all.

    Args:
        model: wrapped or bare.
        width: columns of the embedding.
        stage: paths of the stage's modules, whose own layers are no classifiers.
    """
    own = tuple(f"{path}." for path in (*stage, "mixer"))
    names = [name for name, _ in model.named_modules()]
    found = {
        name: module.out_features
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.in_features == width
        if not name.startswith(own)
    }
    behind = names[names.index(stage[-1]) :]
    return {name: found[name] for name in behind if name in found} or dict([*found.items()][-1:])
