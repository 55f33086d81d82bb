"""Procedural person images whose factors are known: shared, visible-only, infrared-only, nuisance.

Every image is a function of (seed, split, index of the identity, camera, number of the image)
alone: not of the chunk in which it is rendered, nor of how many identities the set has. How
strongly each group of factors shows is one table, ``mixer_plugin.data.synthetic_factors.STRENGTH``.

The orientation of the clothes' stripes and the side of the bag are identity cues: do not train with
a horizontal flip on these images.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_plugin.data.synthetic_config import VERSION, SyntheticConfig, digest
from mixer_plugin.data.synthetic_draws import keys, normals, pixel_noise, uniforms
from mixer_plugin.data.synthetic_factors import INFRARED, NAMES, SHARED, STRENGTH, VISIBLE
from mixer_plugin.data.synthetic_person import (
    CAMERA_NORMALS,
    NUISANCE_NORMALS,
    NUISANCE_UNIFORMS,
    Scene,
    draw,
    draw_shape,
)
from mixer_plugin.errors import MissingExtraError, MixERValueError

__all__ = [
    "INFRARED_CAMERAS",
    "SPLITS",
    "STRENGTH",
    "VERSION",
    "VISIBLE_CAMERAS",
    "SyntheticConfig",
    "WrittenSet",
    "digest",
    "identity_factors",
    "image_factors",
    "plan",
    "render",
    "write_sysu",
]

SPLITS = ("train", "val", "test")
VISIBLE_CAMERAS = (1, 2, 4, 5)
INFRARED_CAMERAS = (3, 6)

_ROW = np.dtype([("split", "U5"), ("index", "i8"), ("pid", "i8"), ("cam", "i8"), ("number", "i8")])
_CHUNK_PIXELS = 2**17  # per plane: a chunk's working set stays in the cache
_TRIALS = 10  # as many as the released permutation file holds
_IDENTITY, _IMAGE, _POSE, _CLUTTER, _CAMERA, _NOISE, _TRIAL = range(7)  # streams of the generator


def plan(config: SyntheticConfig) -> NDArray[np.void]:
    """Lists all images of a data set.

    Args:
        config: The data set.

    Returns:
        Structured array with the fields ``split`` (train, val or test), ``index`` (of the identity
        within its split, 0-based), ``pid`` (1-based over all splits), ``cam`` (1 to 6) and
        ``number`` (of the image within identity and camera, 1-based); sorted by split, identity,
        camera and number. Rows can be selected as those of any array:
        ``rows[rows["split"] == "test"]``.
    """
    parts = []
    first = 1
    for split in SPLITS:
        n_ids = getattr(config, f"{split}_ids")
        prefix = "" if split == "train" else "test_"
        per_camera = {
            cam: getattr(
                config,
                f"{prefix}{'visible' if cam in VISIBLE_CAMERAS else 'infrared'}_per_camera",
            )
            for cam in sorted(VISIBLE_CAMERAS + INFRARED_CAMERAS)
        }
        cam = np.concatenate([np.full(count, cam) for cam, count in per_camera.items()])
        number = np.concatenate([np.arange(1, count + 1) for count in per_camera.values()])
        rows = np.empty(n_ids * len(cam), dtype=_ROW)
        rows["split"] = split
        rows["index"] = np.repeat(np.arange(n_ids), len(cam))
        rows["pid"] = first + rows["index"]
        rows["cam"] = np.tile(cam, n_ids)
        rows["number"] = np.tile(number, n_ids)
        parts.append(rows)
        first += n_ids
    return np.concatenate(parts)


def identity_factors(config: SyntheticConfig) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """The attributes of all identities.

    Args:
        config: The data set.

    Returns:
        float32 [n_ids, 50] in (0, 1), row ``pid - 1``, and the names of the columns: 18 shared,
        then 17 visible-only, then 15 infrared-only. With a cue below 1 they are what the identity
        contributes; what an image shows is in ``image_factors``.
    """
    rows = plan(config)
    _, first = np.unique(rows["pid"], return_index=True)
    return _copula(_identity_normals(config, rows[first])).astype(np.float32), NAMES


def image_factors(
    config: SyntheticConfig, rows: NDArray[np.void]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """The attributes that images show: the identity's share and the image's own.

    Args:
        config: The data set.
        rows: n rows of ``plan(config)``.

    Returns:
        float32 [n, 50] in (0, 1) and the names of the columns, as ``identity_factors``.
    """
    return _attributes(config, rows).astype(np.float32), NAMES


def render(config: SyntheticConfig, rows: NDArray[np.void]) -> NDArray[np.uint8]:
    """Renders images.

    Args:
        config: The data set.
        rows: n rows of ``plan(config)``, in any order.

    Returns:
        uint8 [n, height, width, 3]; an infrared image holds its single channel three times.
    """
    return _render(config, rows, draw)


def render_shapes(config: SyntheticConfig, rows: NDArray[np.void]) -> NDArray[np.uint8]:
    """Renders the body shapes of images: 255 on the person, 0 elsewhere.

    Args:
        config: The data set.
        rows: n rows of ``plan(config)``, in any order.

    Returns:
        uint8 [n, height, width, 3], three equal channels.
    """
    return _render(config, rows, lambda scene: draw_shape(scene)[..., None])


def _render(
    config: SyntheticConfig,
    rows: NDArray[np.void],
    draw_scene: Callable[[Scene], NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    images = np.empty((len(rows), config.height, config.width, 3), dtype=np.uint8)
    step = max(1, _CHUNK_PIXELS // (config.height * config.width))
    infrared = np.isin(rows["cam"], INFRARED_CAMERAS)
    for mask in (~infrared, infrared):
        places = np.flatnonzero(mask)
        channels = 1 if mask is infrared else 3
        for start in range(0, len(places), step):
            chunk = places[start : start + step]
            images[chunk] = draw_scene(_scene(config, rows[chunk], channels))
    return images


@dataclass(frozen=True, kw_only=True)
class WrittenSet:
    """What ``write_sysu`` left on disk.

    Attributes:
        root: Folder of the data set.
        images: Number of image files.
        reused: True if the folder already held exactly this data set and nothing was written.
    """

    root: Path
    images: int
    reused: bool


def write_sysu(
    root: str | os.PathLike[str],
    config: SyntheticConfig,
    *,
    quality: int = 95,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> WrittenSet:
    """Writes a data set in the layout in which SYSU-MM01 is released.

    ``cam{1..6}/{pid:04d}/{number:04d}.jpg``, ``exp/{train,val,test,available}_id.txt`` (ids on one
    line, comma separated), ``exp/rand_perm_cam.mat`` (the ten draws of the gallery) and
    ``synthetic.json`` (configuration, version, digest). Everything is written beside ``root`` and
    renamed at the end: a root that exists is complete.

    Args:
        root: Folder to create. One that already holds exactly this data set is reused.
        config: The data set.
        quality: JPEG quality, 1 to 95.
        workers: Threads that render and encode.
        progress: Called with (images written, images in all) after every chunk.

    Returns:
        Where the data set is, its size, and whether it was there before.

    Raises:
        MixERValueError: ``root`` holds something else, or an argument is out of range.
        MissingExtraError: Pillow or SciPy is not installed.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pillow", "bench", "Writing synthetic images") from error
    try:
        import scipy.io
    except ImportError as error:
        raise MissingExtraError("scipy", "bench", "Writing rand_perm_cam.mat") from error
    if not 1 <= quality <= 95:
        raise MixERValueError(f"quality must be in [1, 95] (JPEG), got {quality}.")
    if workers < 1:
        raise MixERValueError(f"workers must be at least 1, got {workers}.")
    root = Path(root).absolute()
    rows = plan(config)
    content = {
        "generator": "mixer-plugin",
        "config": config.to_dict(),
        "version": VERSION,
        "digest": digest(config),
        "quality": quality,
        "images": len(rows),
    }
    if _holds(root, content):
        return WrittenSet(root=root, images=len(rows), reused=True)
    aside = root.with_name(f"{root.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        for cam in range(1, 7):
            for pid in np.unique(rows["pid"][rows["cam"] == cam]):
                (aside / f"cam{cam}" / f"{pid:04d}").mkdir(parents=True)
        _write_images(aside, config, rows, quality, workers, progress)
        exp = aside / "exp"
        exp.mkdir()
        for split in SPLITS:
            ids = np.unique(rows["pid"][rows["split"] == split])
            (exp / f"{split}_id.txt").write_text(",".join(map(str, ids)) + "\n")
        (exp / "available_id.txt").write_text(",".join(map(str, np.unique(rows["pid"]))) + "\n")
        scipy.io.savemat(exp / "rand_perm_cam.mat", {"rand_perm_cam": _permutation(config, rows)})
        (aside / "synthetic.json").write_text(json.dumps(content, indent=2) + "\n")
        if root.is_dir():
            root.rmdir()  # _holds saw that it is empty
        aside.rename(root)
    except OSError:
        # Another process may have finished the same data set meanwhile; else the error stands.
        if not (root.is_dir() and _holds(root, content)):
            raise
        return WrittenSet(root=root, images=len(rows), reused=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return WrittenSet(root=root, images=len(rows), reused=False)


def _holds(root: Path, content: dict[str, object]) -> bool:
    """Whether ``root`` holds exactly this data set; raises if it holds anything else."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise MixERValueError(f"{root} is a file; expected a folder to create.")
    if not any(root.iterdir()):
        return False
    try:
        found = json.loads((root / "synthetic.json").read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise MixERValueError(
            f"{root} is not empty and holds no readable synthetic.json: it is not a synthetic data "
            "set. Give another folder."
        )
    if found == content:
        return True
    now = {**content, **config} if isinstance(config := content["config"], dict) else content
    then = {**found, **old} if isinstance(old := found.get("config"), dict) else found
    changed = sorted(
        f"{key} (there {then.get(key)!r}, asked {now.get(key)!r})"
        for key in {*now, *then} - {"config", "digest"}
        if now.get(key) != then.get(key)
    )
    raise MixERValueError(
        f"{root} holds another synthetic data set: it differs in "
        f"{', '.join(changed) or 'the strengths of the factors (digest)'}. "
        "Give another folder, or remove this one."
    )


def _write_images(
    root: Path,
    config: SyntheticConfig,
    rows: NDArray[np.void],
    quality: int,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    from PIL import Image

    def write(chunk: NDArray[np.void]) -> int:
        for row, pixels in zip(chunk, render(config, chunk), strict=True):
            path = root / f"cam{row['cam']}" / f"{row['pid']:04d}" / f"{row['number']:04d}.jpg"
            Image.fromarray(pixels).save(path, quality=quality)
        return len(chunk)

    step = 512  # images held in memory at once by a thread
    chunks = [rows[start : start + step] for start in range(0, len(rows), step)]
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        for count in pool.map(write, chunks):
            done += count
            if progress is not None:
                progress(done, len(rows))


def _permutation(config: SyntheticConfig, rows: NDArray[np.void]) -> NDArray[np.object_]:
    """The gallery draws, nested as in the released file: 6 x 1, 1 x ids, trials x images."""
    n_ids = int(rows["pid"].max())
    cameras = np.empty((6, 1), dtype=object)
    for cam in range(1, 7):
        cell = np.empty((1, n_ids), dtype=object)
        here = rows[rows["cam"] == cam]
        counts = np.bincount(here["pid"], minlength=n_ids + 1)
        for pid in range(1, n_ids + 1):
            trials = keys(config.seed, _TRIAL, cam, pid, np.arange(_TRIALS))
            order = np.argsort(uniforms(trials, int(counts[pid])), axis=1, kind="stable") + 1
            cell[0, pid - 1] = order.astype(np.uint16)
        cameras[cam - 1, 0] = cell
    return cameras


def _split_number(rows: NDArray[np.void]) -> NDArray[np.int64]:
    return np.select([rows["split"] == split for split in SPLITS], range(len(SPLITS)))


def _image_keys(config: SyntheticConfig, stream: int, rows: NDArray[np.void]) -> NDArray[np.uint64]:
    split = _split_number(rows)
    return keys(config.seed, stream, split, rows["index"], rows["cam"], rows["number"])


def _identity_normals(config: SyntheticConfig, rows: NDArray[np.void]) -> NDArray[np.float64]:
    split = _split_number(rows)
    return normals(keys(config.seed, _IDENTITY, split, rows["index"]), len(NAMES))


def _copula(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.special.ndtr(torch.from_numpy(z)).numpy()


def _attributes(config: SyntheticConfig, rows: NDArray[np.void]) -> NDArray[np.float64]:
    groups = (
        (config.shared_cue, len(SHARED)),
        (config.visible_cue, len(VISIBLE)),
        (config.infrared_cue, len(INFRARED)),
    )
    cue = np.concatenate([np.full(size, share) for share, size in groups])
    own = normals(_image_keys(config, _IMAGE, rows), len(NAMES))
    # The squares of the weights add to one: the sum stays standard normal whatever the cue.
    return _copula(np.sqrt(cue) * _identity_normals(config, rows) + np.sqrt(1 - cue) * own)


def _scene(config: SyntheticConfig, rows: NDArray[np.void], channels: int) -> Scene:
    shape = (len(rows), channels, config.height, config.width)
    noise = pixel_noise(_image_keys(config, _NOISE, rows), channels * config.height * config.width)
    return Scene(
        attributes=_attributes(config, rows),
        normals=normals(_image_keys(config, _POSE, rows), NUISANCE_NORMALS),
        uniforms=uniforms(_image_keys(config, _CLUTTER, rows), NUISANCE_UNIFORMS),
        camera=normals(keys(config.seed, _CAMERA, rows["cam"]), CAMERA_NORMALS),
        noise=noise.reshape(shape),
        pose=config.pose,
        light=config.light,
        camera_shift=config.camera_shift,
        noise_level=config.noise,
        blur=config.blur,
        occlusion=config.occlusion,
    )
