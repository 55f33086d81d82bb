"""Features in fewer bits. Every score normalises a row first, so no scale need be kept."""

from __future__ import annotations

import torch
from torch import Tensor

from mixer_plugin.errors import check_name

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
_MOST = 127.0


def stored_as(features: Tensor, precision: str) -> Tensor:
    """Features as a file or an engine keeps them.

    ``float16`` and ``int8`` divide each row by its largest magnitude, which changes no cosine;
    ``int8`` then rounds it to steps of 1/127 of that (scalar quantisation, symmetric, per row).

    Args:
        features: float32 [N, D].
        precision: ``float32``, ``float16`` or ``int8``.

    Returns:
        [N, D] of that kind; ``float()`` gives back features whose cosines are those of the rounded
        ones. A row of zeros stays one.

    Raises:
        MixERValueError: The precision is unknown.
    """
    check_name("precision", precision, PRECISIONS)
    if precision == "float32":
        return features
    largest = torch.linalg.vector_norm(features, ord=torch.inf, dim=1, keepdim=True)
    scaled = features / torch.where(largest > 0, largest, 1.0)
    return scaled.half() if precision == "float16" else (scaled * _MOST).round().to(torch.int8)
