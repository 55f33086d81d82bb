"""Files of ``torch.save``: read without running code, their position embeddings resized."""

from __future__ import annotations

import math
import mmap
import os
import pickletools
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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


def resized_positions(name: str, value: Tensor, places: int, grid: tuple[int, int]) -> Tensor:
    """A position embedding for a grid of patches, resized bicubically from a square of them.

    As Dosovitskiy et al. (ICLR 2021, sec. 3.2) fine-tune at another size. What stands before the
    patches, such as the class token, stays.

    Args:
        name: what messages call it.
        value: [..., N, D], places of at most two tokens, then those of a square of patches.
        places: number of places that the model has.
        grid: (rows, columns) of the model's patches, the last of its places.

    Returns:
        [..., places, D] in the value's dtype.

    Raises:
        MixERValueError: if the numbers of places are not so.
    """
    rows, columns = grid
    before = places - rows * columns
    patches = value.shape[-2] - before
    side = math.isqrt(max(patches, 0))
    if not 0 <= before <= 2 or side * side != patches or not side:
        raise MixERValueError(
            f"{name!r} cannot be resized to {rows} × {columns} patches: the model has {places} "
            "places, expected those patches and at most two tokens before them; the checkpoint "
            f"has {value.shape[-2]}, expected a square of patches after as many tokens. "
            "Nothing was loaded."
        )
    square = value[..., before:, :].reshape(-1, side, side, value.shape[-1]).permute(0, 3, 1, 2)
    found = F.interpolate(square.float(), size=grid, mode="bicubic", align_corners=False)
    resized = found.flatten(2).transpose(1, 2).reshape(*value.shape[:-2], -1, value.shape[-1])
    return torch.cat([value[..., :before, :], resized.to(value.dtype)], dim=-2)


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
