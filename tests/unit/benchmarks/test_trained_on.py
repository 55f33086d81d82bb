"""A trained network knows whom it was trained on, and is not tested on them unawares."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mixer_plugin.benchmarks.experiment.cells import plan_jobs
from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.run_cell import run_job
from mixer_plugin.benchmarks.experiment.sources import ImageSource, Sources
from mixer_plugin.benchmarks.experiment.trained_network import (
    Built,
    TrainedOn,
    load_trained,
    save_trained,
)
from mixer_plugin.cli import main
from mixer_plugin.data.datasets.layouts import read_images
from mixer_plugin.data.synthetic import layout_config, write_layout
from mixer_plugin.errors import MixERValueError, MixERWarning
from mixer_plugin.features import FeatureSet

SIZES = {"train_ids": 6, "val_ids": 2, "test_ids": 6, "height": 32, "width": 16}


def write(root: Path, layout: str, **changes: int) -> Path:
    write_layout(root, layout_config(layout, **{**SIZES, **changes}), layout)
    return root


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roots")
    for layout in ("sysu", "regdb", "llcm"):
        write(folder / layout, layout)
    return folder


def network(path: Path, root: Path, layout: str, trial: int | None = None) -> str:
    """A network with initial weights that knows the training images of a data set."""
    images = read_images(root, "trainval" if layout == "sysu" else "train", trial=trial)
    built = Built(
        baseline="saai-base",
        options={"trunk": "small", "image_size": [32, 16]},
        classes=images.labels()[1],
        image_size=(32, 16),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        trained_on=TrainedOn.of(images, layout, trial),
    )
    save_trained(path, built.build(), built)
    return str(path)


def ids(root: Path, split: str, trial: int | None = None) -> set[int]:
    return set(read_images(root, split, trial=trial).ids.tolist())


def test_regdb_is_read_at_the_trial_of_the_training(
    roots: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root, out = roots / "regdb", str(tmp_path / "x.npz")
    checkpoint = network(tmp_path / "n.pt", root, "regdb", 2)
    known = load_trained(checkpoint)[1].trained_on
    assert (known.layout, known.trial) == ("regdb", 2)
    assert set(known.identities) == ids(root, "train", 2)
    assert main(["extract", checkpoint, str(root), "--out", out]) == 0
    assert set(FeatureSet.load(out).ids.tolist()) == ids(root, "test", 2)
    shared = sorted(ids(root, "train", 2) & ids(root, "test", 1))
    assert shared
    Path(out).unlink()
    copy = shutil.copytree(root, tmp_path / "copy")
    for there in (root, copy):
        for words in (
            ["extract", checkpoint, there, "--out", out],
            ["probe", checkpoint, "--root", there],
        ):
            capsys.readouterr()
            assert main([*map(str, words), "--trial", "1"]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert f"on {len(shared)} of the {len(ids(root, 'test', 1))} identities" in line
            assert f"such as {shared[0]}" in line
            assert "of trial 2" in line
    assert not Path(out).exists()
    # The training images of another half are no test.
    words = ["extract", checkpoint, str(root), "--out", out, "--trial", "1", "--split", "train"]
    assert main(words) == 0


def test_validation_identities_that_were_trained_on(roots: Path, tmp_path: Path) -> None:
    checkpoint = network(tmp_path / "n.pt", roots / "sysu", "sysu")
    words = ["extract", checkpoint, str(roots / "sysu"), "--out", str(tmp_path / "x.npz")]
    assert main([*words, "--split", "val"]) == 2
    assert main([*words, "--split", "trainval"]) == 0
    assert main(words) == 0


def test_lists_that_were_changed_since_the_training(
    roots: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Persons of the training became persons of the test."""
    root = shutil.copytree(roots / "sysu", tmp_path / "sysu")
    checkpoint = network(tmp_path / "n.pt", root, "sysu")
    (root / "exp" / "test_id.txt").write_text("1,2\n")
    (root / "exp" / "train_id.txt").write_text("3,4,5,6\n")
    out = str(tmp_path / "x.npz")
    assert main(["extract", checkpoint, str(root), "--out", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "on 2 of the 2 identities that it is tested on, such as 1" in line
    assert f"The lists of {root} name them for training or were changed since" in line

    checkpoint = network(tmp_path / "n.pt", roots / "llcm", "llcm")
    root = write(tmp_path / "llcm", "llcm", train_ids=2)  # its persons 5 to 8 are tested on
    (root / "synthetic.json").unlink()
    assert main(["extract", checkpoint, str(root), "--out", out]) == 2
    assert "such as 5" in capsys.readouterr().err


def test_equal_numbers_of_another_data_set_are_other_persons(roots: Path, tmp_path: Path) -> None:
    checkpoint = network(tmp_path / "n.pt", roots / "sysu", "sysu")
    other = write(tmp_path / "other", "sysu", train_ids=1, val_ids=1, seed=3)
    assert ids(other, "test") & set(load_trained(checkpoint)[1].trained_on.identities)
    words = ["extract", checkpoint, str(other), "--out", str(tmp_path / "x.npz")]
    assert main(words) == 0
    # Without the note of the generator, nothing says that it is another one.
    (other / "synthetic.json").unlink()
    assert main(words) == 2


def test_a_file_that_does_not_say_it(roots: Path, tmp_path: Path) -> None:
    checkpoint = network(tmp_path / "n.pt", roots / "regdb", "regdb", 2)
    held = torch.load(checkpoint)
    del held["built"]["trained_on"]
    torch.save(held, checkpoint)
    words = ["extract", checkpoint, str(roots / "regdb"), "--out", str(tmp_path / "x.npz")]
    with pytest.warns(MixERWarning, match="does not say which persons"):
        assert main(words) == 0
    assert set(FeatureSet.load(words[-1]).ids.tolist()) == ids(roots / "regdb", "test", 1)


@pytest.mark.parametrize("values", [{"classes": "6"}, {"mean": [0.5, 0.5]}, {"trained_on": [1]}])
def test_a_file_with_wrong_values(
    values: dict, roots: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoint = network(tmp_path / "n.pt", roots / "sysu", "sysu")
    held = torch.load(checkpoint)
    held["built"].update(values)
    torch.save(held, checkpoint)
    words = ["extract", checkpoint, str(roots / "sysu"), "--out", str(tmp_path / "x.npz")]
    assert main(words) == 2
    assert f"n.pt: built.{next(iter(values))} is " in capsys.readouterr().err


def test_table3_tests_on_nobody_that_it_trains_on(
    roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "name": "t",
        "seeds": [0],
        "image_size": [32, 16],
        "baselines": {"saai-base": {"trunk": "small"}},
        "data": {"root": roots / "sysu"},
    }
    val = config_from_dict(
        {**values, "data": {"root": roots / "sysu", "split": "val"}, "protocol": "full"}
    )
    trained, tested = (
        read(tmp_path, "cues", 0) for read in (val.data.read_train, val.data.read_test)
    )
    assert not set(trained.ids.tolist()) & set(tested.ids.tolist())
    assert len(set(trained.ids.tolist())) == SIZES["train_ids"]
    both = Sources(train=ImageSource(root=str(roots / "sysu")))
    assert len(set(both.read_train(tmp_path, "cues", 0).ids.tolist())) == 6 + 2

    (job, *_) = plan_jobs(config_from_dict(values))
    monkeypatch.setattr(Sources, "read_test", Sources.read_train)
    with pytest.raises(MixERValueError, match="trained on 8 of the 8 identities"):
        run_job(job, tmp_path / "out")
