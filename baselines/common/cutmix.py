"""CutMix across modalities: patches of infrared images in visible ones, and the reverse."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Cut(NamedTuple):
    """The box and the partners of a mixed batch.

    Attributes:
        rows: of the images.
        columns: of the images.
        partners: [B] int64, which row of the other modality each row's patch is taken from.
    """

    rows: slice
    columns: slice
    partners: Tensor

    def share(self, height: int, width: int) -> float:
        """Share of an image that stays its own."""
        area = (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)
        return 1 - area / (height * width)

    def paste(self, images: Tensor) -> Tensor:
        """Images [2B, 3, H, W], visible, then infrared, with patches of the other modality."""
        visible, infrared = images.chunk(2)
        others = torch.cat([infrared[self.partners], visible[self.partners]])
        mixed = images.clone()
        mixed[:, :, self.rows, self.columns] = others[:, :, self.rows, self.columns]
        return mixed


def draw_cut(pairs: int, height: int, width: int) -> Cut:
    """A box of uniform area around a uniform centre, cut off at the border, and a permutation.

    CutMix (Yun et al., 2019) with Beta(1, 1), from PyTorch's global random state.
    """
    side = float(torch.rand(()).sqrt())  # the root of 1 - lambda, which is uniform too
    box = []
    for size in (height, width):
        center, reach = int(torch.randint(size, ())), int(size * side) // 2
        box.append(slice(max(center - reach, 0), min(center + reach, size)))
    return Cut(box[0], box[1], torch.randperm(pairs))
