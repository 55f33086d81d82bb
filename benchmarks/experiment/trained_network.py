"""A trained network in one file: its weights and how to build it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mixer_plugin.attach import wrap_with_mixer
from mixer_plugin.baselines import create_baseline
from mixer_plugin.benchmarks.training.recipe import plain
from mixer_plugin.config import MixERConfig
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.io.options import build
from mixer_plugin.io.torch_file import read_torch_file
from mixer_plugin.io.yaml_file import naming

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The persons that a network knows.

    Attributes:
        layout: of the data set.
        identities: as the data set numbers them.
        trial: RegDB's split; None: another data set's.
        generated: what a generated data set was made from, in short; None: a real one.
    """

    layout: str
    identities: tuple[int, ...]
    trial: int | None = None
    generated: str | None = None

    @classmethod
    def of(cls, images: ImageList, layout: str, trial: int | None) -> TrainedOn:
        """What a network that trains on these images will know."""
        return cls(
            layout=layout,
            identities=tuple(np.unique(images.ids).tolist()),
            trial=trial if layout == "regdb" else None,
            generated=_generated(images.root),
        )

    def check_unknown(self, images: ImageList, layout: str, trial: int | None) -> None:
        """Raises :class:`MixERValueError` if persons that are tested on were trained on.

        The same number means another person in another layout, and in a data set that was generated
        from other settings.
        """
        there = _generated(images.root)
        if layout != self.layout or (
            there != self.generated and None not in (there, self.generated)
        ):
            return
        tested = set(images.ids.tolist())
        if known := sorted(tested & set(self.identities)):
            advice = f"The lists of {images.root} name them for training or were changed since."
            if self.trial != trial:
                advice = f"The network is of trial {self.trial}: leave the trial out, or give that."
            raise MixERValueError(
                f"The network was trained on {len(known)} of the {len(tested)} identities that it "
                f"is tested on, such as {known[0]}, and no result on them means anything. {advice}"
            )


def _generated(root: Path) -> str | None:
    try:
        return str(json.loads((root / "synthetic.json").read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


@dataclass(frozen=True, kw_only=True)
class Built:
    """The options that a network is built from.

    Attributes:
        baseline: its name.
        options: of ``create_baseline``.
        classes: identities that it was trained on.
        image_size: (height, width) in pixels.
        mean: of each colour in [0, 1]; subtracted from the images.
        std: standard deviation of each colour; the images are then divided by it.
        mode: MixER's, ``e2e`` or ``f``; None: no MixER.
        mixer: fields of its ``MixERConfig``, or None.
        trained_on: the persons that it knows; None: a file of an older version does not say.
    """

    baseline: str
    options: Mapping[str, Any]
    classes: int
    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mode: str | None = None
    mixer: Mapping[str, Any] | None = None
    trained_on: TrainedOn | None = None

    def build(self) -> nn.Module:
        """The network with initial weights, wrapped if it was.

        Raises:
            MixERError: for options that this version of the package does not have.
        """
        model = create_baseline(self.baseline, self.classes, **self.options)
        if self.mode is not None:
            config = MixERConfig.from_dict(dict(self.mixer or {}))
            wrap_with_mixer(model, self.mode, config=config)
        return model


def save_trained(path: str | os.PathLike[str], model: nn.Module, built: Built) -> None:
    """Writes a trained network, aside, and renames it.

    Raises:
        OSError: if the file cannot be written; an older one stays as it was.
    """
    values = {"version": _VERSION, "built": plain(built), "state": model.state_dict()}
    with atomic_write(Path(path)) as file:
        torch.save(values, file)


def load_trained(path: str | os.PathLike[str]) -> tuple[nn.Module, Built]:
    """Builds the network of a file, in eval mode on the CPU.

    Raises:
        MixERValueError: if the file is not one of :func:`save_trained`.
        OSError: if it cannot be read.
        MixERError: if this version of the package cannot build the network.
    """
    state, built = read_trained(path)
    model = built.build()
    model.load_state_dict(dict(state))
    return model.eval(), built


def read_trained(path: str | os.PathLike[str]) -> tuple[Mapping[str, Any], Built]:
    """The state dict of a file and what its network is built from; as :func:`load_trained`."""
    advice = "Expected a file cells/*/*.pt of a result folder of table3."
    values = read_torch_file(path, "a trained network", advice)
    if not isinstance(values, dict) or values.get("version") != _VERSION or "built" not in values:
        raise MixERValueError(
            f"{path} is not a trained network of version {_VERSION}. Expected a file cells/*/*.pt "
            "of a result folder of table3, not a checkpoint *.resume.pt. The checkpoint of another "
            "training loop goes with the function that builds its network: --model "
            "module:function --weights FILE."
        )
    names = {item.name for item in dataclasses.fields(Built)}
    fields = {name: value for name, value in values["built"].items() if name in names}
    with naming(path):
        return values["state"], build(Built, fields, "built")
