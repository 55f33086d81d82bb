from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mixer_plugin.data.datasets import release
from mixer_plugin.data.datasets.doctor import diagnose
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.market import read_market
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.protocols import get_protocol
from mixer_plugin.features import FeatureSet
from tests.unit.data.small_roots import TEST, TRAIN, market

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    market(tmp_path / "Market")
    return tmp_path / "Market"


@pytest.mark.parametrize("split", list(FOLDERS))
def test_reads_a_folder(root: Path, split: str) -> None:
    images = read_market(root, split)
    names = sorted(path.name for path in (root / FOLDERS[split]).glob("*.jpg"))
    assert [str(root / FOLDERS[split] / name) for name in names] == list(images.paths)
    assert images.ids.tolist() == [int(name.split("_c")[0]) for name in names]
    assert images.cams.tolist() == [int(name.split("_c")[1][0]) for name in names]
    assert not images.modality.any()
    unknown = {-1, 0} if split == "gallery" else set()
    people = TRAIN if split == "train" else TEST
    assert set(images.ids.tolist()) == unknown | set(people)


def test_test_is_queries_and_gallery_and_fits_the_protocol(root: Path) -> None:
    images = read_market(root, "test")
    assert images.paths == read_market(root, "query").paths + read_market(root, "gallery").paths
    blank = np.ones((len(images), 2))
    features = FeatureSet(blank, None, images.ids, images.cams, images.modality, images.paths)
    protocol = get_protocol("market1501")
    protocol.check(features, settings=("uni",), query="visible")
    assert protocol.queries(features, 0).tolist() == list(range(9))
    drawn = protocol.draws(features)[0]
    assert set(images.ids[drawn].tolist()) == {0, *TEST}  # without junk
    assert drawn.min() >= 9


def test_unknown_split(root: Path) -> None:
    with pytest.raises(MixERValueError, match=r"Unknown split 'galery'. Did you mean 'gallery'"):
        read_market(root, "galery")


def test_one_missing_folder_does_not_stop_the_others(root: Path) -> None:
    for path in (root / "query").iterdir():
        path.unlink()
    (root / "query").rmdir()
    assert len(read_market(root, "train")) == 9
    with pytest.raises(MixERValueError, match="query is missing"):
        read_market(root, "test")


def test_unknown_persons_may_be_there_twice_and_known_ones_may_not(root: Path) -> None:
    gallery = root / "bounding_box_test"
    junk = (gallery / "-1_c1s1_000009_00.jpg").read_bytes()
    (gallery / "0000_c3s1_000009_00.jpg").write_bytes(junk)
    assert {f.severity for f in diagnose(root)} == {"info"}
    person = (root / "query/0005_c1s1_000015_00.jpg").read_bytes()
    (gallery / "0006_c3s1_000009_00.jpg").write_bytes(person)
    errors = [f.what for f in diagnose(root) if f.severity == "error"]
    assert len(errors) == 1
    assert "same file under several identities" in errors[0]


def test_query_without_a_match_is_a_warning(root: Path) -> None:
    for path in (root / "bounding_box_test").glob("0006_*"):
        path.unlink()
    warnings = [f.what for f in diagnose(root) if f.severity == "warning"]
    assert warnings == ["Identity 6 is in query but without an image in bounding_box_test."]
    assert 6 in read_market(root, "test").ids


def test_known_counts() -> None:
    def made(folder: str, ids: np.ndarray) -> tuple[list[str], np.ndarray]:
        return [f"/r/{folder}/{row}.jpg" for row in range(len(ids))], ids

    def joined(*parts: tuple[list[str], np.ndarray]) -> ImageList:
        ids = np.concatenate([each for _, each in parts])
        paths = tuple(path for each, _ in parts for path in each)
        return ImageList(Path("/r"), paths, ids, np.ones(len(ids)), np.zeros(len(ids)))  # type: ignore[arg-type]

    train = joined(made("bounding_box_train", np.arange(12936) % 751 + 1))
    query = made("query", np.arange(3368) % 750 + 1)
    good, distractors = np.arange(13115) % 750 + 1, np.zeros(2798, dtype=int)
    junk = np.full(3819, -1)
    gallery = made("bounding_box_test", np.concatenate([good, distractors, junk]))
    texts = [f.what for f in release.compare("market", train, joined(query, gallery))]
    assert texts == ["The splits have the sizes of Market-1501's release (751 and 750)."]
    fewer = made("bounding_box_test", np.concatenate([good, distractors[5:], junk[2:]]))
    texts = [f.what for f in release.compare("market", train, joined(query, fewer))]
    assert texts[1:] == [
        "test: 15908 gallery images; Market-1501 has 15913.",
        "test: 2793 distractors; Market-1501 has 2798.",
        "test: 3817 junk images; Market-1501 has 3819.",
    ]
