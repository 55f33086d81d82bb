"""Options of the probes."""

from __future__ import annotations

from dataclasses import dataclass

from mixer_plugin.errors import MixERTypeError, MixERValueError

_LOWEST = {"seed": 0, "folds": 3, "images": 2, "neighbours": 1, "hidden": 1, "epochs": 1}


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How features are probed.

    Attributes:
        seed: Of the folds, the balanced choice of images, the control labels and the MLP.
        folds: Parts that the identities are cut into, at least 3. Each part is tested once by
            probes fitted on the others, one of which chooses penalties and lengths.
        images: Most images of a probe, about; equally many of each identity.
        neighbours: Of the k-NN probe.
        hidden: Width of the MLP's one hidden layer.
        epochs: Most epochs of the MLP; it stops when the validation identities get worse.

    Raises:
        MixERTypeError: A value is not a whole number.
        MixERValueError: A value is too small.
    """

    seed: int = 0
    folds: int = 5
    images: int = 2000
    neighbours: int = 15
    hidden: int = 64
    epochs: int = 60

    def __post_init__(self) -> None:
        for name, least in _LOWEST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise MixERTypeError(f"{name} must be a whole number, got {value!r}.")
            if value < least:
                raise MixERValueError(f"{name} must be at least {least}, got {value}.")
