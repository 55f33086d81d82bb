"""Builds the network of each public codebase from a checkout."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mixer_plugin.errors import MixERValueError, check_name

CLASSES = 6


@dataclass(frozen=True)
class Codebase:
    """A public codebase.

    Attributes:
        source: ``owner/name`` on GitHub.
        marker: file, relative to the code's folder, by which that folder is found.
        build: imports the network and makes it: ``build(num_classes, dataset)``.
        datasets: data-set variants of the network.
        image_size: (height, width) of the check's images: small where the network lets it.
    """

    source: str
    marker: str
    build: Callable[[int, str], nn.Module]
    datasets: tuple[str, ...]
    image_size: tuple[int, int] = (96, 48)


def _ddag(classes: int, dataset: str) -> nn.Module:
    net: Any = importlib.import_module("model_main")
    return net.embed_net(512, classes, drop=0.2, part=3, arch="resnet50", wpa=True)


def _deen(classes: int, dataset: str) -> nn.Module:
    net: Any = importlib.import_module("model")
    return net.embed_net(classes, dataset, arch="resnet50")


def _sgeil(classes: int, dataset: str) -> nn.Module:
    net: Any = importlib.import_module("model_bn")
    return net.embed_net(classes, no_local="off", gm_pool="on", arch="resnet50")


def _mpanet(classes: int, dataset: str) -> nn.Module:
    models: Any = importlib.import_module("models.baseline")
    return models.Baseline(
        num_classes=classes,
        pattern_attention=True,
        modality_attention=2,
        mutual_learning=True,
        drop_last_stride=True,
        triplet=False,
        k_size=4,
        center_cluster=True,
        center=False,
        margin=0.7,
        num_parts=6,
        weight_KL=2.5,
        weight_sid=0.5,
        weight_sep=0.5,
        update_rate=0.2,
        classification=True,
    )


def _saai(classes: int, dataset: str) -> nn.Module:
    models: Any = importlib.import_module("models.baseline")
    model = models.Baseline(
        num_classes=classes,
        backbone="resnet50",
        drop_last_stride=True,
        modality_attention=0 if dataset == "regdb" else 2,
        mutual_learning=True,
        k_size=4,
        num_parts=7,
        update_rate=0.02,
    )
    # Masks of a random trunk's large features are saturated, hence equal to each other: the root of
    # their distance has no finite gradient there.
    model.attn_pool.part_tokens.data.mul_(0.1)
    return model


def _agw(classes: int, dataset: str) -> nn.Module:
    net: Any = importlib.import_module("model")
    return net.embed_net(classes, no_local="on", gm_pool="on", arch="resnet50")


def _idkl(classes: int, dataset: str) -> nn.Module:
    resnet: Any = importlib.import_module("models.resnet")
    # As published, three constructors ask for an argument that their callers leave out.
    for name in ("Shared_module_fr", "Special_module", "Shared_module_bh"):
        getattr(resnet, name).__init__.__defaults__ = (0,)
    models: Any = importlib.import_module("models.baseline")
    model = models.Baseline(
        num_classes=classes,
        decompose=True,
        drop_last_stride=True,
        triplet=True,
        k_size=4,
        margin=1.3,
        bg_kl=True,
        sm_kl=True,
        IP=True,
        distalign=dataset != "regdb",
        classification=True,
    )
    model.mutual_learning = False  # read by the published loop, never set by the published model
    return model


CODEBASES: dict[str, Codebase] = {
    "ddag": Codebase("mangye16/DDAG", "model_main.py", _ddag, ("sysu", "regdb")),
    "deen": Codebase("ZYK100/LLCM", "model.py", _deen, ("sysu", "regdb", "llcm")),
    "sgeil": Codebase("jiawei151/SGIEL_VIReID", "model_bn.py", _sgeil, ("sysu",)),
    "mpanet": Codebase("DoubtedSteam/MPANet", "models/baseline.py", _mpanet, ("sysu", "regdb")),
    "saai": Codebase(
        # Its part pooling has one embedding per position of the official map.
        "xiaoye-hhh/SAAI",
        "models/baseline.py",
        _saai,
        ("sysu", "regdb"),
        (288, 144),
    ),
    "agw": Codebase("mangye16/Cross-Modal-Re-ID-baseline", "model.py", _agw, ("sysu", "regdb")),
    "idkl": Codebase("1KK077/IDKL", "models/baseline.py", _idkl, ("sysu", "regdb", "llcm")),
}


def find_codebase(name: str, checkout: str | Path) -> tuple[Codebase, Path]:
    """The codebase and the folder of its modules: ``checkout`` or a folder directly inside.

    Raises:
        MixERValueError: for an unknown name, or a folder that does not hold it.
    """
    check_name("codebase", name, CODEBASES)
    codebase, root = CODEBASES[name], Path(checkout).resolve()
    if not root.is_dir():
        raise MixERValueError(f"{root} is no folder; expected a checkout of {codebase.source}.")
    inside = sorted(path for path in root.iterdir() if path.is_dir())
    # Of LLCM's two networks in files of one name, DEEN's is the one in the folder DEEN.
    inside.sort(key=lambda path: path.name.lower() != name)
    for folder in (root, *inside):
        if (folder / codebase.marker).is_file():
            return codebase, folder
    raise MixERValueError(
        f"Found no {codebase.marker} in {root} or a folder directly inside; expected a checkout of "
        f"{codebase.source}. If yours keeps its network elsewhere, name what makes it: "
        "--build package.module:function (called with the number of classes)."
    )
