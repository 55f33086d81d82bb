"""The directions in which rows are longest: exact through a Gram matrix, or by random projections.

Both need the rows once in memory and at most 4,096 x 4,096 numbers (float64) or a few times
[D, count] (float32) beside them.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EXACT = 4096  # rows or columns up to which the Gram matrix is decomposed, seconds on two cores
_BLOCK = 4096
_SPARE = 64  # directions more than asked for, which make the random projections exact enough
_ROUNDS = 4


def leading_directions(rows: Tensor, count: int) -> Tensor:
    """The ``count`` leading right singular vectors of a matrix, the same for the same matrix.

    Args:
        rows: float32 [N, D], on the CPU.
        count: At most the smaller of N and D.

    Returns:
        float32 [D, count], orthonormal columns, the leading first; of each the entry of largest
        magnitude is positive.
    """
    images, width = rows.shape
    if min(images, width) <= _EXACT:
        directions = _by_gram(rows, count)
    else:
        spare = min(count + _SPARE, images, width)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            directions = torch.svd_lowrank(rows, spare, niter=_ROUNDS)[2][:, :count]
    largest = directions.abs().argmax(dim=0, keepdim=True)
    return (directions * directions.gather(0, largest).sign()).contiguous()


def _by_gram(rows: Tensor, count: int) -> Tensor:
    wide = rows.shape[1] > len(rows)
    product = rows.new_zeros((min(rows.shape),) * 2, dtype=torch.float64)
    for block in torch.split(rows, _BLOCK, dim=1 if wide else 0):
        part = block.double()
        product += part @ part.T if wide else part.T @ part
    found = torch.linalg.eigh(product).eigenvectors.flip(1)[:, :count]  # ascending
    if not wide:
        return found.float()
    # Of rank below N some columns are zeros but for rounding: QR replaces them by orthonormal ones.
    return torch.linalg.qr(rows.T @ found.float()).Q
