"""The work of ``mixer-plugin extract``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from mixer_plugin.commands import advice_if_interrupted
from mixer_plugin.commands.shared.model import given_once, refuse_options
from mixer_plugin.commands.shared.reading import load_model, read_options
from mixer_plugin.commands.shared.telling import progress, show
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.layouts import LAYOUTS, read_images, recognise, whole_layout
from mixer_plugin.data.datasets.own_images import OwnImages, read_own_images
from mixer_plugin.distributed.device import device_trouble
from mixer_plugin.distributed.processes import process_group
from mixer_plugin.errors import MixERValueError
from mixer_plugin.extraction import extract_to_file
from mixer_plugin.features.growing_file import check_target, part_folder

_OF_LAYOUTS = ("split", "layout", "trial")
_OF_OWN = ("modality", "cameras")


def run_extract(options: argparse.Namespace) -> int:
    """Extracts the features of images and writes them.

    Raises:
        MixERError: Options do not fit together, or the model or the images are not what they
            should be.
        OSError: A file cannot be read or written.
    """
    _check(options)
    threads = {"batch": options.batch, "workers": options.workers}
    read_options(options, **threads)
    check_target(Path(options.out))
    found, reading = load_model(options, **threads)
    own = _images(options, found.built)
    images = own.images
    advice = f"Finished images are in {part_folder(Path(options.out))}; the same command continues."
    with advice_if_interrupted(advice), process_group(options.device) as share:
        widths = extract_to_file(
            found.model.to(options.device),
            images,
            options.out,
            reading=reading,
            bare=found.bare,
            output=found.output,
            adapter=found.adapter,
            times=own.times,
            progress=progress(options, "extracted") if share.index == 0 else None,
        )
        if share.index == 0:
            facts = _facts(images, widths)
            show(options, f"{options.out}: {_summary(facts)}", {"file": options.out, **facts})
    return 0


def _check(options: argparse.Namespace) -> None:
    """Brings both forms to one and refuses options that exclude each other, before any work."""
    options.as_layout = options.root is not None
    given_once(options, "model", "checkpoint")
    given_once(options, "images", "root")
    if trouble := device_trouble(options.device):
        raise MixERValueError(trouble)


def _images(options: argparse.Namespace, built: Any) -> OwnImages:
    """The images: of a data set where the folder is one or is said to be, else one's own."""
    root = Path(options.images)
    if options.as_layout or options.layout or whole_layout(root) is not None:
        refuse_options(options, _OF_OWN, f"{root} is read as a data set, whose layout says it")
        return OwnImages(_of_layout(options, built))
    refuse_options(options, _OF_LAYOUTS, f"{root} is no data set in a released layout")
    given: dict[str, Any] = {name: getattr(options, name) for name in _OF_OWN}
    given |= {"workers": max(options.workers, 1), "progress": progress(options, "looked-at")}
    try:
        return read_own_images(root, **given)
    except MixERValueError as error:
        layout = recognise(root)[0] if root.is_dir() else None
        if layout is None:
            raise
        raise MixERValueError(
            f"{error} It also has parts of {LAYOUTS[layout].name}: if it is that, give "
            f"--layout {layout}, which says what is missing."
        ) from error


def _of_layout(options: argparse.Namespace, built: Any) -> ImageList:
    layout = {"layout": options.layout, "trial": options.trial}
    split = options.split or "test"
    if built is None:
        return read_images(options.images, split, **layout)
    from mixer_plugin.benchmarks.experiment.images import images_of

    return images_of(options.model, built, options.images, split, **layout)[0]


def _facts(images: ImageList, widths: dict[str, int | None]) -> dict[str, Any]:
    return {
        "images": len(images),
        "erased": widths["erased"],
        "related": widths["related"],
        "identities": len(np.unique(images.ids[images.ids >= 0])),
        "unknown": int((images.ids < 0).sum()),
        "cameras": len(np.unique(images.cams)),
        "infrared": int(images.modality.sum()),
    }


def _summary(facts: dict[str, Any]) -> str:
    unknown = f" ({facts['unknown']} images of unknown persons)" if facts["unknown"] else ""
    return (
        f"{facts['images']} images, erased {facts['erased']}, "
        f"related {facts['related'] or 'none'}, {facts['identities']} identities{unknown}, "
        f"{facts['cameras']} cameras, {facts['infrared']} infrared"
    )
