"""The augmentations of the public recipes: steps on whole batches, on any device.

torchvision's transforms draw once per batch; here every image draws on its own, and all draws but
the noise of random erasing are made on the CPU, so that a batch is cropped, flipped, recoloured and
erased alike on every device and no step waits for one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mixer_plugin.config import check_options, option
from mixer_plugin.data.loading.transforms import check_images, normalise, reflected
from mixer_plugin.errors import MixERValueError


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Pads every side and crops back to the size at an evenly drawn place.

    Attributes:
        pad: Pixels added on every side.
        mode: What is added: ``zero`` (black), ``grey`` (127 of 255), or ``symmetric`` (mirrored,
            the edge included).
    """

    pad: int = option(10, noun="a number of pixels", minimum=1)
    mode: str = option("zero", choices=("zero", "grey", "symmetric"))

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(self, images: Tensor, modality: Tensor, generator: Generator) -> Tensor:
        """uint8 [B, 3, H, W] to the same."""
        batch, channels, height, width = images.shape
        moves = torch.randint(2 * self.pad + 1, (2, batch, 1), generator=generator)
        rows = moves[0] + torch.arange(height)
        cols = moves[1] + torch.arange(width)
        if self.mode == "symmetric":
            if self.pad > min(height, width):
                raise MixERValueError(
                    f"mode 'symmetric' needs pad <= image size, got pad {self.pad} and "
                    f"{height} x {width} images."
                )
            padded = images
            rows, cols = reflected(rows - self.pad, height), reflected(cols - self.pad, width)
        else:
            value = 127 if self.mode == "grey" else 0
            padded = F.pad(images, (self.pad,) * 4, value=value)
        # Whole rows first, then the columns of each row: see transforms.py.
        plane = torch.arange(batch * channels).view(batch, channels, 1)
        lines = (plane * padded.shape[2] + rows[:, None, :]).reshape(-1)
        taken = padded.reshape(-1, padded.shape[3]).index_select(0, _on(lines, images))
        cols = _on(cols, images)[:, None, None, :].expand(batch, channels, height, width)
        return taken.view(batch, channels, height, -1).gather(3, cols)


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirrors images left to right with probability ``p``."""

    p: float = option(0.5, noun="a probability", minimum=0, maximum=1)

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(self, images: Tensor, modality: Tensor, generator: Generator) -> Tensor:
        """[B, 3, H, W] to the same."""
        rows = _on(_drawn(len(images), self.p, generator), images)
        return images.index_copy(0, rows, images[rows].flip(3))


@dataclass(frozen=True, kw_only=True)
class Colour:
    """Takes colour away; each image draws one of three cases.

    Luminance is Pillow's (ITU-R 601, rounded) before the normalisation, and the same weights
    applied to the normalised channels after it, as SGEIL does.

    Attributes:
        channel_copy: Probability that one channel, chosen evenly, is copied onto all three.
        grayscale: Probability that the luminance is put into all three; otherwise nothing changes.
        modality: Only images of this modality change (0 visible, 1 infrared). Default: both.
    """

    channel_copy: float = option(0.0, noun="a probability", minimum=0, maximum=1)
    grayscale: float = option(0.0, noun="a probability", minimum=0, maximum=1)
    modality: int | None = option(
        None, noun="a modality (0 visible, 1 infrared)", minimum=0, maximum=1
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.channel_copy + self.grayscale > 1:
            raise MixERValueError(
                f"channel_copy is {self.channel_copy} and grayscale is {self.grayscale}; their sum "
                "must be a probability in [0, 1]."
            )

    def __call__(self, images: Tensor, modality: Tensor, generator: Generator) -> Tensor:
        """uint8 or float [B, 3, H, W] to the same."""
        draws = torch.rand(len(images), generator=generator)
        channels = torch.randint(3, (len(images),), generator=generator)
        open_to = torch.ones_like(draws, dtype=torch.bool)
        if self.modality is not None:
            open_to = modality.cpu() == self.modality
        copied = open_to & (draws < self.channel_copy)
        grey = open_to & ~copied & (draws < self.channel_copy + self.grayscale)
        picked = _on(channels[copied], images)
        copies = _greyed(images, copied, lambda rows: images[rows, picked])
        return _greyed(copies, grey, lambda rows: _luminance(images[rows]))


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """Scales pixels to [0, 1], subtracts ``mean`` and divides by ``std``."""

    mean: tuple[float, float, float] = option((0.485, 0.456, 0.406))
    std: tuple[float, float, float] = option((0.229, 0.224, 0.225), above=0)

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(self, images: Tensor, modality: Tensor, generator: Generator) -> Tensor:
        """uint8 [B, 3, H, W] to float32."""
        return normalise(images, self)


@dataclass(frozen=True, kw_only=True)
class Erase:
    """Random erasing (Zhong et al., AAAI 2020) of normalised images.

    A rectangle of drawn area and aspect is tried until one is smaller than the image on both sides;
    after ``attempts`` failures the image stays as it is.

    Attributes:
        p: Probability that an image is tried.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest height : width.
        aspect: The ratio is drawn evenly in its logarithm (``log``, torchvision) or as it is
            (``even``, the script family's own class).
        attempts: 10 in torchvision, 100 in the script family.
        value: What is written: ``random`` (standard normal per pixel), or one number per channel,
            on the scale of normalised images.
    """

    p: float = option(0.5, noun="a probability", minimum=0, maximum=1)
    scale: tuple[float, float] = option((0.02, 0.33), noun="a share", above=0, maximum=1)
    ratio: tuple[float, float] = option((0.3, 3.3), above=0)
    aspect: str = option("log", choices=("log", "even"))
    attempts: int = option(10, minimum=1)
    value: str | tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.scale[0] > self.scale[1] or self.ratio[0] > self.ratio[1]:
            raise MixERValueError(
                "scale must be two shares and ratio two numbers, each with low <= high; got "
                f"{self.scale!r} and {self.ratio!r}."
            )
        if self.value != "random" and (isinstance(self.value, str) or len(self.value) != 3):
            raise MixERValueError(
                f"value must be 'random' or three numbers, one per channel; got {self.value!r}."
            )

    def __call__(self, images: Tensor, modality: Tensor, generator: Generator) -> Tensor:
        """float32 [B, 3, H, W] to the same."""
        boxes = self.boxes(len(images), images.shape[2], images.shape[3], generator).tolist()
        seed = int(torch.randint(2**31, (1,), generator=generator))
        result = images.clone()
        fill = self._fill(images, seed)
        for image, (top, left, tall, wide) in zip(result, boxes, strict=True):
            if tall:
                fill(image[:, top : top + tall, left : left + wide])
        return result

    def _fill(self, images: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
        if isinstance(self.value, str):
            noise = Generator(images.device).manual_seed(seed)
            return lambda box: box.normal_(generator=noise)
        value = _on(torch.tensor(self.value), images).view(3, 1, 1)
        return lambda box: box.copy_(value.expand_as(box))

    def boxes(self, batch: int, height: int, width: int, generator: Generator) -> Tensor:
        """int64 [B, 4] of top, left, height and width; all 0 where nothing is erased."""
        draws = torch.rand(batch, self.attempts, 2, generator=generator, dtype=torch.float64)
        last = torch.rand(batch, 3, generator=generator, dtype=torch.float64)
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * draws[..., 0]) * (height * width)
        low, high = torch.tensor(self.ratio, dtype=torch.float64)
        if self.aspect == "log":
            ratio = low * (high / low) ** draws[..., 1]
        else:
            ratio = low + (high - low) * draws[..., 1]
        tall, wide = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (tall < height) & (wide < width)
        first = fits.int().argmax(1, keepdim=True)
        tall, wide = tall.gather(1, first)[:, 0], wide.gather(1, first)[:, 0]
        top = ((height - tall + 1) * last[:, 1]).floor()
        left = ((width - wide + 1) * last[:, 2]).floor()
        erased = (last[:, 0] < self.p) & fits.any(1)
        return (torch.stack([top, left, tall, wide], 1) * erased[:, None]).long()


Step = Crop | Flip | Colour | Normalise | Erase


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Steps done one after the other on a batch.

    Attributes:
        steps: ``Crop`` comes before the one ``Normalise``, ``Erase`` after it, the others anywhere.
        shape_steps: Steps for the body shapes that SGEIL trains on beside the images; None for
            recipes without.

    Raises:
        MixERValueError: The steps do not fit together.
    """

    steps: tuple[Step, ...]
    shape_steps: tuple[Step, ...] | None = None

    def __post_init__(self) -> None:
        for steps in (self.steps, self.shape_steps):
            if steps is None:
                continue
            kinds = [type(step).__name__ for step in steps]
            if kinds.count("Normalise") != 1:
                raise MixERValueError(f"A pipeline has one Normalise step; got {kinds}.")
            middle = kinds.index("Normalise")
            if "Crop" in kinds[middle:] or "Erase" in kinds[:middle]:
                raise MixERValueError(
                    "Crop comes before Normalise (its fill is in pixels), Erase after it; "
                    f"got {kinds}."
                )

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of the ``Normalise`` step, for ``data.loading.transforms.normalise``."""
        return self._normalise.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Of its ``Normalise`` step."""
        return self._normalise.std

    @property
    def _normalise(self) -> Normalise:
        return next(step for step in self.steps if isinstance(step, Normalise))

    def for_shapes(self) -> Pipeline:
        """The pipeline of the body shapes.

        Raises:
            MixERValueError: The recipe has none.
        """
        if self.shape_steps is None:
            raise MixERValueError(
                "This recipe has no augmentation of body shapes; SGEIL's has. Give shape_steps."
            )
        return Pipeline(steps=self.shape_steps)

    def __call__(self, images: Tensor, modality: Tensor, generator: Generator) -> Tensor:
        """Augments and normalises a batch; every image draws on its own.

        Args:
            images: uint8 [B, 3, H, W] on any device.
            modality: int64 [B], 0 visible, 1 infrared.
            generator: Source of all random numbers, on the CPU.

        Returns:
            float32 [B, 3, H, W] on the device of ``images``.

        Raises:
            MixERTypeError: ``images`` is not uint8.
            MixERValueError: A shape does not fit, the mirrored padding is wider than the image, or
                the generator is not on the CPU.
        """
        check_images(images)
        if modality.shape != images.shape[:1]:
            raise MixERValueError(
                f"modality must have shape ({len(images)},), got {tuple(modality.shape)}."
            )
        if generator.device.type != "cpu":
            raise MixERValueError(
                f"The generator must be on the CPU, got one on {generator.device}; images may be "
                "anywhere."
            )
        for step in self.steps:
            images = step(images, modality, generator)
        return images


def _on(small: Tensor, images: Tensor) -> Tensor:
    return small.to(images.device, non_blocking=True)


def _drawn(batch: int, p: float, generator: Generator) -> Tensor:
    return (torch.rand(batch, generator=generator) < p).nonzero().flatten()


def _greyed(images: Tensor, chosen: Tensor, plane: Callable[[Tensor], Tensor]) -> Tensor:
    """Puts one plane [n, H, W] into all channels of the chosen images."""
    rows = _on(chosen.nonzero().flatten(), images)
    if not len(rows):
        return images
    return images.index_copy(0, rows, plane(rows)[:, None].expand(-1, 3, -1, -1))


def _luminance(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        red, green, blue = images.int().unbind(1)
        return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)
    red, green, blue = images.unbind(1)
    return 0.2989 * red + 0.5870 * green + 0.1140 * blue
