"""What a feature set refuses wherever it is made, and that no scale changes a cosine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixer_plugin import FeatureSet, evaluate
from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.evaluation.audit.audit import audit
from tests.unit.evaluation.evaluation_cases import make

PATHS = [f"cam1/{row:04d}.jpg" for row in range(80)]


def features(**changes):
    one = make()
    names = ("erased", "related", "ids", "cams", "modality", "paths")
    fields = {name: getattr(one, name) for name in names} | {"paths": PATHS}
    return FeatureSet(**{**fields, **changes})


def figures(one, **options):
    rows = evaluate(one, "full", settings=("cross", "mix"), query="both", **options).rows
    return [(row.mAP, row.r1, row.mINP) for row in rows]


@pytest.mark.parametrize("write", [str, lambda p: "./" + p, lambda p: p.replace("/", "\\")])
def test_an_image_counts_once(tmp_path, write):
    """As where a sampler pads the last batch; the path may be written in another way."""
    one = features()
    again = features(paths=[write(path) for path in PATHS])
    padded = FeatureSet.concatenate([one, again[:5]])
    for use in (lambda: evaluate(padded, "full"), lambda: padded.save(tmp_path / "x.npz")):
        with pytest.raises(MixERValueError, match="in rows 0 and 80"):
            use()
    assert not list(tmp_path.iterdir())
    chosen = one[[0, 0, 3]]  # resampled rows are no gallery yet
    assert chosen.paths == (PATHS[0], PATHS[0], PATHS[3])


def test_nothing_is_saved_that_cannot_be_loaded(tmp_path):
    with pytest.raises(MixERValueError, match="no image"):
        features()[:0].save(tmp_path / "x.npz")
    features().save(tmp_path / "x.npz")
    assert FeatureSet.load(tmp_path / "x.npz").paths == tuple(PATHS)


@pytest.mark.parametrize(
    ("labels", "error", "says"),
    [
        ([10**20] * 80, MixERValueError, "must fit in int64, got 100000000000000000000"),
        ([2**63, -1] * 40, MixERValueError, "must"),
        (torch.full((80,), 2**64 - 1, dtype=torch.uint64), MixERValueError, "must fit in int64"),
        (np.full(80, np.nan), MixERValueError, "got nan in row 0"),
        (np.full(80, 1.5), MixERValueError, "got 1.5 in row 0"),
        (np.full(80, 2.0**24, dtype=np.float32), MixERValueError, "exact below 16777216"),
        (torch.full((80,), 256.0, dtype=torch.bfloat16), MixERValueError, "exact below 256"),
        (np.ones(80, dtype=bool), MixERTypeError, "got bool"),
        ([True, False] * 40, MixERTypeError, "got bool"),
        ([[1], [2, 3]] * 40, MixERTypeError, "real numbers"),
        (["7"] * 80, MixERTypeError, "real numbers"),
        (torch.ones(80, dtype=torch.int64).to_sparse(), MixERTypeError, "dense"),
        (torch.ones(80, dtype=torch.int64, device="meta"), MixERTypeError, "dense"),
        (np.ma.array(np.ones(80, int), mask=[True] + [False] * 79), MixERValueError, "masked"),
    ],
)
@pytest.mark.parametrize("field", ["ids", "cams", "modality"])
def test_labels_are_whole_numbers(field, labels, error, says):
    with pytest.raises(error, match=says) as caught:
        features(**{field: labels})
    assert str(caught.value).startswith(field)


def test_labels_of_many_kinds_are_taken():
    for kind in (np.uint8, np.float64, np.int32, ">i8"):
        assert features(ids=np.arange(80).astype(kind)).ids.tolist() == list(range(80))
    assert features(ids=[2**62] * 80).ids[0] == 2**62


@pytest.mark.parametrize("paths", [range(80), [b"a"] * 80, np.arange(80).reshape(40, 2), "a" * 80])
def test_paths_are_strings(paths):
    with pytest.raises(MixERTypeError, match="one string per image"):
        features(paths=paths)


@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e-14, 1e-10, 1e15, 1e20, 1e35])
def test_no_scale_changes_a_result(scale):
    one = features()
    other = features(erased=one.erased.double() * scale, related=one.related.double() / scale)
    np.testing.assert_allclose(figures(other), figures(one), atol=1e-9)
    mixed = one.erased.double()
    mixed[::2] *= scale  # some rows only
    np.testing.assert_allclose(figures(features(erased=mixed)), figures(one), atol=1e-9)


def test_the_audit_knows_no_scale_either():
    small = features(erased=features().erased * 1e-15)
    assert audit(small, "full", evaluate(small, "full", calibration=(None, "center"))).ok


@pytest.mark.parametrize(
    ("scale", "says"), [(1e-42, "too small"), (1e-60, "too small"), (1e300, "not finite")]
)
def test_what_float32_cannot_hold_is_refused(scale, says):
    with pytest.raises(MixERValueError, match=f"erased .*{says}"):
        features(erased=features().erased.double() * scale)


def test_ordinary_rows_are_divided_by_their_length_and_zeros_stay():
    from mixer_plugin.matching.normalized import _normalize_

    x = torch.randn(50, 9)
    x[3] = 0
    expected = x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-12)
    assert torch.equal(_normalize_(x.clone(), any_scale=True), expected)
    x[7] *= 1e-30
    assert _normalize_(x.clone(), any_scale=True)[7].norm() == pytest.approx(1)
    assert _normalize_(x.clone())[7].norm() < 1e-15  # a difference of features is nothing there
