"""The factors of a synthetic person: names, how strongly they show, the colours they give."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# float32 throughout; numpy's annotations call float32 times a Python float "floating".
Floats = NDArray[np.floating]

# fmt: off
SHARED = (
    "height", "shoulders", "hips", "head", "legs", "hair", "hat", "sleeve", "hem", "flare", "coat",
    "bag", "bag_side", "stripe_angle", "stripe_frequency", "stripe_contrast", "lower_frequency",
    "tone",
)
VISIBLE = (
    "upper_hue", "upper_saturation", "upper_value", "lower_hue", "lower_saturation", "lower_value",
    "shoe_hue", "shoe_value", "bag_hue", "bag_saturation", "hair_hue", "hair_value", "skin_value",
    "logo_hue", "logo_size", "logo_height", "trim_hue",
)
INFRARED = (
    "upper_reflectance", "lower_reflectance", "shoe_reflectance", "bag_reflectance",
    "hair_reflectance", "skin_reflectance", "trim_reflectance", "hot_height", "hot_side",
    "hot_size", "upper_gradient", "lower_gradient", "weave_angle", "weave_frequency",
    "weave_contrast",
)
# fmt: on
NAMES = SHARED + VISIBLE + INFRARED

# How strongly each group of factors shows: these values are the default look. 0 takes a group away
# but for what no strength scales: a person's height, who carries a bag and on which side, and the
# hues of hair and trim.
STRENGTH = {
    # shared by both modalities
    "body": 1.0,  # proportions: shoulders, hips, head, legs
    "garment": 1.0,  # lengths: hair, hat, sleeve, hem, flare, coat
    "bag": 1.0,  # spread of its size
    "stripes": 1.2,  # contrast of the stripes of both garments
    "tone": 0.6,  # share of a garment's lightness that both modalities show
    # visible only
    "hue": 0.8,  # saturation of clothes, shoes and bag
    "value": 0.8,  # spread of lightness
    "logo": 0.7,  # colour contrast of the logo, at equal luminance
    # infrared only
    "reflectance": 0.8,  # spread of intensity
    "heat": 0.8,  # hot spot and gradients
    "weave": 0.7,  # texture that only infrared shows
    # nuisance; multiplied by the factors of SyntheticConfig
    "pose": 1.0,
    "light": 1.0,
    "camera": 1.0,
    "background": 0.8,
    "noise": 1.0,
    "blur": 1.0,
}


def spread(value: Floats, low: float, high: float, strength: float = 1.0) -> Floats:
    """Maps (0, 1) to the range [low, high], shrunk to its middle by ``strength``."""
    middle = (low + high) / 2
    return middle + ((high - low) * strength) * (value - 0.5)


def ramp(value: Floats, start: float, stop: float) -> Floats:
    """0 below ``start``, 1 above ``stop``, linear between: for parts that only some wear."""
    return np.clip((value - start) / (stop - start), 0, 1)


def rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """HSV in [0, 1] to RGB: [n, 3]."""
    corner = (hue[:, None] * 6 + np.asarray([5, 3, 1], dtype=np.float32)) % 6
    wedge = np.clip(np.minimum(corner, 4 - corner), 0, 1)
    return value[:, None] * (1 - saturation[:, None] * wedge)


def visible_colours(a: dict[str, Floats]) -> dict[str, Floats]:
    """Colours of the parts in visible light, from the attributes [n]: RGB [n, 3] each."""
    tone, chroma, value = STRENGTH["tone"], STRENGTH["hue"], STRENGTH["value"]
    upper = (1 - tone) * a["upper_value"] + tone * a["tone"]
    lower = (1 - tone) * a["lower_value"] + tone * (1 - a["tone"])
    half = np.full_like(upper, 0.5)
    colours = {
        "upper": rgb(
            a["upper_hue"],
            spread(a["upper_saturation"], 0.15, 0.9) * chroma,
            spread(upper, 0.2, 0.95, value),
        ),
        "lower": rgb(
            a["lower_hue"],
            spread(a["lower_saturation"], 0.05, 0.8) * chroma,
            spread(lower, 0.12, 0.85, value),
        ),
        "shoe": rgb(a["shoe_hue"], half * chroma, spread(a["shoe_value"], 0.1, 0.95, value)),
        "bag": rgb(a["bag_hue"], spread(a["bag_saturation"], 0.1, 0.95) * chroma, half + 0.05),
        "hair": rgb(0.03 + 0.1 * a["hair_hue"], half, spread(a["hair_value"], 0.08, 0.7, value)),
        "skin": rgb(
            np.full_like(half, 0.06), half - 0.08, spread(a["skin_value"], 0.4, 0.95, value)
        ),
        "trim": rgb(a["trim_hue"], half + 0.3, half + 0.2),
    }
    # The logo differs from the cloth in colour but not in luminance.
    weights = np.asarray([0.299, 0.587, 0.114], dtype=np.float32)
    chroma_only = rgb(a["logo_hue"], half + 0.4, half + 0.3)
    chroma_only = chroma_only - (chroma_only * weights).sum(1, keepdims=True)
    luminance = (colours["upper"] * weights).sum(1, keepdims=True)
    colours["logo"] = luminance + STRENGTH["logo"] * chroma_only
    return colours


def infrared_colours(a: dict[str, Floats]) -> dict[str, Floats]:
    """Intensities of the parts in infrared, from the attributes [n]: [n, 1] each."""
    tone, value = STRENGTH["tone"], STRENGTH["reflectance"]
    upper = (1 - tone) * a["upper_reflectance"] + tone * a["tone"]
    lower = (1 - tone) * a["lower_reflectance"] + tone * (1 - a["tone"])
    values = {
        "upper": spread(upper, 0.15, 0.95, value),
        "lower": spread(lower, 0.12, 0.9, value),
        "shoe": spread(a["shoe_reflectance"], 0.1, 0.9, value),
        "bag": spread(a["bag_reflectance"], 0.1, 0.9, value),
        "hair": spread(a["hair_reflectance"], 0.1, 0.7, value),
        "skin": spread(a["skin_reflectance"], 0.55, 0.98, value),
        "trim": spread(a["trim_reflectance"], 0.1, 0.9, value),
    }
    return {name: level[:, None] for name, level in values.items()}
