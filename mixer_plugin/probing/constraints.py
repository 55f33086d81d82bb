"""The paper's three constraints (eq. 3), as measured by the probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
_TEXTS = {
    "erased-modality": ("MI(Z_e; M) = 0", "1 bit minus the log loss of the best of three probes"),
    "erased-related": ("MI(Z_e; Z_r) = 0", "InfoNCE, critic: cosine after ridge regression"),
    "erased-related-given-modality": ("MI(Z_e; Z_r | M)", "the same within each modality, mean"),
    "related-identity": (
        "MI(Z_r; Y | M) = 0",
        "log loss of telling identities apart within a modality",
    ),
    "related-identity-across": (
        "identity in Z_r whatever the modality",
        "log loss of telling identities apart by images of the other modality",
    ),
}


def constraints(
    modality: Sequence[Row], independence: Sequence[Row] = (), identity: Sequence[Row] = ()
) -> list[Row]:
    """Lower bounds, in bits, on the quantities that eq. 3 of the paper wants to be 0.

    A bound above 0 shows that a constraint does not hold; one at or below 0 shows nothing. All are
    of unseen identities.

    Args:
        modality: Rows of ``ModalityProbe`` of the erased feature.
        independence: Rows of ``Independence``; empty without a related feature.
        identity: Rows of ``IdentityProbe`` of the related feature.

    Returns:
        A row for each quantity: name, statement, bits, bits_ci, most, estimator.
    """
    best = max(modality, key=lambda row: row["bits"])
    found = {"erased-modality": best | {"most": 1.0}}
    by_images = {row["images"]: row for row in independence}
    if "all" in by_images:
        found["erased-related"] = by_images["all"]
    if {"visible", "infrared"} <= by_images.keys():
        sides = [by_images[name] for name in ("visible", "infrared")]
        found["erased-related-given-modality"] = {
            **{name: sum(row[name] for row in sides) / 2 for name in ("bits", "most")},
            "bits_ci": [sum(row["bits_ci"][end] for row in sides) / 2 for end in (0, 1)],
        }
    names = {"within": "related-identity", "across": "related-identity-across"}
    by_pairs = {row["pairs"]: row for row in identity}
    found |= {name: by_pairs[pairs] for pairs, name in names.items() if pairs in by_pairs}
    return [
        {
            "name": name,
            "statement": _TEXTS[name][0],
            "bits": row["bits"],
            "bits_ci": [float(end) for end in row["bits_ci"]],
            "most": row["most"],
            "estimator": _TEXTS[name][1],
        }
        for name, row in found.items()
    ]
