"""Our own implementations of the networks that MixER is compared on, by name."""

from __future__ import annotations

if not __name__.startswith("mixer_plugin."):
    raise ImportError("import mixer_plugin.baselines, not baselines")

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixer_plugin.baselines.saai import saai
from mixer_plugin.errors import MixERValueError, closest

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "saai": saai,
    # The paper's own baseline, "SAAI without prototype learning": the global mean alone.
    "saai-base": partial(saai, parts=0, modality_attention=0),
}
_DATASETS = ("sysu", "regdb", "llcm")


def list_baselines() -> list[str]:
    """Names that :func:`create_baseline` knows, sorted."""
    return sorted(_BUILDERS)


def create_baseline(
    name: str,
    num_classes: int,
    *,
    trunk: str = "resnet50",
    dataset: str = "sysu",
    weights: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """Builds a baseline network with the structure and parameter names of its public code.

    Args:
        name: one of :func:`list_baselines`.
        num_classes: number of training identities C.
        trunk: ``resnet50``, ``resnet18`` or ``small`` (for tests and demonstrations).
        dataset: ``sysu``, ``regdb`` or ``llcm``: picks the defaults that the public code sets per
            data set.
        weights: local checkpoint for the trunk, with torchvision's names; None: random weights.
        **options: the builder's own keyword arguments, e.g. those of
            :func:`mixer_plugin.baselines.saai.saai`.

    Raises:
        MixERValueError: for an unknown name, data set, trunk or option (the closest is named), or
            weights that do not fit.

    Example:
        >>> model = create_baseline("saai-base", 4, trunk="small", image_size=(64, 32))
        >>> model.eval()(torch.zeros(2, 3, 64, 32), cam_ids=torch.tensor([1, 3])).shape
        torch.Size([2, 128])
    """
    if name not in _BUILDERS:
        raise MixERValueError(f"Unknown baseline {name!r}.{closest(name, _BUILDERS)}")
    if dataset not in _DATASETS:
        raise MixERValueError(f"Unknown dataset {dataset!r}.{closest(dataset, _DATASETS)}")
    if num_classes < 1:
        raise MixERValueError(f"num_classes is {num_classes}; expected at least 1.")
    build = _BUILDERS[name]
    fixed = {"num_classes", "trunk", "dataset", "weights"}
    known = inspect.signature(build).parameters.keys() - fixed
    for option in options:
        if option not in known:
            raise MixERValueError(
                f"The baseline {name!r} has no option {option!r}.{closest(option, known)}"
            )
    return build(num_classes, trunk=trunk, dataset=dataset, weights=weights, **options)


def load_official(model: nn.Module, checkpoint: str | Path) -> nn.Module:
    """Loads a checkpoint that the public code of a baseline saved; returns the same model.

    Our parameter names are the public ones, so this is a strict load of the whole model after
    dropping a ``module.`` prefix. It unpickles tensors only, never other objects.

    Raises:
        MixERValueError: if the file is missing, or its names or shapes are not the model's.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise MixERValueError(f"No checkpoint at {path}; expected a file written by torch.save.")
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise MixERValueError(
            f"{path} does not fit this model: {error}\nBuild it with the options the checkpoint "
            "was trained with (num_classes, dataset, parts, modality_attention, image_size)."
        ) from error
    return model


__all__ = ["create_baseline", "list_baselines", "load_official"]
