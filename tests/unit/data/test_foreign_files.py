"""What other systems leave in a data set: marks, hidden files, names, links, copies, numbers."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from mixer_plugin.cli import main
from mixer_plugin.data.datasets.doctor import diagnose
from mixer_plugin.data.datasets.image_checks import open_image
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.layouts import read_images
from mixer_plugin.errors import MixERTypeError, MixERValueError
from tests.unit.data.small_roots import WRITERS

LISTS = {
    "sysu": "exp/train_id.txt",
    "regdb": "idx/train_visible_1.txt",
    "llcm": "idx/train_vis.txt",
}
FOLDERS = {"sysu": "cam1/0002", "regdb": "Visible/2", "llcm": "vis/0002", "market": "query"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    roots = {layout: tmp_path_factory.mktemp("roots") / layout for layout in WRITERS}
    for layout, write in WRITERS.items():
        write(roots[layout])
    return roots


@pytest.fixture
def copied(written: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda layout: Path(shutil.copytree(written[layout], tmp_path / layout))


def _faults(root: Path, layout: str, **options: bool) -> list[str]:
    return [str(f) for f in diagnose(root, layout, **options) if f.severity != "info"]  # type: ignore[arg-type]


def _split(layout: str) -> str:
    return "test" if layout == "market" else "train"


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("layout", LISTS)
def test_lists_of_windows_read_as_others(
    layout: str, coding: str, written: dict[str, Path], copied: Callable[[str], Path]
) -> None:
    root = copied(layout)
    path = root / LISTS[layout]
    text = path.read_text().replace("/", "\\").replace("\n", "\r\n")
    path.write_bytes(text.encode(coding))
    expected = read_images(written[layout], "train", layout=layout)
    found = read_images(root, "train", layout=layout)
    assert [os.path.relpath(path, root) for path in found.paths] == [
        os.path.relpath(path, written[layout]) for path in expected.paths
    ]
    assert _faults(root, layout, images=False) == []


@pytest.mark.parametrize("layout", WRITERS)
def test_what_systems_leave_is_passed_over(layout: str, copied: Callable[[str], Path]) -> None:
    root = copied(layout)
    expected = len(read_images(root, _split(layout), layout=layout))
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in ("._0001.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png"):
            (folder / name).write_bytes(b"\0\5\x16\7")
        (folder / "__MACOSX").mkdir()
    assert len(read_images(root, _split(layout), layout=layout)) == expected
    assert _faults(root, layout) == []


def test_lines_of_hidden_files_are_passed_over(copied: Callable[[str], Path]) -> None:
    root = copied("regdb")
    with (root / LISTS["regdb"]).open("a") as file:
        file.write("Visible/1/._v_1_1.bmp 0\nVisible/1/Thumbs.db 0\n")
    assert len(read_images(root, "train")) == 18
    faults = _faults(root, "regdb", images=False)
    assert len(faults) == 1
    assert "warning" in faults[0]
    assert "Visible/1/._v_1_1.bmp, Visible/1/Thumbs.db" in faults[0]


def test_names_that_are_no_text(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = copied("sysu")
    folder = root / "cam1/0002"
    os.rename(folder / "0001.jpg", os.fsencode(folder) + b"/\xb8\xb1.jpg")
    assert main(["doctor", str(root)]) == 1
    out = capsys.readouterr().out
    assert "\\udcb8\\udcb1.jpg" in out
    out.encode()


def test_a_list_of_names_that_are_no_text(copied: Callable[[str], Path]) -> None:
    root = copied("regdb")
    path = root / LISTS["regdb"]
    folder = os.fsencode(root / "Visible/1")
    os.rename(folder + b"/v_1_1.bmp", folder + b"/\xb8\xb1.bmp")
    path.write_bytes(path.read_bytes().replace(b"/1/v_1_1.bmp", b"/1/\xb8\xb1.bmp"))
    images = read_images(root, "train")
    assert any(os.fsencode(path).endswith(b"\xb8\xb1.bmp") for path in images.paths)
    assert not any("train_visible_1" in fault for fault in _faults(root, "regdb"))


LARGE = "20250101120000123456"


@pytest.mark.parametrize("number", [LARGE, "9" * 5000])
@pytest.mark.parametrize("layout", ["sysu", "regdb", "llcm", "llcm copies"])
def test_numbers_beyond_64_bits(
    layout: str, number: str, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    layout, _, copies = layout.partition(" ")
    root = copied(layout)
    path = root / LISTS[layout]
    if copies:
        path = root / "idx/test_id.txt"
        for kind in ("vis", "nir"):
            (root / f"idx/test_{kind}.txt").unlink()
    line = {"regdb": f"\nVisible/{number}/x.bmp 0", "sysu": f",{number}"}
    line["llcm"] = f",{number}" if copies else f"\nvis/0001/0001_c01_s1_f1_vis.jpg {number}"
    path.write_text(path.read_text().rstrip() + line[layout])
    with pytest.raises(MixERValueError, match=f"{path.name}.*{number[:20]}"):
        read_images(root, "test" if copies else "train", layout=layout)
    assert main(["doctor", str(root), "--no-images"]) == 1
    assert number[:20] in capsys.readouterr().out


@pytest.mark.parametrize("name", [f"{LARGE}_c1s1_000001_00.jpg", f"0005_c{LARGE}s1_000001_00.jpg"])
def test_numbers_beyond_64_bits_in_a_name(name: str, copied: Callable[[str], Path]) -> None:
    root = copied("market")
    next((root / "query").glob("*.jpg")).rename(root / "query" / name)
    with pytest.raises(MixERValueError, match=name):
        read_images(root, "query")
    assert any(name in fault for fault in _faults(root, "market", images=False))


@pytest.mark.parametrize("value", [1.5, np.nan, np.inf, 2.0**63, -(2**70)])
def test_split_files_and_lists_hold_whole_numbers(
    value: float, copied: Callable[[str], Path]
) -> None:
    root = copied("sysu")
    (root / "exp/train_id.txt").unlink()
    scipy.io.savemat(root / "exp/train_id.mat", {"id": np.asarray([1.0, float(value)])})
    with pytest.raises(MixERValueError, match=r"train_id\.mat cannot be read as identities"):
        read_images(root, "train")
    ids = np.asarray([1, value], dtype=object if isinstance(value, int) else None)
    with pytest.raises(MixERValueError, match=r"ids: .* is not a whole number of 64 bits"):
        ImageList(root, ("a", "b"), ids, np.zeros(2, int), np.zeros(2, int))


def test_images_are_no_numbers() -> None:
    with pytest.raises(MixERTypeError, match="cams: expected whole numbers"):
        ImageList(Path(), ("a",), [1], ["one"], [0])  # type: ignore[arg-type]


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("layout", WRITERS)
def test_two_names_of_one_file_are_refused(
    layout: str, link: Callable[[str, str], None], copied: Callable[[str], Path]
) -> None:
    root = copied(layout)
    folder = root / FOLDERS[layout]
    first = sorted(folder.iterdir())[0]
    new = {"sysu": "0009.jpg", "market": first.stem + " (1).jpg", "regdb": "copy.bmp"}
    second = folder / new.get(layout, first.name.replace("_f1_", "_f9_"))
    link(str(first), str(second))
    if layout in ("regdb", "llcm"):
        with (root / LISTS[layout]).open("a") as file:
            file.write(f"\n{FOLDERS[layout]}/{second.name} 1\n")
    with pytest.raises(MixERValueError, match="same file under several names") as caught:
        read_images(root, _split(layout), layout=layout)
    assert second.name in str(caught.value)
    assert any(second.name in fault for fault in _faults(root, layout, images=False))


def test_ways_around_in_a_list_count_once(copied: Callable[[str], Path]) -> None:
    root = copied("regdb")
    with (root / LISTS["regdb"]).open("a") as file:
        file.write("Visible/2/../1/v_1_1.bmp 0\n./Visible//1/v_2_1.bmp 0\n")
    assert len(read_images(root, "train")) == 18
    with (root / LISTS["regdb"]).open("a") as file:
        file.write("../other/1/x.bmp 0\n")
    with pytest.raises(MixERValueError, match="cannot be read in line 12"):
        read_images(root, "train")


def test_copies_of_an_image_are_a_warning(copied: Callable[[str], Path]) -> None:
    root = copied("market")
    first = sorted((root / "query").glob("*.jpg"))[0]
    shutil.copy(first, first.with_name(first.stem + " (1).jpg"))
    faults = _faults(root, "market")
    assert len(faults) == 1
    assert faults[0].startswith("warning: The same image several times")
    assert "(1).jpg" in faults[0]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(size: tuple[int, int], bits: int, colour: int, rows: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0))
    body = _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def _tiff(path: Path) -> None:
    """16-bit RGB, 4 x 4, uncompressed."""
    tags = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 210), (277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 1, 96)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    head += b"".join(struct.pack("<HHII", *tag) for tag in tags) + b"\0" * 4
    path.write_bytes(head.ljust(200, b"\0") + struct.pack("<3H", 16, 16, 16).ljust(10) + b"\1" * 96)


@pytest.mark.parametrize("kind", ["grey", "grey and alpha", "RGB", "RGBA", "TIFF"])
def test_more_than_eight_bits_are_seen_in_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    if kind == "TIFF":
        _tiff(path)
    else:
        colour, bands = {"grey": (0, 1), "grey and alpha": (4, 2), "RGB": (2, 3)}.get(kind, (6, 4))
        path.write_bytes(_png((4, 4), 16, colour, (b"\0" + b"\1\2" * 4 * bands) * 4))
    with pytest.raises(MixERValueError, match=r"x\.jpg has .* pixels; expected 8 bits"):
        open_image(path, 1)


def _header_of_a_jpeg(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, "JPEG")
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["png", "jpeg", "pipe", "folder", "other format", "decoder"])
def test_whatever_a_decoder_raises_names_the_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jpg"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as training code sets it
    if kind == "png":
        path.write_bytes(_png((40000, 40000), 8, 2, b"\0" * 100))
    elif kind == "jpeg":
        _header_of_a_jpeg(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        Image.new("RGB", (4, 4)).save(path, "PCX" if kind == "other format" else "PNG")
    if kind == "decoder":

        def broken(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(Image.Image, "convert", broken)
    with pytest.raises(MixERValueError, match=r"x\.jpg cannot be read as an image"):
        open_image(path, 0)


def test_workers_are_at_least_one(
    written: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for workers in ("0", "-1"):
        for more in ([], ["--no-images"]):
            assert main(["doctor", str(written["market"]), "--workers", workers, *more]) == 2
            assert f"workers must be at least 1, got {workers}" in capsys.readouterr().err


def test_a_split_file_of_matlab_7_3(copied: Callable[[str], Path]) -> None:
    root = copied("sysu")
    (root / "exp/test_id.txt").unlink()
    path = root / "exp/test_id.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["id"] = np.array([[5.0, 6, 7]]).T
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124, b"\0") + b"\0\2IM")
    assert set(read_images(root, "test").ids.tolist()) == {5, 6, 7}
