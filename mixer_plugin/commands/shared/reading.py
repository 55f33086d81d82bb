"""How a command reads images for its model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mixer_plugin.commands.shared.arguments import size_of
from mixer_plugin.commands.shared.model import NamedModel, check_model, find_model
from mixer_plugin.extraction import Reading


def load_model(options: argparse.Namespace, **known: Any) -> tuple[NamedModel, Reading]:
    """The model, and how its images are read, with what is known of that besides.

    Raises:
        MixERError: Options do not fit together, or the model is not what it should be.
        OSError: A file cannot be read.
    """
    check_model(options)
    if not Path(options.model).is_file():
        reading = read_options(options, **known)
        return find_model(options), reading
    found = find_model(options)
    built = found.built
    shape = {"size": built.image_size, "mean": built.mean, "std": built.std}
    return found, read_options(options, **shape, **known)


def read_options(options: argparse.Namespace, **known: Any) -> Reading:
    """How images are read, with what is known besides.

    Raises:
        MixERValueError: An option is out of range.
    """
    given: dict[str, Any] = {"precision": options.precision}
    given |= {n: tuple(v) for n in ("mean", "std") if (v := getattr(options, n)) is not None}
    if options.size is not None:
        given["size"] = size_of(options.size)
    return Reading(**given, **known)
