"""The work of ``mixer-plugin convert``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mixer_plugin.checkpoints import CheckpointParts, split_checkpoint
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.atomic_write import atomic_write


def run_convert(options: argparse.Namespace) -> int:
    """Says what a checkpoint holds and writes its parts.

    Raises:
        MixERError: A part that is asked for is not there, a file would be replaced, or the
            checkpoint cannot be read.
        OSError: A file cannot be read or written.
    """
    asked = {"base": options.base, "mixer": options.mixer}
    targets = {name: Path(value) for name, value in asked.items() if value is not None}
    _check(options, targets)
    parts = split_checkpoint(options.checkpoint, key=options.key)
    print(f"{options.checkpoint}: {parts}")
    for name in targets:
        if not getattr(parts, name):
            raise MixERValueError(
                f"{options.checkpoint} has no tensor of {_called(name)}; leave out --{name}."
            )
    container = None if options.plain else options.under or parts.container
    for name, target in targets.items():
        _write(parts, name, target, container)
    return 0


def _check(options: argparse.Namespace, targets: dict[str, Path]) -> None:
    """Refuses what cannot be meant, before a large file is read."""
    if options.plain and options.under:
        raise MixERValueError("--plain writes under no key, --under under one; give one of them.")
    if not targets and (options.plain or options.under or options.overwrite):
        raise MixERValueError(
            "--plain, --under and --overwrite say how a part is written; give --base or --mixer."
        )
    places = [Path(options.checkpoint).resolve(), *(path.resolve() for path in targets.values())]
    if len(set(places)) < len(places):
        raise MixERValueError("The checkpoint, --base and --mixer must be different files.")
    there = [str(path) for path in targets.values() if path.exists()]
    if there and not options.overwrite:
        raise MixERValueError(
            f"{', '.join(there)} would be replaced. Add --overwrite, or give another name."
        )


def _write(parts: CheckpointParts, name: str, target: Path, container: str | None) -> None:
    content = parts.under(getattr(parts, name), container)
    with atomic_write(target) as file:
        torch.save(content, file)
    where = "a plain state dict" if container is None else f"under {container!r}"
    print(f"{target}: {len(getattr(parts, name))} tensors of {_called(name)}, {where}")


def _called(name: str) -> str:
    return {"base": "the base", "mixer": "MixER"}[name]
