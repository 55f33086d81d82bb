"""The augmentations of the public recipes: steps on whole batches, on any device.

torchvision's transforms draw once per batch; here every image draws on its own, and all draws but
the noise of random erasing are made on the CPU, so that a batch is cropped, flipped, recoloured and
erased alike on every device and no step waits for one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from mixer_plugin.data.loading.transforms import (
    FILLS,
    beside,
    boxes_of,
    check_batch,
    crop,
    normalise,
    recolour,
)
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.options import check_options, option


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
        top, left = torch.randint(2 * self.pad + 1, (2, len(images)), generator=generator)
        return crop(images, top, left, self.pad, FILLS[self.mode])


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirrors images left to right with probability ``p``."""

    p: float = option(0.5, noun="a probability", minimum=0, maximum=1)

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(self, images: Tensor, modality: Tensor, generator: Generator) -> Tensor:
        """[B, 3, H, W] to the same."""
        drawn = torch.rand(len(images), generator=generator) < self.p
        rows = beside(drawn.nonzero().flatten(), images)
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
        picked = beside(channels[copied], images)
        result = images.clone()
        recolour(result, copied, lambda rows: images[rows, picked])
        recolour(result, grey, lambda rows: _luminance(images[rows]))
        return result


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
        boxes = self.boxes(len(images), images.shape[2], images.shape[3], generator)
        seed = int(torch.randint(2**31, (1,), generator=generator))
        result = images.clone()
        if isinstance(self.value, str):
            noise = Generator(images.device).manual_seed(seed)
            for box in boxes_of(result, boxes):
                box.normal_(generator=noise)
        else:
            value = beside(torch.tensor(self.value), images).view(3, 1, 1)
            for box in boxes_of(result, boxes):
                box.copy_(value.expand_as(box))
        return result

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
        """Standard deviation of the ``Normalise`` step."""
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
        check_batch(images, modality)
        if generator.device.type != "cpu":
            raise MixERValueError(
                f"The generator must be on the CPU, got one on {generator.device}; images may be "
                "anywhere."
            )
        for step in self.steps:
            images = step(images, modality, generator)
        return images


def _luminance(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        red, green, blue = images.int().unbind(1)
        return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)
    red, green, blue = images.unbind(1)
    return 0.2989 * red + 0.5870 * green + 0.1140 * blue
