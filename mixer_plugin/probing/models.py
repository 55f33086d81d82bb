"""Frozen models: any network, by the function that makes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixer_plugin.adapters import Adapter, GenericAdapter
from mixer_plugin.checkpoints import load_base_state_dict
from mixer_plugin.data.loading.transforms import Augmentation
from mixer_plugin.errors import MixERTypeError
from mixer_plugin.forward.build import build_network
from mixer_plugin.heads import private_random
from mixer_plugin.io.array_file import zip_names
from mixer_plugin.io.torch_file import read_torch_file


@dataclass(frozen=True, kw_only=True)
class FrozenModel:
    """A model and the images it takes.

    Attributes:
        model: In eval mode on the CPU, wrapped or not.
        adapter: Of a model that is not wrapped.
        size: (height, width) of its images in pixels.
        normalisation: Its mean and standard deviation are used.
        about: What it is, as plain values.
    """

    model: nn.Module
    adapter: str | Adapter
    size: tuple[int, int]
    normalisation: Augmentation
    about: dict[str, Any]


def is_feature_file(path: Path) -> bool:
    """Whether a file holds features and no network; PyTorch's files are zip archives as well."""
    if path.is_dir():
        return True
    if names := zip_names(path):
        return any(name.endswith(".npy") for name in names)
    with path.open("rb") as file:
        return file.read(8).startswith((b"\x93NUMPY", b"MATLAB ", b"\x89HDF"))


def build_named(target: str, seed: int = 0) -> nn.Module:
    """Any model, as :func:`build_network` takes it; modules are found in the working folder, too.

    Args:
        target: ``package.module:function``, called without arguments; a call of it; or
            ``torchvision:NAME``.
        seed: Of random weights.

    Raises:
        MixERError: There is no such function, or it makes no ``nn.Module``.
    """
    if os.getcwd() not in map(os.path.abspath, sys.path):
        sys.path.append(os.getcwd())  # last: what is installed keeps its name
    with private_random(torch.device("cpu"), seed):
        return build_network(target)


def named_model(
    target: str,
    weights: Path | None,
    *,
    size: tuple[int, int],
    stage: str = "layer4",
    embed: str | None = None,
    neck: str | None = None,
    seed: int = 0,
) -> FrozenModel:
    """Any model, by the function that makes it and the paths of its last stage and embedding.

    Args:
        target: ``package.module:function``, called without arguments; ``torchvision:NAME`` is
            ``torchvision.models:NAME``, which fetches no weights.
        weights: File of its state dict, or of a mapping that holds one under ``state_dict``,
            ``net`` or ``model``; None: random weights of ``seed``.
        size: (height, width) of its images.
        stage: ``GenericAdapter``'s; several paths with commas.
        embed: ``GenericAdapter``'s embedding.
        neck: ``GenericAdapter``'s.
        seed: Of random weights.

    Raises:
        MixERError: There is no such function, it makes no ``nn.Module``, or the weights do not fit.
        OSError: The weights cannot be read.
    """
    model = build_named(target, seed)
    if weights is not None:
        found = read_torch_file(weights, "weights")
        if not isinstance(found, Mapping):
            raise MixERTypeError(
                f"{weights} holds a {type(found).__name__}; expected a state dict."
            )
        load_base_state_dict(model, found)
    return FrozenModel(
        model=model.eval(),
        adapter=GenericAdapter(tuple(stage.split(",")), embed, neck=neck),
        size=size,
        normalisation=Augmentation(),
        about={
            "model": target,
            "weights": "random" if weights is None else str(weights),
            "stage": stage,
            "embed": embed,
            "neck": neck,
        },
    )
