"""Reads files of ``torch.save`` that hold only tensors and plain values; runs no code."""

from __future__ import annotations

import os
from typing import Any

import torch

from mixer_plugin.errors import MixERError, MixERValueError


def read_torch_file(
    path: str | os.PathLike[str],
    what: str,
    advice: str = "",
    error: type[MixERError] = MixERValueError,
) -> Any:
    """The content of a file, on the CPU.

    Args:
        path: the file.
        what: what it should be, with its article, such as ``a checkpoint``.
        advice: what to do if it is not.
        error: what is then raised.

    Raises:
        MixERError: the one given, for a file that is cut off, damaged, or holds code.
        OSError: if it cannot be opened.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as found:  # whatever the unpickler makes of other bytes
        reason = (str(found).splitlines() or [type(found).__name__])[0]
        raise error(f"{path} cannot be read as {what} ({reason}). {advice}".strip()) from found
