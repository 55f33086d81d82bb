from __future__ import annotations

import numpy as np
import pytest
import torch

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet, Modality


def make(count=6, related=True, paths=True, seed=0):
    rng = np.random.default_rng(seed)
    return FeatureSet(
        erased=rng.normal(size=(count, 4)),
        related=rng.normal(size=(count, 3)) if related else None,
        ids=np.arange(count) // 2,
        cams=np.arange(count) % 3 + 1,
        modality=np.arange(count) % 2,
        paths=tuple(f"cam1/0001/{i:04d}.jpg" for i in range(count)) if paths else None,
    )


def assert_same(one, two):
    for name in ("erased", "related", "ids", "cams", "modality"):
        mine, theirs = getattr(one, name), getattr(two, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs), name
    assert one.paths == two.paths


def test_arrays_and_tensors_are_converted():
    features = FeatureSet(
        erased=np.ones((2, 3), dtype=np.float16),
        related=torch.ones(2, 5, dtype=torch.bfloat16),
        ids=np.array([1, 2], dtype=np.uint16),
        cams=[3, 6],
        modality=[Modality.INFRARED, Modality.VISIBLE],
        paths=["a", "b"],
    )
    assert features.erased.dtype == features.related.dtype == torch.float32
    assert features.ids.dtype == features.cams.dtype == features.modality.dtype == torch.int64
    assert features.modality.tolist() == [1, 0]
    assert features.paths == ("a", "b")
    assert len(features) == 2


def test_long_doubles_are_converted():
    features = FeatureSet(np.ones((2, 3), dtype=np.longdouble), None, [1, 2], [1, 1], [0, 1])
    assert features.erased.dtype == torch.float32


def test_fields_are_copies():
    erased, ids = np.ones((2, 3), dtype=np.float32), torch.tensor([1, 2])
    features = FeatureSet(erased, None, ids, [1, 1], [0, 1])
    erased[:] = 7
    ids[:] = 7
    assert features.erased.eq(1).all()
    assert features.ids.tolist() == [1, 2]


def test_gradients_are_cut():
    erased = torch.ones(2, 3, requires_grad=True)
    assert not FeatureSet(erased, None, [1, 2], [1, 1], [0, 1]).erased.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"erased": np.ones(6)}, r"erased must be \[images, width\]"),
        ({"erased": np.ones((6, 0))}, r"erased must be \[images, width\]"),
        ({"erased": np.ones((5, 4))}, "related has 6 rows, but erased has 5"),
        ({"erased": np.where(np.eye(6, 4) > 0, np.nan, 1.0)}, "not finite .* in 4 of 6 rows"),
        ({"related": np.full((6, 3), np.inf)}, "related holds values that are not finite"),
        ({"erased": np.full((6, 4), 1e300)}, "not finite"),
        ({"ids": np.arange(5)}, "ids has 5 rows"),
        ({"ids": np.arange(6) + 0.5}, "ids must hold whole numbers of int64, got 0.5 in row 0"),
        ({"ids": [1, 2, np.nan, 3, 4, 5]}, "ids must hold whole numbers .* got nan in row 2"),
        ({"ids": [1, np.inf, 2, 3, 4, 5]}, "got inf in row 1"),
        ({"cams": np.full(6, 1e19)}, "cams must hold whole numbers of int64, got 1e.19 in row 0"),
        ({"cams": np.full(6, 2**63, dtype=np.uint64)}, "cams must fit in int64"),
        ({"cams": np.ones((6, 1))}, "cams must have one entry per image"),
        ({"modality": [0, 1, 2, 0, 1, 2]}, r"modality must be 0 .* got 2 in row 2"),
        ({"paths": ("a",)}, "paths has 1 rows"),
    ],
)
def test_wrong_values_are_refused(change, message):
    plain = make()
    values = {name: getattr(plain, name) for name in ("erased", "related", "ids", "cams")}
    values |= {"modality": plain.modality, "paths": plain.paths} | change
    with pytest.raises(MixERValueError, match=message):
        FeatureSet(**values)


@pytest.mark.parametrize(
    "change", [{"erased": [["a"]]}, {"erased": np.ones((6, 4), dtype=complex)}, {"paths": "abcdef"}]
)
def test_wrong_kinds_are_refused(change):
    plain = make()
    values = {name: getattr(plain, name) for name in ("erased", "related", "ids", "cams")}
    values |= {"modality": plain.modality, "paths": None} | change
    with pytest.raises(MixERTypeError):
        FeatureSet(**values)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 5, 2), [1, 3]),
        (torch.tensor([4, 0, 0, -1]), [4, 0, 0, 5]),
        (torch.tensor([True, False, False, False, False, True]), [0, 5]),
        (np.array([2]), [2]),
        ([3, 1], [3, 1]),
        ([], []),
    ],
)
def test_indexing(index, rows):
    features = make()
    part = features[index]
    assert torch.equal(part.erased, features.erased[rows])
    assert torch.equal(part.related, features.related[rows])
    assert part.ids.tolist() == [features.ids.tolist()[row] for row in rows]
    assert part.paths == tuple(features.paths[row] for row in rows)


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (3, MixERTypeError),
        ("a", MixERTypeError),
        (torch.tensor([0.5]), MixERTypeError),
        (torch.tensor([6]), MixERValueError),
        (torch.tensor([True, False]), MixERValueError),
    ],
)
def test_wrong_indices_are_refused(index, error):
    with pytest.raises(error):
        make()[index]


def test_images_may_repeat_in_memory():
    features = make()
    assert features[[0, 0]].paths == (features.paths[0],) * 2


def test_concatenation():
    one, two = make(4), make(2, seed=1)
    joined = FeatureSet.concatenate([one, two])
    assert len(joined) == 6
    assert_same(joined[:4], one)
    assert_same(joined[4:], two)
    assert FeatureSet.concatenate([one, make(2, paths=False)]).paths is None
    assert FeatureSet.concatenate([make(related=False), make(related=False)]).related is None
    with pytest.raises(MixERValueError, match="same widths"):
        FeatureSet.concatenate([one, make(related=False)])
    with pytest.raises(MixERValueError, match="at least one"):
        FeatureSet.concatenate([])
