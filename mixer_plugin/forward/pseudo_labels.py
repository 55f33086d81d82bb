"""What unsupervised loops need: rows without a person, and numbers of persons that change."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.errors import MixERValueError
from mixer_plugin.forward.record import Record
from mixer_plugin.heads import LinearHead, private_random

OUTLIER = -1  # label of a row that clustering gave to nobody


def without_outliers(record: Record, labels: Tensor) -> tuple[Record, Tensor]:
    """The rows of a record that have a person; all of them, the record itself is returned.

    Args:
        record: with its modality; of its maps nothing is needed any more.
        labels: [B] int64, -1 for an outlier. A graph that is being compiled has none: which rows
            stay would depend on their values.
    """
    if torch.compiler.is_compiling() or not len(labels) or int(labels.min()) != OUTLIER:
        return record, labels
    kept = labels != OUTLIER
    rows = {
        name: value[kept]
        for name in ("erased_before", "erased_after", "related_before", "related_after", "modality")
        if (value := getattr(record, name)) is not None
    }
    return dataclasses.replace(record, **rows), labels[kept]


def renew_classifiers(
    mixer: Any, num_classes: int, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Makes the identity classifiers of the heads anew, and says that labels are of clusters.

    The weights stay the same parameters, so that an optimizer keeps them; what it remembers of
    them, of another shape, is dropped.

    Args:
        mixer: ``model.mixer``.
        num_classes: persons, or clusters, >= 1.
        optimizer: that steps the heads.

    Raises:
        MixERValueError: for a number that is none.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise MixERValueError(f"num_classes is {num_classes!r}; expected a whole number >= 1.")
    doubled = (2 if mixer.config.doubles_labels else 1) * num_classes
    made = {"identity": doubled, "erased_identity": num_classes}
    for name, outputs in made.items():
        head: nn.Module | None = getattr(mixer, name)
        if head is None:
            continue
        weight = head.weight
        assert isinstance(weight, nn.Parameter)
        with private_random(weight.device, mixer.seed + num_classes):
            fresh = LinearHead(weight.shape[1], outputs)
        weight.grad = None
        weight.data = fresh.weight.data.to(device=weight.device, dtype=weight.dtype)
        if optimizer is not None:
            optimizer.state.pop(weight, None)
    mixer.num_classes, mixer.pseudo_labels = num_classes, True
