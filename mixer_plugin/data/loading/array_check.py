"""Compares the script family's training arrays with the images that they were made of."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.datasets.findings import Finding, fault_of
from mixer_plugin.data.datasets.layouts import detect_layout, read_images
from mixer_plugin.data.loading.script_arrays import (
    array_paths,
    in_array_order,
    read_script_arrays,
    resized,
    training_split,
)
from mixer_plugin.errors import MixERError

LEVELS = 2.0  # of 255, on average: what decoders of one image may differ by


def check_script_arrays(
    root: str | os.PathLike[str], layout: str | None = None, *, compared: int = 16
) -> list[Finding]:
    """Compares the training arrays in a data set's folder with its images.

    An altered ``pre_process_sysu.py`` leaves arrays that load, but hold other identities, another
    order, or images that were resized or cropped in another way.

    Args:
        root: folder of the data set.
        layout: ``sysu``, ``regdb`` or ``llcm``; None: by what is there.
        compared: images of each modality whose pixels are compared, spread evenly.

    Returns:
        For each modality a warning that names the first difference, or an info that there is none;
        an error where the arrays cannot be used. Empty where there are no arrays, or where the
        images cannot be read, which ``diagnose`` reports.
    """
    paths = array_paths(Path(root))
    if not any(path.exists() for pair in paths for path in pair):
        return []
    try:
        arrays = read_script_arrays(root)
    except MixERError as error:
        return [fault_of(error)]
    try:
        layout = layout or detect_layout(root)
        images = read_images(root, training_split(layout), layout=layout)
    except MixERError:
        return []
    fix = f"mixer-plugin arrays {root} --size {'x'.join(map(str, arrays.visible.shape[1:3]))}"
    findings = []
    both = ((arrays.visible, arrays.visible_labels), (arrays.infrared, arrays.infrared_labels))
    for modality, (pixels, given) in enumerate(both):
        rows = in_array_order(images, modality)
        name, labels = paths[modality][0].name, images.labels()[0][rows]
        sample = np.unique(np.linspace(0, len(rows) - 1, compared).astype(int)).tolist()
        if len(given) != len(rows):
            other = f"{len(given)} images, and {training_split(layout)} has {len(rows)}"
        elif (given != labels).any():
            row = int((given != labels).argmax())
            other = (
                f"label {given[row]} for row {row}; expected {labels[row]}, by ascending identity"
            )
        else:
            files = [(row, images.paths[rows[row]]) for row in sample]
            off = [(row, _difference(pixels[row], path, modality)) for row, path in files]
            off = [(row, levels) for row, levels in off if levels > LEVELS]
            other = (
                f"other pixels than the images in {len(off)} of {len(sample)} rows, in row "
                f"{off[0][0]} by {off[0][1]:.0f} levels of 255 on average (another order, crop or "
                "filter)"
                if off
                else ""
            )
        if other:
            findings.append(
                Finding("warning", f"{name} has {other}.", f"Write them anew: {fix} --overwrite.")
            )
        else:
            shape = " x ".join(map(str, pixels.shape[1:3]))
            findings.append(
                Finding("info", f"{name}: {len(rows)} images, {shape}; {len(sample)} compared.")
            )
    return findings


def _difference(pixels: NDArray[np.uint8], path: str, modality: int) -> float:
    """Mean difference in levels from the image; 0 where it cannot be read: ``diagnose`` says so."""
    try:
        own = resized(path, modality, (pixels.shape[0], pixels.shape[1]))
    except MixERError:
        return 0.0
    return float(np.abs(own.astype(np.int16) - pixels).mean())
