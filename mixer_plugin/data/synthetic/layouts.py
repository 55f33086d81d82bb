"""The files of a synthetic data set in each released layout: names, split files and images.

SYSU-MM01 (Wu et al., ICCV 2017), RegDB (Nguyen et al., Sensors 2017), LLCM (Zhang and Wang, CVPR
2023) and Market-1501 (Zheng et al., ICCV 2015), as they are released and as public loaders read
them. The same person, camera, modality and number is the same image in every layout, and a person
has the same identity number in all of them. A layout without a validation split has those persons
in its training split.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.datasets.layouts import check_layout
from mixer_plugin.data.synthetic.config import SyntheticConfig
from mixer_plugin.data.synthetic.draws import Stream, keys, uniforms
from mixer_plugin.data.synthetic.plan import (
    INFRARED_CAMERAS,
    SPLITS,
    VISIBLE_CAMERAS,
    View,
    list_persons,
    list_strangers,
    per_camera,
    plan,
)
from mixer_plugin.errors import MixERValueError

_COUNTS = ("visible_per_camera", "infrared_per_camera")
# Images per identity as in the release, where SyntheticConfig's own defaults would be far off.
_DEFAULTS: dict[str, dict[str, int]] = {
    "sysu": {},
    "regdb": dict.fromkeys(_COUNTS, 10),
    "llcm": {
        "visible_per_camera": 3,
        "infrared_per_camera": 2,
        "test_visible_per_camera": 3,
        "test_infrared_per_camera": 2,
    },
    "market": {"visible_per_camera": 3, "test_visible_per_camera": 4},
}
# Settings that would change nothing.
_IDLE: dict[str, tuple[str, ...]] = {
    "sysu": (),
    "regdb": ("test_visible_per_camera", "test_infrared_per_camera"),
    "llcm": (),
    "market": ("infrared_per_camera", "test_infrared_per_camera", "infrared_cue"),
}

_TRIALS = 10  # draws of the gallery, or halves, that are released
_LLCM_CAMERAS = range(1, 10)
_LLCM_NO_TEST_NIR = 3  # this camera took no near-infrared test image
_MARKET_CAMERAS = 6
# Shares of the test images of known persons: 2,798 and 3,819 of 3,368 + 13,115 in the release.
_MARKET_DISTRACTORS, _MARKET_JUNK = 0.17, 0.23


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a data set consists of.

    Attributes:
        rows: What each image shows, rows as those of ``plan``: [n].
        paths: Where each image lies below the root; a second place holds a copy: n tuples.
        texts: The split files: path below the root, content.
        permutation: Content of ``exp/rand_perm_cam.mat``, where the layout has one.
    """

    rows: NDArray[np.void]
    paths: tuple[tuple[str, ...], ...]
    texts: dict[str, str] = field(default_factory=dict)
    permutation: NDArray[np.object_] | None = None


def layout_config(layout: str, **settings: Any) -> SyntheticConfig:
    """A configuration with a layout's own numbers of images per identity.

    Args:
        layout: ``sysu``, ``regdb``, ``llcm`` or ``market``.
        **settings: Settings of ``SyntheticConfig``; absent ones take the layout's defaults.

    Returns:
        The configuration.

    Raises:
        MixERValueError: The layout or a setting is unknown, out of its range, or would change
            nothing in this layout.
        MixERTypeError: A value is of the wrong kind.
    """
    check_layout(layout)
    idle = sorted(set(settings) & set(_IDLE[layout]))
    if idle:
        why = (
            "holds visible images only"
            if layout == "market"
            else "has as many images of each identity in test as in training"
        )
        raise MixERValueError(
            f"The layout {layout} {why}: {', '.join(idle)} would change nothing. Leave it out."
        )
    values = {**_DEFAULTS[layout], **settings}
    if layout == "regdb":
        values.update({f"test_{name}": values[name] for name in _COUNTS})
    return SyntheticConfig.from_dict(values)


def list_files(config: SyntheticConfig, layout: str) -> Listing:
    """Lists the files of a data set.

    Args:
        config: The data set.
        layout: ``sysu``, ``regdb``, ``llcm`` or ``market``.

    Returns:
        Images, their places and the split files.

    Raises:
        MixERValueError: The layout is unknown, or the configuration does not fit it.
    """
    check_layout(layout)
    return {"sysu": _sysu, "regdb": _regdb, "llcm": _llcm, "market": _market}[layout](config)


def _sysu(config: SyntheticConfig) -> Listing:
    rows = plan(config)
    texts = {f"exp/{split}_id.txt": _ids(rows[rows["split"] == split]) for split in SPLITS}
    texts["exp/available_id.txt"] = _ids(rows)
    return Listing(
        rows=rows,
        paths=tuple(
            (f"cam{cam}/{pid:04d}/{number:04d}.jpg",) for pid, cam, number in _numbers(rows)
        ),
        texts=texts,
        permutation=_permutation(config, rows),
    )


def _permutation(config: SyntheticConfig, rows: NDArray[np.void]) -> NDArray[np.object_]:
    """The gallery draws, nested as in the released file: 6 x 1, 1 x ids, trials x images."""
    n_ids = int(rows["pid"].max())
    cameras = np.empty((6, 1), dtype=object)
    for cam in range(1, 7):
        cell = np.empty((1, n_ids), dtype=object)
        here = rows[rows["cam"] == cam]
        counts = np.bincount(here["pid"], minlength=n_ids + 1)
        for pid in range(1, n_ids + 1):
            trials = keys(config.seed, Stream.TRIAL, cam, pid, np.arange(_TRIALS))
            order = np.argsort(uniforms(trials, int(counts[pid])), axis=1, kind="stable") + 1
            cell[0, pid - 1] = order.astype(np.uint16)
        cameras[cam - 1, 0] = cell
    return cameras


def _regdb(config: SyntheticConfig) -> Listing:
    """One camera of each kind, all persons in every split, ten random halves of them."""
    for name in _COUNTS:
        if getattr(config, name) != getattr(config, f"test_{name}"):
            raise MixERValueError(
                "RegDB's persons are trained on in one split and tested on in another: "
                f"test_{name} must equal {name}, {getattr(config, name)}; got "
                f"{getattr(config, f'test_{name}')}. layout_config('regdb', …) sees to it."
            )

    def views(split: str) -> list[View]:
        return [
            (VISIBLE_CAMERAS[0], False, config.visible_per_camera),
            (INFRARED_CAMERAS[0], True, config.infrared_per_camera),
        ]

    rows = list_persons(config, views)
    paths = []
    for (pid, _, number), dark in zip(_numbers(rows), rows["infrared"].tolist(), strict=True):
        folder, letter = ("Thermal", "t") if dark else ("Visible", "v")
        paths.append(f"{folder}/{pid}/{pid:04d}_{letter}_{number:05d}.bmp")
    ids = np.unique(rows["pid"])
    texts = {}
    for trial in range(1, _TRIALS + 1):
        draw = uniforms(keys(config.seed, Stream.HALVES, [trial]), len(ids))[0]
        train = np.isin(rows["pid"], ids[np.argsort(draw, kind="stable")[: len(ids) // 2]])
        for part, chosen in (("train", train), ("test", ~train)):
            for name, dark in (("visible", False), ("thermal", True)):
                here = np.flatnonzero(chosen & (rows["infrared"] == dark))
                texts[f"idx/{part}_{name}_{trial}.txt"] = _labelled(rows, paths, here)
    return Listing(rows=rows, paths=tuple((path,) for path in paths), texts=texts)


def _llcm(config: SyntheticConfig) -> Listing:
    """Nine cameras that take both kinds; test images lie in a second place, sorted by camera."""

    def views(split: str) -> list[View]:
        return [
            (cam, dark, per_camera(config, split, dark))
            for dark in (False, True)
            for cam in _LLCM_CAMERAS
            if not (dark and split == "test" and cam == _LLCM_NO_TEST_NIR)
        ]

    rows = list_persons(config, views)
    test = rows["split"] == "test"
    paths = []
    lists = zip(_numbers(rows), rows["infrared"].tolist(), test.tolist(), strict=True)
    for (pid, cam, number), dark, tested in lists:
        kind = "nir" if dark else "vis"
        name = f"{pid:04d}_c{cam:02d}_s{number:06d}_f{number}_{kind}.jpg"
        copy = (f"test_{kind}/cam{cam}/{pid:04d}/{name}",) if tested else ()
        paths.append((f"{kind}/{pid:04d}/{name}", *copy))
    first = [places[0] for places in paths]
    texts = {"idx/test_id.txt": _ids(rows[test])}
    for part, chosen in (("train", ~test), ("test", test)):
        for kind, dark in (("vis", False), ("nir", True)):
            here = np.flatnonzero(chosen & (rows["infrared"] == dark))
            texts[f"idx/{part}_{kind}.txt"] = _labelled(rows, first, here)
    return Listing(rows=rows, paths=tuple(paths), texts=texts)


def _market(config: SyntheticConfig) -> Listing:
    """Six visible cameras; the first image of a test person in each is a query."""
    if config.test_visible_per_camera < 2:
        raise MixERValueError(
            "Market-1501 takes one image per test identity and camera as a query and the others as "
            "gallery: test_visible_per_camera must be at least 2, got "
            f"{config.test_visible_per_camera}."
        )

    def views(split: str) -> list[View]:
        count = per_camera(config, split, False)
        return [(cam, False, count) for cam in range(1, _MARKET_CAMERAS + 1)]

    persons = list_persons(config, views)
    tested = int((persons["split"] == "test").sum())
    rows = np.concatenate(
        [
            persons,
            list_strangers("extra", 0, max(1, int(_MARKET_DISTRACTORS * tested)), _MARKET_CAMERAS),
            list_strangers("junk", -1, max(1, int(_MARKET_JUNK * tested)), _MARKET_CAMERAS),
        ]
    )
    paths = []
    for split, (pid, cam, number), index in zip(
        rows["split"].tolist(), _numbers(rows), rows["index"].tolist(), strict=True
    ):
        if split in ("train", "val"):
            folder = "bounding_box_train"
        else:
            folder = "query" if split == "test" and number == 1 else "bounding_box_test"
        name = "-1" if pid == -1 else f"{pid:04d}"
        frame = number if pid > 0 else index + 1
        paths.append((f"{folder}/{name}_c{cam}s1_{frame:06d}_{int(folder != 'query'):02d}.jpg",))
    return Listing(rows=rows, paths=tuple(paths))


def _numbers(rows: NDArray[np.void]) -> list[tuple[int, int, int]]:
    columns = (rows[name].tolist() for name in ("pid", "cam", "number"))
    return list(zip(*columns, strict=True))


def _ids(rows: NDArray[np.void]) -> str:
    return ",".join(map(str, np.unique(rows["pid"]).tolist())) + "\n"


def _labelled(rows: NDArray[np.void], paths: list[str], here: NDArray[np.intp]) -> str:
    """Lines ``path label``; labels count the identities of the list from 0."""
    _, labels = np.unique(rows["pid"][here], return_inverse=True)
    lines = zip(here.tolist(), labels.reshape(-1).tolist(), strict=True)
    return "".join(f"{paths[row]} {label}\n" for row, label in lines)
