"""The doors: for each kind of file, sound ones, and the public call that reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from mixer_plugin import FeatureSet, MixERConfig
from mixer_plugin.baselines import create_baseline
from mixer_plugin.benchmarks.experiment.config import load_config
from mixer_plugin.checkpoints import load_base_state_dict
from mixer_plugin.data import (
    SyntheticConfig,
    diagnose,
    read_llcm,
    read_market,
    read_regdb,
    read_sysu,
    write_layout,
)
from mixer_plugin.data.datasets.image_checks import open_image
from mixer_plugin.data.datasets.own_images import read_own_images
from mixer_plugin.evaluation.protocols.gallery_draws import read_permutation
from mixer_plugin.search import MixedModalIndex
from tests.unit.features.test_sysu_features import write_5, write_7_3

Reads = Mapping[Path, Callable[[], object]]
_SMALL = SyntheticConfig(
    train_ids=2,
    val_ids=1,
    test_ids=2,
    visible_per_camera=2,
    infrared_per_camera=1,
    test_visible_per_camera=2,
    test_infrared_per_camera=1,
    height=16,
    width=8,
)


def _features(rows: int = 4) -> FeatureSet:
    generator = torch.Generator().manual_seed(0)
    return FeatureSet(
        erased=torch.randn(rows, 6, generator=generator),
        related=torch.randn(rows, 6, generator=generator),
        ids=torch.arange(rows) // 2,
        cams=1 + 2 * (torch.arange(rows) % 2),
        modality=torch.arange(rows) % 2,
        paths=tuple(f"cam1/{row:04d}.jpg" for row in range(rows)),
    )


def split_lists(folder: Path) -> Reads:
    """Lists of identities and images of four data sets; the doctor reads them, too."""
    reads: dict[Path, Callable[[], object]] = {}
    readers = {
        "sysu": (lambda root: read_sysu(root, "train"), ["exp/train_id.txt", "exp/test_id.txt"]),
        "regdb": (lambda root: read_regdb(root, "train", 1), ["idx/train_visible_1.txt"]),
        "llcm": (lambda root: read_llcm(root, "train"), ["idx/train_vis.txt", "idx/test_id.txt"]),
    }
    for layout, (read, lists) in readers.items():
        root = folder / layout
        write_layout(root, _SMALL, layout)
        for name in lists:

            def both(read=read, root=root):
                diagnose(root, images=False)
                read(root)

            reads[root / name] = both
    return reads


def image_names(folder: Path) -> Reads:
    """A list whose lines become names of image files of Market-1501."""
    root, names = folder / "market", folder / "names.txt"
    write_layout(root, _SMALL, "market")
    image = next((root / "query").iterdir())
    names.write_text("\n".join(path.name for path in sorted((root / "query").iterdir())))
    sound = image.read_bytes()

    def read() -> None:
        for each in (root / "query").iterdir():
            each.unlink()
        for line in names.read_bytes().splitlines()[:8]:
            name = (
                line.replace(b"\0", b"")
                .replace(b"/", b"_")[:200]
                .decode("utf-8", "surrogateescape")
            )
            if name not in ("", ".", ".."):
                (root / "query" / name).write_bytes(sound)
        read_market(root, "query")

    return {names: read}


def label_tables(folder: Path) -> Reads:
    """CSV beside ``.npy``, and the ``.npy``."""
    features = _features()
    matrix, table = folder / "erased.npy", folder / "labels.csv"
    np.save(matrix, features.erased.numpy())
    rows = zip(
        features.paths,
        features.ids.tolist(),
        features.cams.tolist(),
        features.modality.tolist(),
        strict=True,
    )
    lines = [",".join(map(str, row)) for row in rows]
    table.write_text("\n".join(["path,id,cam,modality", *lines]) + "\n")
    FeatureSet.load(matrix, labels=table)

    def read() -> object:
        return FeatureSet.load(matrix, labels=table)

    return {table: read, matrix: read}


def own_tables(folder: Path) -> Reads:
    """A table of one's own images, and one of their cameras."""
    from PIL import Image

    root = folder / "own"
    for name in ("gate/0.png", "gate/1.png", "hall/2.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    table, cameras = folder / "own" / "images.csv", folder / "cameras.csv"
    table.write_text(
        "path,id,camera,modality,time\n"
        "gate/0.png,1,3,visible,12.5\n"
        "gate/1.png,,3,,2026-11-28T14:03:05+01:00\n"
        "hall/2.png,?,4,ir,\n"
    )
    cameras.write_text("folder,camera,modality\ngate,3,visible\nhall,4,infrared\n")

    def read() -> object:
        return read_own_images(table, cameras=cameras)

    return {table: read, cameras: read}


def npz(folder: Path) -> Reads:
    """Feature files, compressed or not."""
    plain, packed = folder / "features.npz", folder / "packed.npz"
    _features().save(plain)
    with np.load(plain) as arrays:
        np.savez_compressed(packed, **arrays)
    return {path: lambda path=path: FeatureSet.load(path) for path in (plain, packed)}


def mat(folder: Path) -> Reads:
    """Draws of the gallery and features, MATLAB 5 and 7.3, packed or not."""
    from scipy.io import savemat

    reads: dict[Path, Callable[[], object]] = {}
    draws = np.empty((6, 1), dtype=object)
    for camera in range(6):
        cells = np.empty((3, 1), dtype=object)
        cells[:, 0] = [np.array([[2.0, 1.0, 3.0]] * 2), np.empty((0, 0)), np.array([[1.0, 2.0]])]
        draws[camera, 0] = cells
    for packed in (False, True):
        path = folder / f"rand_perm_cam_{packed}.mat"
        savemat(path, {"rand_perm_cam": draws}, do_compression=packed)
        reads[path] = lambda path=path: read_permutation(path)
    for name, write in (("five", write_5), ("seven", write_7_3)):
        (folder / name).mkdir()
        path = folder / name / "f_cam1.mat"
        write(path, [np.ones((1, 3)), np.zeros((2, 3))])
        reads[path] = lambda path=path: FeatureSet.load(path.parent)
    return reads


def images(folder: Path) -> Reads:
    """One small picture in six formats."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
    reads: dict[Path, Callable[[], object]] = {}
    for suffix in ("jpg", "png", "bmp", "gif", "tif", "webp"):
        path = folder / f"0001.{suffix}"
        Image.fromarray(pixels).save(path)
        reads[path] = lambda path=path: open_image(path, 0)
    return reads


def torch_files(folder: Path) -> Reads:
    """Checkpoints of both formats of ``torch.save``."""
    torch.manual_seed(0)
    model = create_baseline("saai-base", num_classes=4, trunk="small")
    held = {"net": dict([*model.state_dict().items()][:3]), "epoch": np.float64(3), "mAP": 0.5}
    reads: dict[Path, Callable[[], object]] = {}
    for zipped in (True, False):
        path = folder / f"best_{zipped}.t"
        torch.save(held, path, _use_new_zipfile_serialization=zipped)
        reads[path] = lambda path=path: load_base_state_dict(model, path, strict=False)
    return reads


def yaml(folder: Path) -> Reads:
    """Configurations of a run and of the losses."""
    run, losses = folder / "demo.yaml", folder / "mixer.yaml"
    shutil.copy(Path(__file__).parents[2] / "benchmarks/configs/demo.yaml", run)
    MixERConfig().to_yaml(losses)
    return {run: lambda: load_config(run), losses: lambda: MixERConfig.from_yaml(losses)}


def index_files(folder: Path) -> Reads:
    """Search indexes."""
    path = folder / "gallery.index"
    index = MixedModalIndex()
    index.add(_features(8))
    index.save(path)
    return {path: lambda: MixedModalIndex.load(path).search(_features(2), 2)}


DOORS: Mapping[str, Callable[[Path], Reads]] = {
    door.__name__: door
    for door in (
        split_lists,
        image_names,
        label_tables,
        own_tables,
        npz,
        mat,
        images,
        torch_files,
        yaml,
        index_files,
    )
}
