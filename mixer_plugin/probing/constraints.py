"""The paper's three constraints (eq. 3), as far as the probes show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]
_TEXTS = {
    "erased-modality": (
        "MI(Z_e; M) = 0",
        "1 bit minus the log loss of the best of three probes",
    ),
    "erased-related": (
        "MI(Z_e; Z_r) = 0",
        "InfoNCE, critic: cosine after ridge regression",
    ),
    "erased-related-given-modality": (
        "MI(Z_e; Z_r | M)",
        "the same within each modality, mean",
    ),
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
    modality: Sequence[Row],
    independence: Sequence[Row] = (),
    identity: Sequence[Row] = (),
) -> list[Row]:
    """Lower bounds in bits of what the paper's eq. 3 wants to be 0.

    A bound above 0 shows that a constraint does not hold; one at or below 0 shows nothing. All are
    of unseen identities.

    Args:
        modality: Modality probes of the erased feature.
        independence: Rows of its independence of the related one; none without one.
        identity: Identity probes of the related feature.

    Returns:
        A row each: name, statement, bits, bits_ci, most, estimator.
    """
    best = max(modality, key=lambda row: row["bits"])
    found = [_row("erased-modality", best["bits"], best["bits_ci"], 1.0)]
    by_images = {row["images"]: row for row in independence}
    if "all" in by_images:
        found.append(_of("erased-related", by_images["all"]))
    within = [by_images[name] for name in ("visible", "infrared") if name in by_images]
    if len(within) == 2:
        ends = [sum(row["bits_ci"][end] for row in within) / 2 for end in (0, 1)]
        means = [sum(row[name] for row in within) / 2 for name in ("bits", "most")]
        found.append(_row("erased-related-given-modality", means[0], ends, means[1]))
    by_pairs = {row["pairs"]: row for row in identity}
    for name, pairs in (("related-identity", "within"), ("related-identity-across", "across")):
        if pairs in by_pairs:
            found.append(_of(name, by_pairs[pairs]))
    return found


def _of(name: str, row: Mapping[str, Any]) -> Row:
    return _row(name, row["bits"], row["bits_ci"], row["most"])


def _row(name: str, bits: float, ends: Sequence[float], most: float) -> Row:
    statement, estimator = _TEXTS[name]
    return {
        "name": name,
        "statement": statement,
        "bits": bits,
        "bits_ci": [float(end) for end in ends],
        "most": most,
        "estimator": estimator,
    }
