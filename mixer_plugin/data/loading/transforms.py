"""The short training recipe; normalisation, crops, recolouring and boxes for all recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.io.options import check_options, option

FILLS: dict[str, Sequence[float] | None] = {
    "zero": (0, 0, 0),
    "grey": (127, 127, 127),
    "symmetric": None,
}
"""What padding adds, per channel, of 255; None mirrors the image."""


class Normalisation(Protocol):
    """Anything with a mean and a standard deviation per channel, of pixels in [0, 1]."""

    @property
    def mean(self) -> tuple[float, float, float]: ...  # noqa: D102

    @property
    def std(self) -> tuple[float, float, float]: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The short training recipe: crop and flip, grey, normalisation, erasing.

    Attributes:
        flip: Probability of a horizontal flip. 0 for the synthetic sets, where the direction of the
            stripes is an identity cue.
        pad: Pixels added on every side before a random crop back to the size.
        pad_mode: What is added: ``zero`` (black), ``symmetric`` (mirrored, the edge included) or
            ``mean`` (0 after normalisation).
        grey: ``none``; ``channel``: one channel, chosen evenly, is copied to all three; ``mix``: a
            visible image becomes a random convex mix of its channels, copied to all three.
        grey_p: Probability that an image is changed so. Default (None): 3/11 for ``channel``, as
            SAAI (Fang et al., ICCV 2023) draws it, and 0.5 for ``mix``.
        erase: Probability that a rectangle is erased (Zhong et al., AAAI 2020).
        erase_area: Smallest and largest share of the image's area that it takes.
        erase_value: ``grey`` (mid grey), ``random`` (standard normal per pixel, after
            normalisation) or ``mean`` (0 after normalisation).
        mean: Per channel, subtracted after scaling to [0, 1].
        std: Per channel, divided by.

    Raises:
        MixERValueError: A value is out of its range.

    Example:
        >>> Augmentation(flip=0.0, erase=0.5, erase_value="mean").pad
        10
    """

    flip: float = option(0.5, noun="a probability", minimum=0, maximum=1)
    pad: int = option(10, noun="a number of pixels", minimum=0)
    pad_mode: str = option("zero", choices=("zero", "symmetric", "mean"))
    grey: str = option("none", choices=("none", "channel", "mix"))
    grey_p: float | None = option(None, noun="a probability", minimum=0, maximum=1)
    erase: float = option(0.0, noun="a probability", minimum=0, maximum=1)
    erase_area: tuple[float, float] = option((0.02, 0.4), noun="a share", above=0, maximum=1)
    erase_value: str = option("grey", choices=("grey", "random", "mean"))
    mean: tuple[float, float, float] = option((0.485, 0.456, 0.406))
    std: tuple[float, float, float] = option((0.229, 0.224, 0.225), above=0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.grey_p is not None and self.grey == "none":
            raise MixERValueError(
                "grey_p has no effect with grey='none'. Choose grey='channel' or grey='mix'."
            )
        if self.erase_area[0] > self.erase_area[1]:
            raise MixERValueError(
                f"erase_area must be two shares with low <= high, got {self.erase_area!r}."
            )

    def for_shapes(self) -> Augmentation:
        """The augmentation of body shapes, which are grey already."""
        return dataclasses.replace(self, grey="none", grey_p=None)

    def __call__(self, images: Tensor, modality: Tensor, generator: Generator) -> Tensor:
        """Augments and normalises a batch; every image draws on its own.

        Args:
            images: uint8 [B, 3, H, W].
            modality: int64 [B], 0 visible, 1 infrared; only ``grey='mix'`` looks at it.
            generator: Source of all random numbers.

        Returns:
            float32 [B, 3, H, W] on the device of ``images``.

        Raises:
            MixERTypeError: ``images`` is not uint8.
            MixERValueError: A shape does not fit, or the mirrored padding is wider than the image.
        """
        check_batch(images, modality)
        # One draw of fixed width per image: switching one step off leaves the others' draws alone.
        draws = torch.rand(len(images), 12, generator=generator, device=generator.device)
        draws = draws.to(images.device)
        top, left = (draws[:, :2] * (2 * self.pad + 1)).long().unbind(1)
        means = torch.tensor(self.mean).mul(255).round().tolist()
        fill = means if self.pad_mode == "mean" else FILLS[self.pad_mode]
        result = crop(images, top, left, self.pad, fill, flipped=draws[:, 2] < self.flip)
        if self.grey != "none":
            self._grey(result, modality.to(images.device), draws[:, 3:7])
        result = normalise(result, self)
        if self.erase > 0:
            self._erase(result, draws[:, 7:], generator)
        return result

    def _grey(self, images: Tensor, modality: Tensor, draws: Tensor) -> None:
        chance = {"channel": 3 / 11, "mix": 0.5}[self.grey] if self.grey_p is None else self.grey_p
        chosen = draws[:, 0] < chance
        if self.grey == "channel":
            channels = (draws[:, 1] * 3).long().clamp_(max=2)
            recolour(images, chosen, lambda rows: images[rows, channels[rows]])
            return
        # Normalised exponentials are uniform over all convex mixes.
        weights = -torch.log1p(-draws[:, 1:4])
        weights = (weights / weights.sum(1, keepdim=True).clamp_min(1e-12))[:, :, None, None]

        def mixed(rows: Tensor) -> Tensor:
            return (images[rows] * weights[rows]).sum(1).round_().clamp_(0, 255).to(torch.uint8)

        recolour(images, chosen & (modality == 0), mixed)

    def _erase(self, images: Tensor, draws: Tensor, generator: Generator) -> None:
        rows = (draws[:, 0] < self.erase).nonzero().flatten()
        _, _, height, width = images.shape
        low, high = self.erase_area
        area = (low + (high - low) * draws[rows, 1]) * (height * width)
        aspect = torch.exp((2 * draws[rows, 2] - 1) * 1.2)  # height : width from 0.3 to 3.3
        tall = torch.sqrt(area * aspect).round().clamp(1, height)
        wide = (area / tall).round().clamp(1, width)
        # A rectangle cut off at the width grows in height, so that its area stays as drawn.
        tall = (area / wide).round().clamp(1, height)
        top = ((height - tall + 1) * draws[rows, 3]).floor()
        left = ((width - wide + 1) * draws[rows, 4]).floor()
        boxes = torch.stack([top, left, tall, wide], 1).long()
        shape = (len(rows), 3, height, width)
        if self.erase_value == "random":
            values = torch.randn(shape, generator=generator, device=generator.device)
        elif self.erase_value == "grey":
            grey = [(0.5 - m) / s for m, s in zip(self.mean, self.std, strict=True)]
            values = torch.tensor(grey).view(1, 3, 1, 1)
        else:
            values = torch.zeros(1)
        values = values.to(images.device).expand(shape)
        erased = boxes_of((images[row] for row in rows.tolist()), boxes)
        for box, value in zip(erased, boxes_of(values, boxes), strict=True):
            box.copy_(value)


def normalise(images: Tensor, config: Normalisation) -> Tensor:
    """Scales images to [0, 1] and normalises them.

    Args:
        images: uint8 [B, 3, H, W].
        config: Its ``mean`` and ``std`` are used.

    Returns:
        float32 [B, 3, H, W] on the same device.

    Raises:
        MixERTypeError: ``images`` is not uint8.
        MixERValueError: ``images`` is not [B, 3, H, W].
    """
    check_batch(images)
    device = images.device
    scale = torch.tensor([1 / (255 * s) for s in config.std], device=device)
    shift = [m / s for m, s in zip(config.mean, config.std, strict=True)]
    result = images.float().mul_(scale.view(1, 3, 1, 1))
    return result.sub_(torch.tensor(shift, device=device).view(1, 3, 1, 1))


def crop(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    pad: int,
    fill: Sequence[float] | None,
    flipped: Tensor | None = None,
) -> Tensor:
    """Pads images on every side and crops them back to their size, into a new tensor.

    Args:
        images: uint8 [B, C, H, W].
        top: int64 [B], first row of each crop in the padded image; on any device.
        left: int64 [B], first column.
        pad: Pixels added on every side.
        fill: One of ``FILLS``.
        flipped: bool [B], which crops are mirrored left to right.
    """
    batch, channels, height, width = images.shape
    rows = top[:, None] + torch.arange(height, device=top.device)
    cols = left[:, None] + torch.arange(width, device=top.device)
    if flipped is not None:
        cols = torch.where(flipped[:, None], cols.flip(1), cols)
    padded = images
    if fill is None:
        if pad > min(height, width):
            raise MixERValueError(
                f"Mirrored padding ('symmetric') needs pad <= image size, got pad {pad} and "
                f"{height} x {width} images."
            )
        rows, cols = _reflected(rows - pad, height), _reflected(cols - pad, width)
    else:
        padded = images.new_full((batch, channels, height + 2 * pad, width + 2 * pad), fill[0])
        for channel in range(1, channels):
            if fill[channel] != fill[0]:
                padded[:, channel] = fill[channel]
        padded[..., pad : pad + height, pad : pad + width] = images
    # Whole rows are copied first, then the columns of each row are chosen: one general indexing of
    # rows and columns together takes three times as long.
    plane = torch.arange(batch * channels, device=top.device).view(batch, channels, 1)
    lines = (plane * padded.shape[2] + rows[:, None, :]).reshape(-1)
    taken = padded.reshape(-1, padded.shape[3]).index_select(0, beside(lines, images))
    cols = beside(cols, images)[:, None, None, :].expand(batch, channels, height, width)
    return taken.view(batch, channels, height, -1).gather(3, cols)


def _reflected(index: Tensor, size: int) -> Tensor:
    """Indices from -size to 2 * size - 1, mirrored at the edges into [0, size)."""
    index = torch.where(index < 0, -index - 1, index)
    return torch.where(index >= size, 2 * size - 1 - index, index)


def recolour(images: Tensor, chosen: Tensor, plane: Callable[[Tensor], Tensor]) -> None:
    """Puts ``plane(rows)`` [n, H, W] into all channels of the n chosen images, in place."""
    rows = beside(chosen.nonzero().flatten(), images)
    images.index_copy_(0, rows, plane(rows)[:, None].expand(-1, 3, -1, -1))


def boxes_of(images: Iterable[Tensor], boxes: Tensor) -> Iterator[Tensor]:
    """The part of each image [3, H, W] in its box (top, left, height, width) if not empty."""
    for image, (top, left, tall, wide) in zip(images, boxes.tolist(), strict=True):
        if tall:
            yield image[:, top : top + tall, left : left + wide]


def beside(small: Tensor, images: Tensor) -> Tensor:
    """A tensor on the device of the images; never waits for the device."""
    return small.to(images.device, non_blocking=True)


def check_batch(images: Tensor, modality: Tensor | None = None) -> None:
    """Raises unless images are uint8 [B, 3, H, W] and modality, if given, is [B]."""
    if images.dtype != torch.uint8:
        raise MixERTypeError(
            f"images must be uint8 in [0, 255], got {images.dtype}. Normalisation is done here."
        )
    if images.ndim != 4 or images.shape[1] != 3:
        raise MixERValueError(f"images must be [B, 3, H, W], got {tuple(images.shape)}.")
    if modality is not None and modality.shape != images.shape[:1]:
        raise MixERValueError(
            f"modality must have shape ({len(images)},), got {tuple(modality.shape)}."
        )
