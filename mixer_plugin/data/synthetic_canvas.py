"""Soft shapes and textures painted on a batch of images at once.

Every shape is, on each pixel row, one interval with soft edges. Blur is applied before drawing: an
edge gets wider, a texture fainter. That costs nothing and holds at any resolution.

Units: image height 1, y downwards, x = 0 in the middle of the image. Inside the person: height 1,
v = 0 at the top of the head, v = 1 at the soles, u = 0 in the middle.
"""

from __future__ import annotations

import numpy as np

from mixer_plugin.data.synthetic_factors import Floats


class Frame:
    """Pixel grid of a batch in person coordinates, and the canvas painted on it.

    Args:
        canvas: The C colour planes, each [n, H, W] in [0, 1]; painted in place.
        top: y of the top of the head: [n].
        middle: x of the middle of the person: [n].
        scale: Height of the person in image heights: [n].
        blur: Standard deviation of the blur in image heights: [n].
    """

    def __init__(
        self, canvas: list[Floats], top: Floats, middle: Floats, scale: Floats, blur: Floats
    ) -> None:
        _, height, width = canvas[0].shape
        y = (np.arange(height, dtype=np.float32) + 0.5) / height
        x = (np.arange(width, dtype=np.float32) + (0.5 - width / 2)) / height
        self.canvas = canvas
        self.blur = blur / scale
        self.v = (y[None] - top[:, None]) / scale[:, None]
        self.u = (x[None] - middle[:, None]) / scale[:, None]
        self.sharp = scale / np.hypot(1 / height, 2.5 * blur)

    def rows(self, start: Floats, stop: Floats) -> Floats:
        """Soft indicator of start <= v <= stop: [n, H]."""
        sharp = self.sharp[:, None]
        upper = np.clip((self.v - start[:, None]) * sharp + 0.5, 0, 1)
        lower = np.clip((stop[:, None] - self.v) * sharp + 0.5, 0, 1)
        return upper * lower

    def mask(self, rows: Floats, centre: Floats, half: Floats) -> Floats:
        """Soft indicator of |u - centre| <= half on each row: [n, H] arguments, [n, H, W]."""
        sharp = self.sharp[:, None]
        distance = self.u[:, None, :] - centre[:, :, None]
        np.abs(distance, out=distance)
        distance *= -sharp[:, :, None]
        distance += (half * sharp + 0.5)[:, :, None]
        np.clip(distance, 0, 1, out=distance)
        distance *= rows[:, :, None]
        return distance

    def ellipse(self, centre: Floats, v: Floats, half_width: Floats, half_height: Floats) -> Floats:
        """Soft ellipse: [n, H, W]; ``centre`` is [n, H], the others [n]."""
        square = 1 - ((self.v - v[:, None]) / half_height[:, None]) ** 2
        half = half_width[:, None] * np.sqrt(np.maximum(square, 0))
        return self.mask(self.rows(v - half_height, v + half_height), centre, half)

    def waves(self, angle: Floats, frequency: Floats, phase: Floats) -> Floats:
        """Stripes in [-1, 1], faded as the blur fades them: [n, H, W]; arguments [n]."""
        cycles = 2 * np.pi * frequency
        a = self.u * (cycles * np.cos(angle))[:, None] + phase[:, None]
        b = self.v * (cycles * np.sin(angle))[:, None]
        fade = np.exp(-0.5 * (cycles * self.blur) ** 2)[:, None]
        wave = (np.sin(a) * fade)[:, None, :] * np.cos(b)[:, :, None]
        wave += (np.cos(a) * fade)[:, None, :] * np.sin(b)[:, :, None]
        return wave

    def paint(self, mask: Floats, colour: Floats, texture: Floats | None = None) -> None:
        """Blends ``colour`` [n, C] (times ``texture`` [n, H, W] if given) over the canvas."""
        for channel, plane in enumerate(self.canvas):
            value = colour[:, channel, None, None]
            layer = value - plane if texture is None else value * texture - plane
            layer *= mask
            plane += layer
