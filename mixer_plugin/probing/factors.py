"""The true factors of generated images, and how well a feature predicts them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.data.synthetic.config import VERSION, SyntheticConfig, digest
from mixer_plugin.data.synthetic.draws import Stream, normals, uniforms
from mixer_plugin.data.synthetic.factors import INFRARED, SHARED, VISIBLE
from mixer_plugin.data.synthetic.images import identity_factors, image_keys
from mixer_plugin.data.synthetic.layouts import list_files
from mixer_plugin.data.synthetic.person import NUISANCE_NORMALS, NUISANCE_UNIFORMS
from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.text_file import read_text
from mixer_plugin.probing.folds import identity_folds, spread_rows
from mixer_plugin.probing.linear import explained_variance
from mixer_plugin.probing.options import ProbeOptions

CARD = "synthetic.json"
# Columns of an image's own normals, as the renderer uses them: pose, camera response, light. Of a
# name in bars the absolute value counts.
_NORMALS = {
    "scale": 0,
    "vertical": 2,
    "horizontal": 3,
    "lean": 8,
    "|turn|": 9,
    "legs_swing": 10,
    "arms_swing": 11,
    "gain": 14,
    "light_across": 15,
    "light_down": 16,
    "tone_curve": 17,
    "noise": 21,
}
_OCCLUDED = 12  # column of an image's uniforms, below the probability where it is occluded
GROUPS = ("shared", "visible", "infrared", "nuisance")


@dataclass(frozen=True)
class Factors:
    """True factors of generated images; row i belongs to image i of a feature set.

    Attributes:
        names: F names.
        groups: The group of each factor: ``shared`` (of the identity, shown by both modalities),
            ``visible`` or ``infrared`` (of the identity, shown by that modality alone) or
            ``nuisance`` (of the image).
        values: float64 [N, F].
        known: bool [N]; False for images of persons in no split (distractors, junk), whose factors
            of the identity are 0.
        settings: The data set's ``shared_cue``, ``visible_cue`` and ``infrared_cue``.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    values: Tensor
    known: Tensor
    settings: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class FactorProbe:
    """How well a feature of one modality's images predicts one group of factors.

    Attributes:
        group: Group of the factors, as of ``Factors.groups``.
        images: Modality of the images whose features are probed: ``visible`` or ``infrared``.
        shown: Whether these images show the group at all. Where not, R² other than 0 is the
            probe's own error.
        r2: Share of the factors' variance that ridge regression explains on unseen identities.
        factors: The same of each factor, by name.
        count: Images.
    """

    group: str
    images: str
    shown: bool
    r2: float
    factors: dict[str, float]
    count: int


def has_factors(root: str | os.PathLike[str]) -> bool:
    """Whether a data set holds the generator's card."""
    return (Path(root) / CARD).is_file()


def read_factors(root: str | os.PathLike[str], features: FeatureSet) -> Factors:
    """The factors of images, computed again from the configuration on the data set's card.

    Args:
        root: Folder of a data set that ``write_layout`` wrote.
        features: N images of it, with paths; the folder may have been moved.

    Returns:
        The factors of these images, in their order.

    Raises:
        MixERValueError: This version of the generator did not write the folder, the features have
            no paths, or an image is not of this data set.
    """
    config, layout = _read_card(Path(root))
    if features.paths is None:
        raise MixERValueError(
            "The features name no image paths, by which the generator's factors are found; "
            "extract them with paths."
        )
    listing = list_files(config, layout)
    rows_of = {path: row for row, places in enumerate(listing.paths) for path in places}
    rows = listing.rows[[_find(path, rows_of) for path in features.paths]]
    return generator_factors(config, rows)


def generator_factors(config: SyntheticConfig, rows: NDArray[np.void]) -> Factors:
    """The factors of images that the generator makes.

    Args:
        config: The data set.
        rows: N rows of ``plan(config)``, or of a layout's listing.
    """
    persons, names = identity_factors(config)
    known = np.isin(rows["split"], ("train", "val", "test"))
    of_identity = np.zeros((len(rows), len(names)))
    of_identity[known] = persons[rows["pid"][known] - 1]
    drawn = normals(image_keys(config, Stream.POSE, rows), NUISANCE_NORMALS)
    clutter = uniforms(image_keys(config, Stream.CLUTTER, rows), NUISANCE_UNIFORMS)
    nuisance = {
        name: np.abs(drawn[:, at]) if name.startswith("|") else drawn[:, at]
        for name, at in _NORMALS.items()
    }
    nuisance["occluded"] = (clutter[:, _OCCLUDED] < config.occlusion).astype(np.float64)
    groups = dict(zip(GROUPS, (SHARED, VISIBLE, INFRARED, nuisance), strict=True))
    return Factors(
        names=(*names, *nuisance),
        groups=tuple(group for group, own in groups.items() for _ in own),
        values=torch.from_numpy(np.column_stack([of_identity, *nuisance.values()])),
        known=torch.from_numpy(known),
        settings={f"{g}_cue": float(getattr(config, f"{g}_cue")) for g in GROUPS[:3]},
    )


def probe_factors(
    x: Tensor, images: FeatureSet, factors: Factors, options: ProbeOptions | None = None
) -> list[FactorProbe]:
    """Probes a feature for the generator's factors.

    Args:
        x: Features [N, D].
        images: Their N images.
        factors: Their factors.
        options: How to probe; None: the defaults.

    Returns:
        A probe for each group of factors and modality.

    Raises:
        MixERValueError: A modality has images of fewer than three identities.
    """
    options = ProbeOptions() if options is None else options
    known, values = (value.to(x.device) for value in (factors.known, factors.values))
    found = []
    for m, name in enumerate(("visible", "infrared")):
        own = ((images.modality == m) & known).nonzero().flatten()
        if not len(own):
            continue
        rows = own[spread_rows(images.ids[own], options.images, options.seed)]
        folds = identity_folds(images.ids[rows], options.folds, options.seed)
        for group in GROUPS:
            columns = [i for i, of in enumerate(factors.groups) if of == group]
            explained = explained_variance(x[rows], values[rows][:, columns], folds, equal=True)
            found.append(
                FactorProbe(
                    group=group,
                    images=name,
                    shown=group in ("shared", "nuisance", name),
                    r2=explained.total,
                    factors={
                        factors.names[i]: float(value)
                        for i, value in zip(columns, explained.each, strict=True)
                    },
                    count=len(rows),
                )
            )
    return found


def _read_card(root: Path) -> tuple[SyntheticConfig, str]:
    path = root / CARD
    try:
        card = json.loads(read_text(path))
        config = SyntheticConfig.from_dict(card["config"])
        same = card["version"] == VERSION and card["digest"] == digest(config)
        layout = str(card.get("layout", "sysu"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MixERValueError(
            f"{path} cannot be read as the generator's own ({error}); give the folder of a data "
            "set that mixer-plugin synth wrote."
        ) from error
    if not same:
        raise MixERValueError(
            f"{path} is of another version of the generator, whose factors are not known here; "
            "write the data set anew."
        )
    return config, layout


def _find(path: str, rows_of: dict[str, int]) -> int:
    """The row of an image, by the longest end of its path that the data set has."""
    parts = PurePath(path).parts
    for start in range(max(0, len(parts) - 4), len(parts)):
        row = rows_of.get("/".join(parts[start:]))
        if row is not None:
            return row
    raise MixERValueError(
        f"{path} is not an image of this generated data set; give the root that the features were "
        "extracted from."
    )
