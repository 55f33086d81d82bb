"""Draws one batch of synthetic persons: attributes and nuisance in, pixels out.

A person is a stack of soft parts, painted back to front for a whole batch at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.synthetic.canvas import Frame, Texture
from mixer_plugin.data.synthetic.config import SyntheticConfig
from mixer_plugin.data.synthetic.factors import (
    NAMES,
    STRENGTH,
    Floats,
    infrared_colours,
    ramp,
    spread,
    visible_colours,
)
from mixer_plugin.data.synthetic.textures import textures

NUISANCE_NORMALS = 22
NUISANCE_UNIFORMS = 20
CAMERA_NORMALS = 16


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What one batch of images of ONE modality shows.

    Attributes:
        attributes: float64 [n, 50] in (0, 1), columns as ``NAMES``.
        normals: float64 [n, ``NUISANCE_NORMALS``], per-image nuisance.
        uniforms: float64 [n, ``NUISANCE_UNIFORMS``] in (0, 1), per-image nuisance.
        camera: float64 [n, ``CAMERA_NORMALS``], equal for all images of a camera.
        noise: float32 [n, C, H, W] of standard deviation 1; C is 3 (visible) or 1 (infrared).
        config: The data set; its factors on the nuisance are used.
    """

    attributes: NDArray[np.float64]
    normals: NDArray[np.float64]
    uniforms: NDArray[np.float64]
    camera: NDArray[np.float64]
    noise: Floats
    config: SyntheticConfig


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Renders a batch.

    Args:
        scene: Factors of n images of one modality.

    Returns:
        uint8 [n, H, W, 3]; infrared images hold their single channel three times.
    """
    infrared = scene.noise.shape[1] == 1
    a, z, q, c = _inputs(scene)
    colours = infrared_colours(a) if infrared else visible_colours(a)
    canvas = _background(scene, z, q, c)
    frame, body = _pose(scene, canvas, a, z, c)
    _legs(frame, a, colours, body)
    _torso(frame, a, colours, body, infrared)
    _bag(frame, a, colours, body)
    _head(frame, a, colours, body)
    _occluder(frame, q, scene.config.occlusion, infrared)
    return _expose(scene, canvas, z, c, infrared)


def draw_shape(scene: Scene) -> NDArray[np.uint8]:
    """Renders the body shapes of a batch: 255 on head, torso and limbs, 0 elsewhere.

    What SGEIL (Feng et al., CVPR 2023) gets from a human parsing network: in the same pose and
    place as ``draw``, behind the same occluder, without colours, bag or background.

    Args:
        scene: Factors of n images of one modality.

    Returns:
        uint8 [n, H, W].
    """
    a, z, q, c = _inputs(scene)
    n, _, height, width = scene.noise.shape
    canvas = [np.zeros((n, height, width), dtype=np.float32)]
    frame, body = _pose(scene, canvas, a, z, c)
    body = dataclasses.replace(body, upper=None, lower=None)
    names = ("skin", "lower", "upper", "shoe", "trim", "hair")
    colours = {name: np.ones((n, 1), dtype=np.float32) for name in names}
    _legs(frame, a, colours, body)
    _torso(frame, a, colours, body, infrared=True)
    _head(frame, a, colours, body)
    shape = canvas[0].copy()
    canvas[0][:] = 0
    _occluder(frame, q, scene.config.occlusion, infrared=True)
    return np.round(255 * np.where(canvas[0] > 0, 0, shape).clip(0, 1)).astype(np.uint8)


def _inputs(scene: Scene) -> tuple[dict[str, Floats], Floats, Floats, Floats]:
    """Attributes by name, per-image normals and uniforms, and the camera's normals."""
    a = {name: scene.attributes[:, i].astype(np.float32) for i, name in enumerate(NAMES)}
    c = scene.camera.astype(np.float32) * (scene.config.camera_shift * STRENGTH["camera"])
    return a, scene.normals.astype(np.float32), scene.uniforms.astype(np.float32), c


def _pose(
    scene: Scene, canvas: list[Floats], a: dict[str, Floats], z: Floats, c: Floats
) -> tuple[Frame, _Body]:
    """Where the person stands in the image, and how."""
    pose = scene.config.pose * STRENGTH["pose"]
    scale = 0.80 + 0.10 * (a["height"] - 0.5)
    scale = scale * np.exp(0.045 * pose * z[:, 0] + 0.03 * c[:, 0])
    blur = np.abs(z[:, 1] + c[:, 1]) * (0.006 * scene.config.blur * STRENGTH["blur"])
    top = (1 - scale) * 0.5 + 0.022 * (pose * z[:, 2] + c[:, 2])
    middle = 0.02 * pose * z[:, 3]
    frame = Frame(canvas, top, middle, scale, blur)
    return frame, _body(frame, a, z, c, pose, scene.noise.shape[1] == 1)


def _background(scene: Scene, z: Floats, q: Floats, c: Floats) -> list[Floats]:
    """Wall, floor, structures of the camera, clutter of the image: C planes [n, H, W]."""
    _, channels, height, width = scene.noise.shape
    strength = STRENGTH["background"]
    y = (np.arange(height, dtype=np.float32) + 0.5)[None] / height
    x = (np.arange(width, dtype=np.float32) + 0.5)[None] / width
    horizon = 0.72 + 0.06 * c[:, 3, None] + 0.03 * z[:, 4, None]
    floor = np.clip((y - horizon) * 12 + 0.5, 0, 1)
    wall = 0.5 + 0.10 * c[:, 4, None]
    contrast = 0.12 * strength * np.tanh(c[:, 5, None])
    vertical = wall + contrast * (floor - 0.5) + 0.06 * c[:, 6, None] * y
    structure = np.sin(2 * np.pi * (x * (1 + np.abs(c[:, 7, None])) + c[:, 8, None]))
    across = 0.05 * structure * scene.config.camera_shift
    plane = vertical[:, :, None] + (across * strength)[:, None, :]
    for blob in range(3):  # clutter: soft boxes at random places
        qx, qy, qw, qv = (q[:, 4 * blob + k, None] for k in range(4))
        bx = np.clip((0.06 + 0.2 * qw - np.abs(x - qx)) * 10, 0, 1)
        by = np.clip((0.10 + 0.2 * qw - np.abs(y - qy)) * 10, 0, 1)
        by = by * (qv - 0.5) * 0.45 * strength
        plane += by[:, :, None] * bx[:, None, :]
    if channels == 1:
        return [plane]
    tint = 0.05 * (c[:, 9:12] + strength * z[:, 5:8])
    return [plane + tint[:, k, None, None] for k in range(channels)]


@dataclass(frozen=True, kw_only=True)
class _Body:
    """Proportions and pose; lengths in person heights, [n] unless said otherwise."""

    spine: Floats  # [n, H]
    narrow: Floats
    swing: Floats
    arm_swing: Floats
    shoulders: Floats
    hips: Floats
    head: Floats
    hip: Floats
    neck: Floats
    coat: Floats
    upper: Texture | None  # of the upper garment
    lower: Texture | None  # of the lower garment


def _body(
    frame: Frame, a: dict[str, Floats], z: Floats, c: Floats, pose: float, infrared: bool
) -> _Body:
    strength = STRENGTH["body"]
    # A turned body shows a narrower front: the viewpoint of the camera and the turn of the image.
    turn = 0.10 * pose * np.abs(z[:, 9]) + 0.06 * np.abs(c[:, 12])
    narrow = np.clip(1 - turn, 0.55, 1)
    head = spread(a["head"], 0.048, 0.078, strength)
    hip = spread(a["legs"], 0.42, 0.56, strength)
    upper, lower = textures(frame, a, z, pose, infrared)
    return _Body(
        spine=(0.025 * pose * z[:, 8])[:, None] * (0.5 - frame.v),
        narrow=narrow,
        swing=0.05 * pose * z[:, 10],
        arm_swing=0.05 * pose * z[:, 11],
        shoulders=spread(a["shoulders"], 0.085, 0.155, strength) * narrow,
        hips=spread(a["hips"], 0.06, 0.125, strength) * narrow,
        head=head,
        hip=hip,
        neck=2 * head + 0.01,
        coat=hip + spread(a["coat"], -0.05, 0.20, STRENGTH["garment"]),
        upper=upper,
        lower=lower,
    )


def _legs(frame: Frame, a: dict[str, Floats], colours: dict[str, Floats], body: _Body) -> None:
    """Skin, trousers down to the hem, shoes; some wear a skirt, a trapezoid above them."""
    garment = STRENGTH["garment"]
    hip, hips = body.hip, body.hips
    zero = np.zeros_like(hip)
    knee = np.clip((frame.v - hip[:, None]) / (1 - hip)[:, None], 0, 1)
    half = (0.035 + 0.30 * hips)[:, None] * (1 - 0.35 * knee)
    hem = hip + (1 - hip) * spread(a["hem"], 0.2, 1.05, garment)
    skin_rows = frame.rows(hip - 0.03, zero + 0.97)
    cloth_rows = frame.rows(hip - 0.03, np.minimum(hem, 0.96))
    shoe_rows = frame.rows(zero + 0.945, zero + 1)
    for sign in (-1, 1):
        centre = body.spine + sign * ((hips * 0.5)[:, None] + body.swing[:, None] * knee)
        frame.paint(skin_rows, centre, half, colours["skin"])
        frame.paint(cloth_rows, centre, half + 0.006, colours["lower"], body.lower)
        frame.paint(shoe_rows, centre, half + 0.012, colours["shoe"])
    flare = (ramp(a["flare"], 0.55, 1.0) * (0.10 * garment))[:, None]
    skirt = _where(flare > 0, hips[:, None] * 1.05 + flare * knee)
    skirt_rows = frame.rows(hip - 0.03, hip + (hem - hip) * 0.75)
    frame.paint(skirt_rows, body.spine, skirt, colours["lower"], body.lower)


def _torso(
    frame: Frame, a: dict[str, Floats], colours: dict[str, Floats], body: _Body, infrared: bool
) -> None:
    """The upper garment down to the end of the coat, logo and belt, and the arms beside it."""
    v, neck, coat = frame.v, body.neck, body.coat
    down = _down(frame, body)
    half = body.shoulders[:, None] * (1 - down) + (body.hips + 0.015)[:, None] * down
    frame.paint(frame.rows(neck, coat), body.spine, half, colours["upper"], body.upper)
    if not infrared:
        size = spread(a["logo_size"], 0.03, 0.075)
        place = neck + 0.08 + 0.18 * a["logo_height"]
        frame.paint(*frame.ellipse(body.spine, place, size, size), colours["logo"])
    frame.paint(frame.rows(coat - 0.035, coat), body.spine, half, colours["trim"])

    start, hand = neck + 0.012, neck + 0.36
    sleeve = neck + 0.02 + spread(a["sleeve"], 0.06, 0.36, STRENGTH["garment"])
    skin_rows = frame.rows(start, hand)
    cloth_rows = frame.rows(start, np.minimum(sleeve, hand))
    along = np.clip((v - neck[:, None]) / 0.36, 0, 1)
    width = np.full_like(v, 0.027)
    for sign in (-1, 1):
        out = sign * (body.shoulders + 0.012)[:, None]
        centre = body.spine + out + (sign * 0.02 + body.arm_swing[:, None]) * along
        frame.paint(skin_rows, centre, width, colours["skin"])
        frame.paint(cloth_rows, centre, width + 0.004, colours["upper"], body.upper)


def _bag(frame: Frame, a: dict[str, Floats], colours: dict[str, Floats], body: _Body) -> None:
    """A bag at one side, on a strap across the chest; a quarter carries none."""
    size = ramp(a["bag"], 0.25, 0.3) * (0.05 + 0.06 * STRENGTH["bag"] * a["bag"])
    present = (size > 0)[:, None]
    side = np.sign(a["bag_side"] - 0.5)
    flat = np.zeros_like(frame.v)
    v = body.hip - 0.08
    strap = body.spine + (side * body.shoulders)[:, None] * (2 * _down(frame, body) - 1)
    strap_half = _where(present, flat + 0.012)
    frame.paint(frame.rows(body.neck, v), strap, strap_half, colours["bag"])
    centre = body.spine + (side * (body.shoulders + 0.01))[:, None]
    half = _where(present, flat + size[:, None])
    frame.paint(frame.rows(v - size, v + size * 1.1), centre, half, colours["bag"])


def _head(frame: Frame, a: dict[str, Floats], colours: dict[str, Floats], body: _Body) -> None:
    """Hair, face and, for some, a hat."""
    garment, head, spine = STRENGTH["garment"], body.head, body.spine
    width = head * 0.82 * (0.6 + 0.4 * body.narrow)
    wide = (width + 0.012)[:, None] + np.zeros_like(frame.v)
    hair_rows = frame.rows(head, head + spread(a["hair"], 0.0, 0.17, garment))
    frame.paint(hair_rows, spine, wide, colours["hair"])
    frame.paint(*frame.ellipse(spine, head, width + 0.01, head), colours["hair"])
    face = frame.ellipse(spine, head * 1.25, width * 0.85, head * 0.75)
    frame.paint(*face, colours["skin"])
    hat = ramp(a["hat"], 0.6, 1.0) * garment
    present = (hat > 0)[:, None]
    crown_rows = frame.rows(-0.015 - 0.045 * hat, head * 0.6)
    frame.paint(crown_rows, spine, _where(present, wide), colours["trim"])
    brim_rows = frame.rows(head * 0.45, head * 0.45 + 0.025)
    brim = _where(present, wide + (0.05 * hat)[:, None])
    frame.paint(brim_rows, spine, brim, colours["trim"])


def _down(frame: Frame, body: _Body) -> Floats:
    """0 at the neck, 1 at the end of the coat: [n, H]."""
    return np.clip((frame.v - body.neck[:, None]) / (body.coat - body.neck)[:, None], 0, 1)


def _where(present: NDArray[np.bool_], half: Floats) -> Floats:
    """Half widths, negative (an empty mask) for those that do not wear the part."""
    return np.where(present, half, np.float32(-1))


def _occluder(frame: Frame, q: Floats, probability: float, infrared: bool) -> None:
    """A rectangle of random place, size and colour, present with the given probability."""
    present = (q[:, 12] < probability).astype(np.float32)
    start = q[:, 13] * 0.85
    rows = frame.rows(start, start + 0.1 + 0.2 * q[:, 14]) * present[:, None]
    centre = 0.3 * (q[:, 15] - 0.5)[:, None] + np.zeros_like(rows)
    half = (0.05 + 0.09 * q[:, 16])[:, None] + np.zeros_like(rows)
    shade = 0.15 + 0.7 * q[:, 17:20]
    mean = shade.mean(1, keepdims=True)
    colour = mean if infrared else mean + 0.4 * (shade - mean)
    frame.paint(rows, centre, half, colour)


def _expose(
    scene: Scene, canvas: list[Floats], z: Floats, c: Floats, infrared: bool
) -> NDArray[np.uint8]:
    """Illumination, camera response, sensor noise and quantisation."""
    n, channels, height, width = scene.noise.shape
    light = scene.config.light * STRENGTH["light"]
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[None]
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None]
    gain = np.exp(0.14 * light * z[:, 14] + 0.08 * c[:, 13])[:, None]
    across = 1 + 0.16 * light * z[:, 15, None] * x
    down = gain * (1 + 0.16 * light * z[:, 16, None] * y)
    shade = down[:, :, None] * across[:, None, :]
    # A quadratic stands for the gamma curve: 0 and 1 stay, the middle moves.
    bend = np.clip(0.22 * (light * z[:, 17] + c[:, 14]), -0.6, 0.6)[:, None, None]
    cast = np.exp(0.07 * (c[:, 9:12] + light * z[:, 18:21]))
    level = np.exp(0.25 * np.clip(z[:, 21] + c[:, 15], -2, 2))
    level = level * ((0.04 if infrared else 0.03) * scene.config.noise * STRENGTH["noise"])
    pixels = np.empty((n, height, width, 3), dtype=np.uint8)
    for channel, plane in enumerate(canvas):
        plane *= shade
        if not infrared:
            plane *= cast[:, channel, None, None]
        np.clip(plane, 0, 1, out=plane)
        curve = (1 - plane) * bend
        curve += 1
        plane *= curve
        plane += scene.noise[:, channel] * level[:, None, None]
        plane *= 255
        plane += 0.5
        np.clip(plane, 0, 255, out=plane)
        pixels[..., channel] = plane
    if channels == 1:
        pixels[..., 1] = pixels[..., 0]
        pixels[..., 2] = pixels[..., 0]
    return pixels
