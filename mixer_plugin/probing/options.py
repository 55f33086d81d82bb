"""Options of the probes."""

from __future__ import annotations

from dataclasses import dataclass

from mixer_plugin.io.options import check_options, option


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How features are probed.

    Attributes:
        seed: Seed of the folds, the balanced choice of images, the control labels and the MLP.
        folds: Parts that the identities are cut into, at least 3. Each part is tested once by
            probes fitted on the others, one of which chooses penalties and lengths.
        images: Largest number of images of a probe, spread over the identities; a probe of the
            modality or identity keeps two of each identity at least.
        neighbours: Neighbours that vote in the k-NN probe.
        hidden: Width of the MLP's one hidden layer.
        epochs: Most epochs of the MLP; it stops when the validation identities get worse.

    Raises:
        MixERTypeError: A value is not a whole number.
        MixERValueError: A value is too small.
    """

    seed: int = option(0, minimum=0)
    folds: int = option(5, minimum=3)
    images: int = option(2000, minimum=2)
    neighbours: int = option(15, minimum=1)
    hidden: int = option(64, minimum=1)
    epochs: int = option(60, minimum=1)

    def __post_init__(self) -> None:
        check_options(self)
