"""Augmentation of a whole batch at once, from one generator; the normalisation of evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin.config import check_options, option
from mixer_plugin.errors import MixERTypeError, MixERValueError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Training augmentation.

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


class Normalisation(Protocol):
    """Anything with a mean and a standard deviation per channel, of pixels in [0, 1]."""

    @property
    def mean(self) -> tuple[float, float, float]: ...  # noqa: D102

    @property
    def std(self) -> tuple[float, float, float]: ...  # noqa: D102


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
    check_images(images)
    scale = torch.tensor([1 / (255 * s) for s in config.std], device=images.device)
    shift = torch.tensor(
        [m / s for m, s in zip(config.mean, config.std, strict=True)], device=images.device
    )
    result = images.float()
    return result.mul_(scale.view(1, 3, 1, 1)).sub_(shift.view(1, 3, 1, 1))


def augment(
    images: Tensor, modality: Tensor, generator: torch.Generator, config: Augmentation
) -> Tensor:
    """Augments and normalises a batch; every image draws on its own.

    Order: crop and flip, grey, normalisation, erasing.

    Args:
        images: uint8 [B, 3, H, W].
        modality: int64 [B], 0 visible, 1 infrared; only ``grey='mix'`` looks at it.
        generator: Source of all random numbers.
        config: What to do.

    Returns:
        float32 [B, 3, H, W] on the device of ``images``.

    Raises:
        MixERTypeError: ``images`` is not uint8.
        MixERValueError: A shape does not fit, or the mirrored padding is wider than the image.
    """
    check_images(images)
    if modality.shape != images.shape[:1]:
        raise MixERValueError(
            f"modality must have shape ({len(images)},), got {tuple(modality.shape)}."
        )
    # One draw of fixed width per image: switching one step off leaves the others' draws alone.
    draws = torch.rand(len(images), 12, generator=generator, device=generator.device)
    draws = draws.to(images.device)
    mean = torch.tensor(config.mean, device=images.device).mul(255).round().to(torch.uint8)
    images = _crop_and_flip(images, draws[:, :3], mean, config)
    if config.grey != "none":
        images = _grey(images, modality.to(images.device), draws[:, 3:7], config)
    result = normalise(images, config)
    if config.erase > 0:
        _erase(result, draws[:, 7:12], generator, config)
    return result


def check_images(images: Tensor) -> None:
    """Raises unless images are uint8 [B, 3, H, W]."""
    if images.dtype != torch.uint8:
        raise MixERTypeError(
            f"images must be uint8 in [0, 255], got {images.dtype}. Normalisation is done here."
        )
    if images.ndim != 4 or images.shape[1] != 3:
        raise MixERValueError(f"images must be [B, 3, H, W], got {tuple(images.shape)}.")


def _crop_and_flip(images: Tensor, draws: Tensor, mean: Tensor, config: Augmentation) -> Tensor:
    batch, channels, height, width = images.shape
    padded = _pad(images, mean, config)
    device = images.device
    moves = 2 * config.pad + 1
    rows = torch.arange(height, device=device) + (draws[:, :1] * moves).long()
    cols = torch.arange(width, device=device) + (draws[:, 1:2] * moves).long()
    cols = torch.where(draws[:, 2:3] < config.flip, cols.flip(1), cols)
    # Whole rows are copied first, then the columns of each row are chosen: one general indexing of
    # rows and columns together takes three times as long.
    plane = torch.arange(batch * channels, device=device).view(batch, channels, 1)
    lines = (plane * padded.shape[2] + rows[:, None, :]).reshape(-1)
    taken = padded.view(-1, padded.shape[3]).index_select(0, lines)
    taken = taken.view(batch, channels, height, -1)
    return taken.gather(3, cols[:, None, None, :].expand(batch, channels, height, width))


def _pad(images: Tensor, mean: Tensor, config: Augmentation) -> Tensor:
    batch, _, height, width = images.shape
    pad = config.pad
    if config.pad_mode == "zero" or pad == 0:
        return F.pad(images, (pad, pad, pad, pad)).contiguous()
    if config.pad_mode == "symmetric":
        if pad > min(height, width):
            raise MixERValueError(
                f"pad_mode 'symmetric' needs pad <= image size, got pad {pad} and "
                f"{height} x {width} images."
            )
        rows, cols = (
            reflected(torch.arange(-pad, size + pad, device=images.device), size)
            for size in (height, width)
        )
        return images.index_select(2, rows).index_select(3, cols)
    padded = mean.view(1, 3, 1, 1).repeat(batch, 1, height + 2 * pad, width + 2 * pad)
    padded[:, :, pad : pad + height, pad : pad + width] = images
    return padded


def reflected(index: Tensor, size: int) -> Tensor:
    """Indices from -size to 2 * size - 1, mirrored at the edges into [0, size)."""
    index = torch.where(index < 0, -index - 1, index)
    return torch.where(index >= size, 2 * size - 1 - index, index)


def _grey(images: Tensor, modality: Tensor, draws: Tensor, config: Augmentation) -> Tensor:
    if config.grey == "channel":
        chance = 3 / 11 if config.grey_p is None else config.grey_p
        chosen = draws[:, 0] < chance
        weights = F.one_hot((draws[:, 1] * 3).long().clamp_(max=2), 3).float()
    else:
        chance = 0.5 if config.grey_p is None else config.grey_p
        chosen = (draws[:, 0] < chance) & (modality == 0)
        # Normalised exponentials are uniform over all convex mixes.
        weights = -torch.log1p(-draws[:, 1:4])
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
    rows = chosen.nonzero().flatten()
    mixed = (images[rows] * weights[rows][:, :, None, None]).sum(1)
    grey = mixed.round_().clamp_(0, 255).to(torch.uint8)
    return images.index_copy_(0, rows, grey[:, None].expand(-1, 3, -1, -1))


def _erase(images: Tensor, draws: Tensor, generator: torch.Generator, config: Augmentation) -> None:
    rows = (draws[:, 0] < config.erase).nonzero().flatten()
    _, _, height, width = images.shape
    device = images.device
    low, high = config.erase_area
    area = (low + (high - low) * draws[rows, 1]) * (height * width)
    aspect = torch.exp((2 * draws[rows, 2] - 1) * 1.2)  # height : width from 0.3 to 3.3
    tall = torch.sqrt(area * aspect).round().clamp(1, height)
    wide = (area / tall).round().clamp(1, width)
    # A rectangle cut off at the width grows in height, so that its area stays as drawn.
    tall = (area / wide).round().clamp(1, height)
    top = ((height - tall + 1) * draws[rows, 3]).floor()[:, None]
    left = ((width - wide + 1) * draws[rows, 4]).floor()[:, None]
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    inside = ((y >= top) & (y < top + tall[:, None]))[:, :, None]
    inside = inside & ((x >= left) & (x < left + wide[:, None]))[:, None, :]
    if config.erase_value == "random":
        shape = (len(rows), 3, height, width)
        value = torch.randn(shape, generator=generator, device=generator.device).to(device)
    elif config.erase_value == "grey":
        value = torch.tensor(
            [(0.5 - m) / s for m, s in zip(config.mean, config.std, strict=True)], device=device
        ).view(1, 3, 1, 1)
    else:
        value = torch.zeros(1, device=device)
    mask = inside[:, None].float()
    images.index_copy_(0, rows, images[rows] * (1 - mask) + value * mask)
