"""Market-1501: counts on labels of the released sizes, and what it cannot be asked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import get_protocol
from mixer_plugin.features import FeatureSet
from tests.unit.protocols.test_protocols import list_counts


def labelled(ids, cams, folders, slash="/"):
    paths = [f"market{slash}{f}{slash}{n:06d}.jpg" for n, f in enumerate(folders)]
    return FeatureSet(np.ones((len(ids), 1)), None, ids, cams, np.zeros(len(ids)), paths)


@pytest.fixture(scope="module")
def released():
    """3,368 queries of 750 identities; 13,115 good images, 2,798 distractors and 3,819 junk."""
    rng = np.random.default_rng(0)
    asked = 1 + np.arange(3368) % 750
    # The queries of one identity are of one camera each.
    asking = 1 + (np.arange(3368) // 750 + asked) % 6
    ids = [asked, 1 + np.arange(13115) % 750, np.zeros(2798), np.full(3819, -1)]
    cams = [asking, rng.integers(1, 7, 13115 + 2798 + 3819)]
    folders = ["query"] * 3368 + ["bounding_box_test"] * 19732
    order = rng.permutation(len(folders))
    return labelled(
        np.concatenate(ids)[order], np.concatenate(cams)[order], np.array(folders)[order].tolist()
    )


def test_counts_of_the_released_size(released):
    protocol = get_protocol("market1501")
    text = protocol.describe(released)
    assert "(0 infrared, 3368 visible;" in text
    assert "release" not in text
    asking = protocol.queries(released, 0)
    assert len(asking) == 3368
    assert protocol.queries(released, 1).tolist() == []
    ids = released.ids.numpy()
    assert len(set(ids[asking].tolist())) == 750
    (gallery,) = protocol.draws(released)
    assert len(gallery) == 15913
    assert not set(asking.tolist()) & set(gallery.tolist())
    assert int((ids[gallery] == 0).sum()) == 2798
    assert not (ids[gallery] == -1).any()
    assert int((ids == -1).sum()) == 3819
    without = protocol.describe(released[released.ids != 0])
    assert "13115 gallery images (15913), 0 distractors (2798)" in without


def test_only_the_identity_is_removed_in_the_querys_camera(released):
    ids, cams = released.ids.numpy(), released.cams.numpy()
    protocol = get_protocol("market1501")
    (gallery,) = protocol.draws(released)
    positives, items = list_counts(protocol, released, "uni", 0)
    kept, all_items = list_counts(
        get_protocol("market1501", same_camera="keep"), released, "uni", 0
    )
    _, any_id = list_counts(get_protocol("market1501", same_camera="any-id"), released, "uni", 0)
    for place, row in enumerate(protocol.queries(released, 0)):
        same, camera = ids[gallery] == ids[row], cams[gallery] == cams[row]
        assert positives[place] == (same & ~camera).sum()
        assert items[place] == 15913 - (same & camera).sum()
        assert (kept[place], all_items[place]) == (same.sum(), 15913)
        assert any_id[place] == 15913 - camera.sum()


def test_folders_are_told_by_either_slash():
    features = labelled([1, 1, 5], [1, 2, 1], ["query", "bounding_box_test", "bounding_box_train"])
    other = labelled(*[[1, 1, 5], [1, 2, 1]], ["query", "bounding_box_test", "gt_bbox"], slash="\\")
    for each in (features, other):
        protocol = get_protocol("market1501")
        assert protocol.queries(each, 0).tolist() == [0]
        assert protocol.draws(each)[0].tolist() == [1]


SMALL = labelled([1, 1, 0], [1, 2, 1], ["query", "bounding_box_test", "bounding_box_test"])


@pytest.mark.parametrize(
    ("features", "settings", "query", "message"),
    [
        (SMALL, ("cross", "uni"), "visible", r"pass settings=\('uni',\), query='visible'; got se"),
        (SMALL, ("uni",), "infrared", r"holds visible images only.*query='infrared'"),
        (SMALL, ("uni",), "both", r"holds visible images only.*query='both'"),
        (
            dataclasses.replace(SMALL, modality=[0, 0, 1]),
            *(("uni",), "visible", "and 1 infrared images"),
        ),
        (SMALL[:1], ("uni",), "visible", "none of the 1 paths lies in 'bounding_box_test'"),
        (SMALL[1:], ("uni",), "visible", "none of the 2 paths lies in 'query'"),
        (dataclasses.replace(SMALL, paths=None), ("uni",), "visible", "paths=None; give paths"),
    ],
)
def test_what_it_cannot_be_asked(features, settings, query, message):
    with pytest.raises(MixERValueError, match=message):
        get_protocol("market1501").check(features, settings=settings, query=query)


def test_what_it_can_be_asked():
    get_protocol("market1501").check(SMALL, settings=("uni",), query="visible")
    assert "trials      1\n" in get_protocol("market1501").describe()
