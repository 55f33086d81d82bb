"""The same persons in four released layouts, as public loaders and our readers read them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mixer_plugin.data import read_images
from mixer_plugin.data.datasets.doctor import diagnose
from mixer_plugin.data.synthetic import chunks, layout_config, plan, render, write, write_layout
from mixer_plugin.data.synthetic.layouts import list_files
from mixer_plugin.errors import MixERTypeError, MixERValueError

LAYOUTS = ("sysu", "regdb", "llcm", "market")
SMALL = {"train_ids": 3, "val_ids": 1, "test_ids": 4, "height": 32, "width": 16}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return {
        layout: write_layout(folder / layout, layout_config(layout, **SMALL), layout).root
        for layout in LAYOUTS
    }


def _content(root: Path) -> dict[str, object]:
    """What a set consists of; the header of a MATLAB file holds the time."""
    files = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    return {
        name: str(scipy.io.loadmat(path)["rand_perm_cam"].tolist())
        if name.endswith(".mat")
        else path.read_bytes()
        for name, path in files.items()
    }


# SHA-256 of names, of what each image shows and of the split files.
PINNED_FILES = {
    "sysu": "837879377bb42266e7a94671f142a329667f9d3d870151a035e68740d79fd88e",
    "regdb": "09a652d6005a8f5796d9b6c99b28cc5a382671975a92910ac2aa79681d1b5c18",
    "llcm": "577b6fd70994b459fc958eac872c89b1bec99197903924ea59e268a263dd1c92",
    "market": "b7580aa96fda6f319076db1c57730cea6e09f4e1965d78b6e1e2f0ac77365c8a",
}

# Means of the channels of six images: means, not a hash, because sine and exponential differ in the
# last bit between processors.
PINNED_MEANS = {
    "sysu": [
        [135.68, 123.94, 141.63],
        [133.21, 114.21, 149.39],
        [104.54, 142.73, 117.32],
        [135.19, 109.61, 133.09],
        [169.15, 169.15, 169.15],
        [172.34, 172.34, 172.34],
    ],
    "regdb": [
        [135.68, 123.94, 141.63],
        [112.1, 112.1, 112.1],
        [157.87, 134.21, 143.17],
        [139.38, 139.38, 139.38],
        [167.31, 157.75, 181.88],
        [143.28, 143.28, 143.28],
    ],
    "llcm": [
        [135.68, 123.94, 141.63],
        [156.88, 143.8, 155.19],
        [123.35, 133.88, 146.86],
        [134.51, 134.51, 134.51],
        [130.68, 142.36, 161.86],
        [116.61, 116.61, 116.61],
    ],
    "market": [
        [135.68, 123.94, 141.63],
        [157.78, 142.75, 147.19],
        [110.61, 116.07, 138.72],
        [115.34, 113.8, 122.06],
        [98.65, 136.63, 102.83],
        [183.75, 140.44, 198.22],
    ],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_pinned(layout: str) -> None:
    config = layout_config(layout, **SMALL, seed=11)
    files = list_files(config, layout)
    cells = [] if files.permutation is None else files.permutation[:, 0]
    draws = [[matrix.tolist() for matrix in cell[0]] for cell in cells]
    content = [files.rows.tolist(), files.paths, sorted(files.texts.items()), draws]
    found = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    assert found == PINNED_FILES[layout]
    rows = files.rows[np.linspace(0, len(files.rows) - 1, 6).astype(int)]
    means = render(config, rows).mean((1, 2)).round(2).tolist()
    np.testing.assert_allclose(
        means,
        PINNED_MEANS[layout],
        atol=0.1,
        err_msg=f"Other pixels: raise synthetic_config.VERSION and pin {means}",
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_depends_on_processes_or_chunks(
    layout: str, roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_CHUNK_IMAGES", 37)
    monkeypatch.setattr(chunks, "_PIXELS_PER_PROCESS", 1)
    workers = 2 if layout == "regdb" else 1  # processes are slow to start: once is enough
    root = tmp_path / "set"
    write_layout(root, layout_config(layout, **SMALL), layout, workers=workers)
    assert _content(root) == _content(roots[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_image_is_where_it_is_listed_and_the_doctor_is_content(
    layout: str, roots: dict[str, Path]
) -> None:
    files = list_files(layout_config(layout, **SMALL), layout)
    places = [place for paths in files.paths for place in paths]
    assert len(set(places)) == len(places)
    assert {*places, *files.texts} == set(_content(roots[layout])) - {
        "synthetic.json",
        "exp/rand_perm_cam.mat",
    }
    wrong = [f for f in diagnose(roots[layout], layout) if f.severity in ("error", "warning")]
    assert wrong == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_readers_find_what_each_image_shows(layout: str, roots: dict[str, Path]) -> None:
    files = list_files(layout_config(layout, **SMALL), layout)
    shown = {
        place: (row["pid"], row["infrared"], row["cam"])
        for paths, row in zip(files.paths, files.rows, strict=True)
        for place in paths
    }
    seen = set()
    for split in ("trainval" if layout == "sysu" else "train", "test"):
        images = read_images(roots[layout], split)
        for path, *found in zip(
            images.paths,
            images.ids.tolist(),
            images.modality.tolist(),
            images.cams.tolist(),
            strict=True,
        ):
            row = shown[str(Path(path).relative_to(roots[layout]))]
            count = 2 if layout == "regdb" else 3  # RegDB has no camera numbers
            assert tuple(found)[:count] == row[:count]
            seen.add(path)
    assert len(seen) == len(files.rows)


def test_a_common_image_has_the_same_pixels(roots: dict[str, Path]) -> None:
    counts = {"visible_per_camera": 10, "infrared_per_camera": 10, "test_visible_per_camera": 10}
    config = layout_config("sysu", **SMALL, **counts, test_infrared_per_camera=10)
    names = ["split", "index", "cam", "infrared", "number"]
    rows = plan(config)
    of_sysu = {
        tuple(key): image
        for key, image in zip(rows[names].tolist(), render(config, rows), strict=True)
    }
    common = {}
    for layout in LAYOUTS:
        files = list_files(own := layout_config(layout, **SMALL), layout)
        keys = [tuple(key) for key in files.rows[names].tolist()]
        places = [i for i, key in enumerate(keys) if key in of_sysu]
        for i, image in zip(places, render(own, files.rows[places]), strict=True):
            np.testing.assert_array_equal(image, of_sysu[keys[i]])
        common[layout] = len(places) / len(keys)
        if layout == "regdb":  # bitmaps: what is stored is what was rendered
            for i in places:
                stored = np.asarray(Image.open(roots[layout] / files.paths[i][0]))
                np.testing.assert_array_equal(stored, of_sysu[keys[i]])
    assert common["sysu"] == common["regdb"] == 1
    assert min(common["llcm"], common["market"]) > 0.25


def test_cameras_of_both_modalities_take_different_images_of_one_place() -> None:
    config = layout_config("llcm", **SMALL, pose=0.0, light=0.0, noise=0.0, occlusion=0.0)
    rows = list_files(config, "llcm").rows
    rows = rows[(rows["pid"] == 1) & (rows["cam"] == 7) & (rows["number"] == 1)]
    assert rows["infrared"].tolist() == [False, True]
    visible, infrared = render(config, rows)
    assert (visible != infrared).mean() > 0.5
    # Extra persons and junk are nobody of the splits.
    market = list_files(layout_config("market", **SMALL), "market").rows
    first = [market[market["split"] == kind][:1] for kind in ("train", "test", "extra", "junk")]
    images = [render(config, row) for row in first]
    assert all((a != b).mean() > 0.5 for i, a in enumerate(images) for b in images[:i])


def test_sysu_as_the_script_family_reads_it(roots: dict[str, Path]) -> None:
    files = list_files(layout_config("sysu", **SMALL), "sysu")
    for (place,), row in zip(files.paths, files.rows, strict=True):
        path = str(roots["sysu"] / place)
        assert (int(path[-15]), int(path[-13:-9])) == (row["cam"], row["pid"])


@pytest.mark.parametrize("trial", range(1, 11))
def test_regdb_as_the_public_loaders_read_it(trial: int, roots: dict[str, Path]) -> None:
    root = str(roots["regdb"])
    halves = {}
    for part in ("train", "test"):
        labels_of = []
        for kind in ("visible", "thermal"):
            lines = Path(f"{root}/idx/{part}_{kind}_{trial}.txt").read_text().splitlines()
            paths = [f"{root}/{line.split(' ')[0]}" for line in lines]
            labels = [int(line.split(" ")[1]) for line in lines]
            assert sorted(set(labels)) == list(range(4))
            assert {path.split("/")[-3] for path in paths} == {kind.capitalize()}
            ids = [int(path.split("/")[-2]) for path in paths]
            assert len(set(zip(ids, labels, strict=True))) == 4
            assert len(set(paths)) == 4 * 10
            assert all(Path(path).is_file() for path in paths)
            labels_of.append(dict(zip(ids, labels, strict=True)))
        assert labels_of[0] == labels_of[1]
        halves[part] = set(labels_of[0])
    assert halves["train"] | halves["test"] == set(range(1, 9))
    assert not halves["train"] & halves["test"]


def test_regdbs_halves_differ(roots: dict[str, Path]) -> None:
    texts = list_files(layout_config("regdb", **SMALL), "regdb").texts
    assert len({texts[f"idx/train_visible_{trial}.txt"] for trial in range(1, 11)}) > 5


def test_llcm_as_the_public_loaders_read_it(roots: dict[str, Path]) -> None:
    root = str(roots["llcm"])
    assert "cam" not in root  # as DEEN demands of the path
    ids = (roots["llcm"] / "idx/test_id.txt").read_text().splitlines()[0].split(",")
    assert ids == ["5", "6", "7", "8"]
    for kind, cameras, count in (
        ("vis", {1, 2, 3, 4, 5, 6, 7, 8, 9}, 3),
        ("nir", {1, 2, 4, 5, 6, 7, 8, 9}, 2),
    ):
        found = []
        for identity in ids:
            for cam in cameras:
                folder = f"{root}/test_{kind}/cam{cam}/{int(identity):04d}"
                found += [f"{folder}/{name}" for name in sorted(os.listdir(folder))]
        assert len(found) == 4 * count * len(cameras)
        for path in found:
            cam, pid = path.split("cam")[1][0], path.split("cam")[1][2:6]
            assert Path(path).name.startswith(f"{pid}_c{int(cam):02d}_s")
            # The second place holds a file of its own: changing one leaves the other alone.
            twin = Path(root) / kind / pid / Path(path).name
            assert twin.read_bytes() == Path(path).read_bytes()
            assert not os.path.samefile(twin, path)
        assert {int(name[3:]) for name in os.listdir(f"{root}/test_{kind}")} == cameras
        lines = (roots["llcm"] / f"idx/test_{kind}.txt").read_text().splitlines()
        assert sorted(Path(line.split()[0]).name for line in lines) == sorted(
            Path(path).name for path in found
        )
        train = (roots["llcm"] / f"idx/train_{kind}.txt").read_text().splitlines()
        assert {int(line.split()[1]) for line in train} == {0, 1, 2, 3}
        pattern = rf"{kind}/(\d{{4}})/\1_c0\d_s\d{{6}}_f\d+_{kind}\.jpg [0-3]"
        assert all(re.fullmatch(pattern, line) for line in train)
        assert len(train) == 4 * 9 * count


def test_market_as_the_public_loaders_read_it(roots: dict[str, Path]) -> None:
    found: dict[str, list[tuple[int, int]]] = {}
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        names = sorted(os.listdir(roots["market"] / folder))
        assert all(re.fullmatch(r"(\d{4}|-1)_c\ds\d_\d{6}_\d\d\.jpg", name) for name in names)
        pairs = [re.search(r"([-\d]+)_c(\d)", name).groups() for name in names]
        found[folder] = [(int(pid), int(cam)) for pid, cam in pairs]
    train, query, gallery = found.values()
    assert {pid for pid, _ in train} == {1, 2, 3, 4}
    assert sorted(query) == [(pid, cam) for pid in (5, 6, 7, 8) for cam in range(1, 7)]
    known = [pair for pair in gallery if pair[0] > 0]
    assert sorted(set(known)) == sorted(query)
    assert len(known) == 3 * len(query)
    assert {pid for pid, _ in gallery} == {-1, 0, 5, 6, 7, 8}
    tested = len(query) + len(known)
    for pid, share in ((0, 2798 / (3368 + 13115)), (-1, 3819 / (3368 + 13115))):
        assert abs(sum(p == pid for p, _ in gallery) / tested - share) < 0.02
    pixels = np.asarray(Image.open(roots["market"] / "query" / "0005_c3s1_000001_00.jpg"))
    assert np.ptp(pixels.astype(int), axis=2).max() > 20  # coloured: camera 3 is visible here


def test_errors() -> None:
    with pytest.raises(MixERValueError, match=r"Unknown layout 'regbd'.*Did you mean 'regdb'"):
        layout_config("regbd")
    with pytest.raises(MixERValueError, match=r"infrared_cue would change nothing"):
        layout_config("market", infrared_cue=0.0)
    with pytest.raises(MixERValueError, match=r"test_visible_per_camera would change nothing"):
        layout_config("regdb", test_visible_per_camera=3)
    with pytest.raises(MixERValueError, match=r"at least 2, got 1"):
        list_files(layout_config("market", test_visible_per_camera=1), "market")
    with pytest.raises(MixERValueError, match=r"must equal visible_per_camera, 4; got 2"):
        list_files(layout_config("sysu"), "regdb")
    with pytest.raises(MixERTypeError, match="train_ids is 'many'; expected a whole number"):
        layout_config("llcm", train_ids="many")
    with pytest.raises(MixERValueError, match="leave quality out"):
        write_layout("nowhere", layout_config("regdb"), "regdb", quality=90)
    with pytest.raises(MixERValueError, match="workers must be at least 1"):
        write_layout("nowhere", layout_config("regdb"), "regdb", workers=0)
    assert layout_config("regdb", visible_per_camera=4).test_visible_per_camera == 4


def test_another_layout_is_another_set(roots: dict[str, Path]) -> None:
    config = layout_config("sysu", **SMALL)
    with pytest.raises(MixERValueError, match=r"layout \(there 'llcm', asked 'sysu'\)"):
        write_layout(roots["llcm"], config, "sysu")


COMMAND = """
from mixer_plugin.cli import main
from mixer_plugin.data.synthetic import chunks

chunks._PIXELS_PER_PROCESS = 1  # a small set, and two processes all the same
raise SystemExit(main())
"""
SIZES = {"train_ids": 200, "val_ids": 4, "test_ids": 50}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups of POSIX")
@pytest.mark.parametrize(
    ("how", "early"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGKILL, False)],
    ids=["Ctrl-C while workers import torch", "Ctrl-C", "kill"],
)
def test_the_command_continues_after_a_signal(
    how: signal.Signals, early: bool, tmp_path: Path
) -> None:
    root, aside = tmp_path / "set", tmp_path / "set.partial"
    command = [sys.executable, "-c", COMMAND, "synth", str(root), "--layout", "market"]
    for name, value in SIZES.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        record = aside / "finished.txt"
        if (early and aside.is_dir()) or (record.is_file() and record.read_text()):
            break
        time.sleep(0.01)
    if early:
        time.sleep(1)  # importing torch takes longer
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does: the workers get it too
    else:
        process.kill()
    _, errors = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert f"What is finished is in {aside}; the same command continues" in errors
        assert "Traceback" not in errors
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # no worker outlives its parent
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("worker processes are still there")
    assert not root.exists()
    result = subprocess.run([*command, "--workers", "1"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    total, before = map(int, re.search(r"(\d+) images, written, (\d+) of", result.stdout).groups())
    assert before < total
    assert early or before > 0
    assert json.loads(result.stderr.splitlines()[-1])["images"] == total
    files = list_files(layout_config("market", **SIZES), "market")
    assert len(list(root.rglob("*.jpg"))) == len(files.rows) == total
    # What the interrupted run and the second one left is whole: all of it can be read.
    for (path,) in files.paths[:: total // 200]:
        Image.open(root / path).load()
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
