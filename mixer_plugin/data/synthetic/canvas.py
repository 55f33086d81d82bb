"""Soft shapes and textures painted on a batch of images at once.

Every shape is, on each pixel row, one interval with soft edges. Blur is applied before drawing: an
edge gets wider, a texture fainter. That costs nothing and holds at any resolution.

Units: image height 1, y downwards, x = 0 in the middle of the image. Inside the person: height 1,
v = 0 at the top of the head, v = 1 at the soles, u = 0 in the middle.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mixer_plugin.data.synthetic.factors import Floats

Box = tuple[slice, slice]
"""Rows and columns of every image of a batch."""
Texture = Callable[[Box], Floats]
"""Gives a factor on a colour for the pixels of a box."""


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
        self.scale = scale
        self.middle = middle
        self.sharp = scale / np.hypot(1 / height, 2.5 * blur)

    def rows(self, start: Floats, stop: Floats) -> Floats:
        """Soft indicator of start <= v <= stop: [n, H]."""
        sharp = self.sharp[:, None]
        upper = np.clip((self.v - start[:, None]) * sharp + 0.5, 0, 1)
        lower = np.clip((stop[:, None] - self.v) * sharp + 0.5, 0, 1)
        return upper * lower

    def ellipse(
        self, centre: Floats, v: Floats, half_width: Floats, half_height: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Rows, centre and half width of a soft ellipse; ``centre`` is [n, H], the others [n]."""
        square = 1 - ((self.v - v[:, None]) / half_height[:, None]) ** 2
        half = half_width[:, None] * np.sqrt(np.maximum(square, 0))
        return self.rows(v - half_height, v + half_height), centre, half

    def waves(self, angle: Floats, frequency: Floats, phase: Floats) -> Texture:
        """Stripes in [-1, 1], faded as the blur fades them; arguments [n]."""
        cycles = 2 * np.pi * frequency
        a = self.u * (cycles * np.cos(angle))[:, None] + phase[:, None]
        b = self.v * (cycles * np.sin(angle))[:, None]
        fade = np.exp(-0.5 * (cycles * self.blur) ** 2)[:, None]
        sine, cosine = np.sin(a) * fade, np.cos(a) * fade
        along, across = np.cos(b), np.sin(b)

        def texture(box: Box) -> Floats:
            rows, columns = box
            wave = sine[:, None, columns] * along[:, rows, None]
            wave += cosine[:, None, columns] * across[:, rows, None]
            return wave

        return texture

    def paint(
        self,
        rows: Floats,
        centre: Floats,
        half: Floats,
        colour: Floats,
        texture: Texture | None = None,
    ) -> None:
        """Blends a colour over the canvas where |u - centre| <= half, on soft edges.

        Only the box that encloses the shapes of the batch is touched: outside it nothing would
        change, and most parts of a person are a small share of the image.

        Args:
            rows: Soft indicator of the shape's rows: [n, H].
            centre: Middle of the shape on each row: [n, H].
            half: Half its width on each row; negative where there is none: [n, H].
            colour: Its colour: [n, C].
            texture: Factor on the colour, if any.
        """
        box = self._box(rows, centre, half)
        if box is None:
            return
        lines, columns = box
        sharp = self.sharp[:, None]
        mask = self.u[:, None, columns] - centre[:, lines, None]
        np.abs(mask, out=mask)
        mask *= -sharp[:, :, None]
        mask += (half[:, lines] * sharp + 0.5)[:, :, None]
        np.clip(mask, 0, 1, out=mask)
        mask *= rows[:, lines, None]
        factor = None if texture is None else texture(box)
        for channel, plane in enumerate(self.canvas):
            under = plane[:, lines, columns]
            value = colour[:, channel, None, None]
            layer = (value if factor is None else value * factor) - under
            layer *= mask
            under += layer

    def _box(self, rows: Floats, centre: Floats, half: Floats) -> Box | None:
        """The box that holds every pixel that the shapes of the batch cover."""
        reach = half + 0.5 / self.sharp[:, None]
        shown = (rows > 0) & (reach > 0)
        lines = np.flatnonzero(shown.any(0))
        if not len(lines):
            return None
        # From person to pixel coordinates; a pixel of margin on each side covers all rounding.
        height, width = self.canvas[0].shape[1:]
        scale, middle = self.scale[:, None] * height, self.middle[:, None] * height + width / 2
        left = np.where(shown, middle + (centre - reach) * scale, width).min() - 1
        right = np.where(shown, middle + (centre + reach) * scale, 0).max() + 1
        columns = slice(max(0, int(np.floor(left))), max(0, int(np.ceil(right))))
        return slice(int(lines[0]), int(lines[-1]) + 1), columns
