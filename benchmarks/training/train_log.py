"""Scalars of a training run, as JSON lines or for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixer_plugin.errors import MissingExtraError


def open_log(kind: str, folder: Path, name: str, start: int) -> JsonLines | TensorBoardLog | None:
    """The log of a run.

    Args:
        kind: ``jsonl`` (``<name>.log.jsonl``), ``tensorboard`` (``tensorboard/<name>``) or
            ``none``.
        folder: where; must be there.
        name: of the run.
        start: steps already made: what was logged after them, before an interruption, is dropped.

    Raises:
        MissingExtraError: if TensorBoard is asked for and not installed.
    """
    if kind == "none":
        return None
    if kind == "tensorboard":
        return TensorBoardLog(folder / "tensorboard" / name, start)
    return JsonLines(folder / f"{name}.log.jsonl", start)


class JsonLines:
    """One JSON object a record, with its step, counted from 1."""

    def __init__(self, path: Path, start: int) -> None:
        kept = []
        if start and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _step(line) <= start]
        self._file = path.open("w", encoding="utf-8")
        self._file.writelines(kept)
        self._file.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends a line."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _step(line: str) -> int:
    return int(json.loads(line)["step"])


def summary_writer() -> Any:
    """TensorBoard's writer class; raises :class:`MissingExtraError` where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "bench", "training.log: tensorboard") from error
    return SummaryWriter


class TensorBoardLog:
    """An event file, by ``torch.utils.tensorboard``."""

    def __init__(self, folder: Path, start: int) -> None:
        writer = summary_writer()
        self._writer = writer(str(folder), purge_step=start + 1 if start else None)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One curve per scalar."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is buffered."""
        self._writer.close()
