"""Reads files of ``torch.save`` that hold only tensors and plain values; runs no code."""

from __future__ import annotations

import mmap
import os
import pickletools
import re
from typing import Any

import torch

from mixer_plugin.errors import MixERError, MixERValueError
from mixer_plugin.io.numpy_pickle import numpy_globals


def read_torch_file(
    path: str | os.PathLike[str],
    what: str,
    advice: str = "",
    error: type[MixERError] = MixERValueError,
) -> Any:
    """The content of a file, on the CPU: tensors, plain values, NumPy numbers and arrays.

    PyTorch's own unpickler decides what is safe (``weights_only=True``).

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
        _check_sizes(path)
        with torch.serialization.safe_globals(numpy_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as found:  # whatever the unpickler makes of other bytes
        if isinstance(found, OSError) and found.filename is not None:
            raise
        raise error(
            f"{path} cannot be read as {what} ({_reason(found)}). {advice}".strip()
        ) from found


def _check_sizes(path: str | os.PathLike[str]) -> None:
    """``ValueError`` for tensors larger than the file, in the format before PyTorch 1.6.

    Its reader takes their memory before it looks for their bytes.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if file.read(4) == b"PK\3\4":
            return
        # Mapped: a file gives memory to as many bytes as a text in it claims to have.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for _ in range(5):  # magic number, version, system, what was saved, names of its data
                last = 0
                for opcode, value, _ in pickletools.genops(content):  # type: ignore[arg-type]
                    if isinstance(value, int):
                        last = value
                    elif opcode.name == "BINPERSID" and last > size:  # its number of elements
                        raise ValueError(f"it holds {size} bytes, and a tensor of {last} elements")


def _reason(found: Exception) -> str:
    """PyTorch's reason, without its advice to run what the file holds."""
    if held := re.search(r"GLOBAL (\S+)", str(found)):
        return f"it holds {held[1]}, and loading that would run code"
    if isinstance(found, RuntimeError):  # of the zip archive
        return str(found).split(". ")[0].splitlines()[0]
    if isinstance(found, MemoryError) or "tensor of" in str(found):
        return str(found) or "it asks for more memory than there is"
    return "it is not a file of torch.save, or damaged"
