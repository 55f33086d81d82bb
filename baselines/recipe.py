"""Public training recipes, read from ``recipes/<name>.yaml``, and their optimizers and rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from mixer_plugin.errors import MixERValueError, check_name, closest

_FOLDER = Path(__file__).parent / "recipes"


def datasets_of(name: str) -> list[str]:
    """Data sets that a network has a recipe for; raises as :func:`load_recipe`."""
    return list(_read(name)["datasets"])


def load_recipe(name: str, dataset: str = "sysu") -> dict[str, Any]:
    """The recipe of a network on a data set.

    Args:
        name: one of the six; ``saai-base`` trains as ``saai``.
        dataset: ``sysu``, ``regdb`` or ``llcm``.

    Returns:
        ``image_size``, ``batch`` (identities, visible, infrared), ``rows``, ``augmentation``,
        ``optimizer``, ``schedule``, ``precision``, ``evaluation``, and the network's options under
        ``network``; of ``sgeil`` also ``clip_grad_norm``, ``cutmix`` and ``ema``.

    Raises:
        MixERValueError: for an unknown name, or a data set that the network is not trained on.
    """
    content = _read(name)
    datasets = content.pop("datasets")
    if dataset not in datasets:
        raise MixERValueError(
            f"The recipe of {name!r} has no settings for {dataset!r}.{closest(dataset, datasets)}"
        )
    return _merged(content, datasets[dataset] or {})


def _read(name: str) -> dict[str, Any]:
    names = sorted(path.stem for path in _FOLDER.glob("*.yaml"))
    stem = name.removesuffix("-base")
    check_name("recipe", stem, names)
    return yaml.safe_load((_FOLDER / f"{stem}.yaml").read_text(encoding="utf-8"))


def _merged(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(common)
    for key, value in own.items():
        inner = merged.get(key)
        both = isinstance(inner, dict) and isinstance(value, dict)
        merged[key] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return merged


def build_optimizer(net: nn.Module, recipe: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer that the public train script makes, with its groups and learning rates.

    Script family: one group of every parameter that the script does not name, at a tenth of the
    rate, then one group per sub-module that it names. A module that was added to the network before
    is in the first one. Ignite family: one group of everything.

    Args:
        net: the network, wrapped or not.
        recipe: from :func:`load_recipe`.
    """
    settings = dict(recipe["optimizer"])
    kind, named = settings.pop("name"), settings.pop("full_rate", None)
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind]
    if named is None:
        return make(net.parameters(), **settings)
    groups = [list(net.get_submodule(path).parameters()) for path in named]
    taken = {id(p) for group in groups for p in group}
    rest = [p for p in net.parameters() if id(p) not in taken]
    lr = settings.pop("lr")
    listed = [{"params": rest, "lr": 0.1 * lr}, *({"params": g, "lr": lr} for g in groups)]
    return make(listed, lr=lr, **settings)


def rate_at(recipe: dict[str, Any], epoch: int) -> float:
    """Learning rate of an epoch, counted from 0: linear warm-up, then a step at each milestone."""
    lr, schedule = recipe["optimizer"]["lr"], recipe["schedule"]
    warmup = schedule.get("warmup_epochs", 0)
    if epoch < warmup:
        return lr * (epoch + 1) / warmup
    return lr * schedule["gamma"] ** sum(epoch >= m for m in schedule["milestones"])


def set_rates(optimizer: torch.optim.Optimizer, recipe: dict[str, Any], epoch: int) -> None:
    """Sets every group's learning rate for an epoch, counted from 0, as the public schedule does.

    Script family: the first group's to a tenth, *every* later group's to the full rate, also of
    groups that were added since.
    """
    rate = rate_at(recipe, epoch)
    for i, group in enumerate(optimizer.param_groups):
        first = i == 0 and "full_rate" in recipe["optimizer"]
        group["lr"] = 0.1 * rate if first else rate
