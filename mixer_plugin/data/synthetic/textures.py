"""The textures of a synthetic person's garments: stripes, rings, and what infrared alone shows."""

from __future__ import annotations

import numpy as np

from mixer_plugin.data.synthetic.canvas import Box, Frame, Texture
from mixer_plugin.data.synthetic.factors import STRENGTH, Floats, spread


def textures(
    frame: Frame, a: dict[str, Floats], z: Floats, pose: float, infrared: bool
) -> tuple[Texture, Texture]:
    """Factors on the colours of the upper and the lower garment.

    Args:
        frame: Grid of n images of one modality.
        a: Attributes by name: [n].
        z: Per-image nuisance normals: [n, 22].
        pose: Factor on the pose nuisance.
        infrared: Whether the images are infrared.

    Returns:
        The textures of the upper and of the lower garment.
    """
    strength = STRENGTH["stripes"]
    phase = 0.8 * pose * z[:, 12]
    angle = np.pi * a["stripe_angle"] + 0.08 * pose * z[:, 13]
    frequency = np.exp(spread(a["stripe_frequency"], 1.3, 2.6))
    contrast = (strength * spread(a["stripe_contrast"], 0.1, 0.6))[:, None, None]
    stripes = frame.waves(angle, frequency, phase)
    # Trousers carry rings: their number is the cue.
    rings = np.exp(spread(a["lower_frequency"], 0.8, 2.5))
    ring = np.sin(2 * np.pi * rings[:, None] * frame.v)
    fade = np.exp(-0.5 * (2 * np.pi * rings * frame.blur) ** 2)
    lower_rows = 1 + 0.35 * strength * fade[:, None] * ring

    def upper(box: Box) -> Floats:
        factor = stripes(box)
        factor *= contrast
        factor += 1
        return factor

    def lower(box: Box) -> Floats:
        return lower_rows[:, box[0], None]

    if not infrared:
        return upper, lower
    heat, weave = STRENGTH["heat"], STRENGTH["weave"]
    v = frame.v
    warm_rows = heat * (a["upper_gradient"][:, None] - 0.5) * (v - 0.3) * 2
    hot_v = 0.18 + 0.3 * a["hot_height"]
    hot_u = 0.18 * (a["hot_side"] - 0.5)
    size = 0.03 + 0.05 * a["hot_size"]
    spot_v = np.exp(-(((v - hot_v[:, None]) / size[:, None]) ** 2)) * heat * 0.7
    spot_u = np.exp(-(((frame.u - hot_u[:, None]) / size[:, None]) ** 2))
    woven = frame.waves(
        np.pi * a["weave_angle"], np.exp(spread(a["weave_frequency"], 1.5, 2.6)), phase
    )
    depth = (weave * spread(a["weave_contrast"], 0.05, 0.5))[:, None, None]
    slope = lower_rows + heat * (a["lower_gradient"][:, None] - 0.5) * (v - 0.7) * 2

    def warm_upper(box: Box) -> Floats:
        rows, columns = box
        factor = upper(box)
        factor += warm_rows[:, rows, None]
        factor += spot_v[:, rows, None] * spot_u[:, None, columns]
        return factor

    def woven_lower(box: Box) -> Floats:
        factor = woven(box)
        factor *= depth
        factor += slope[:, box[0], None]
        return factor

    return warm_upper, woven_lower
