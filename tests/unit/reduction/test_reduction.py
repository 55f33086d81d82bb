from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mixer_plugin import FeatureSet, scores
from mixer_plugin.errors import MixERValueError
from mixer_plugin.features.precision import stored_as
from mixer_plugin.search.reduction import Reduction, directions, fit_reduction, fit_reductions
from tests.search_cases import make


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12)


def literal(features, fit, dim, center):
    """The definition: normalise, subtract, project on NumPy's singular vectors, in float64."""
    rows = unit(fit.double().numpy())
    mean = rows.mean(axis=0) if center else 0.0
    axes = np.linalg.svd(rows - mean, full_matrices=False)[2][:dim]
    return (unit(features.double().numpy()) - mean) @ axes.T


def same_products(found, wanted, atol=2e-5):
    """Axes may differ in sign, or turn where lengths are equal; inner products do not."""
    found = found.double().numpy()
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=atol)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("count", [200, 11])  # more rows than columns, and fewer
def test_it_is_the_singular_value_decomposition(center, count):
    fit, features = make(count, 3), make(50)
    reduced = fit_reduction(fit, 5, center=center).apply(features)
    same_products(reduced.erased, literal(features.erased, fit.erased, 5, center))
    same_products(reduced.related, literal(features.related, fit.related, 5, center))
    for name in ("ids", "cams", "modality", "paths"):
        assert np.array_equal(getattr(reduced, name), getattr(features, name))


@pytest.mark.parametrize("center", [False, True])
def test_it_is_scikit_learns(center):
    decomposition = pytest.importorskip("sklearn.decomposition")
    fit, features = make(300, 3), make(60)
    if center:
        oracle = decomposition.PCA(6, svd_solver="full", whiten=False)
    else:
        oracle = decomposition.TruncatedSVD(6, algorithm="arpack")
    oracle.fit(unit(fit.erased.double().numpy()))
    reduction = fit_reduction(fit, 6, center=center)
    wanted = oracle.transform(unit(features.erased.double().numpy()))
    same_products(reduction.apply(features).erased, wanted)
    if center:
        share = oracle.explained_variance_ratio_.sum()
        assert reduction.erased.kept == pytest.approx(share, abs=1e-5)


def decaying(count, width, seed=0):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    return torch.tensor(
        rng.standard_normal((count, width)) * np.arange(1, width + 1) ** -1.0 @ turn
    )


def test_random_projections_keep_as_much_as_the_exact_directions(monkeypatch):
    rows = decaying(500, 300).float()
    exact = directions.leading_directions(rows, 40)
    monkeypatch.setattr(directions, "_EXACT", 100)
    state = torch.random.get_rng_state()
    found = directions.leading_directions(rows, 40)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(found, directions.leading_directions(rows, 40))
    torch.testing.assert_close(found.T @ found, torch.eye(40), atol=1e-5, rtol=0)
    kept, most = ((rows @ each).square().sum() for each in (found, exact))
    assert kept > 0.9999 * most
    torch.testing.assert_close(found[:, :10], exact[:, :10], atol=1e-3, rtol=0)


def test_rows_of_low_rank_give_orthonormal_directions():
    rows = torch.zeros(6, 20)
    rows[:, 3] = torch.arange(6.0)
    found = directions.leading_directions(rows, 5)
    torch.testing.assert_close(found.T @ found, torch.eye(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 0], torch.eye(20)[3], atol=1e-5, rtol=0)


def test_at_almost_full_width_scores_stay_without_a_mean_and_not_with_one():
    features = make(100)
    tail = 1e-4 * torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    wide = FeatureSet(
        torch.cat([features.erased, tail], dim=1),
        features.related,
        features.ids,
        features.cams,
        features.modality,
    )
    before = scores(wide, wide, "mixer")
    plain, centered = (fit_reduction(wide, 12, center=c).apply(wide) for c in (False, True))
    torch.testing.assert_close(scores(plain, plain, "mixer"), before, atol=1e-4, rtol=0)
    assert (scores(centered, centered, "mixer") - before).abs().max() > 0.05
    assert plain.related is wide.related or torch.equal(plain.related, wide.related)


def test_several_fits_at_once_are_those_one_by_one():
    features = make(150)
    for dim, found in zip((9, 3), fit_reductions(features, [9, 3]), strict=True):
        alone = fit_reduction(features, dim)
        assert (found.related is None) == (alone.related is None) == (dim == 9)
        for name in ("erased", "related")[: 1 if dim == 9 else 2]:
            mine, theirs = getattr(found, name), getattr(alone, name)
            torch.testing.assert_close(mine.directions, theirs.directions, atol=1e-4, rtol=0)
            assert mine.kept == pytest.approx(theirs.kept, abs=1e-6)


def test_a_file_gives_the_same_reduction_back_and_damage_is_found(tmp_path):
    features = make(80)
    for center in (False, True):
        reduction = fit_reduction(features, 9, center=center)
        reduction.save(tmp_path / "pca.npz")
        loaded = Reduction.load(tmp_path / "pca.npz")
        assert loaded.fingerprint == reduction.fingerprint
        assert loaded.related is None
        assert loaded.erased.kept == reduction.erased.kept
        assert torch.equal(loaded.apply(features).erased, reduction.apply(features).erased)
    arrays = dict(np.load(tmp_path / "pca.npz"))
    arrays["erased"][2, 2] += 1
    np.savez(tmp_path / "pca.npz", **arrays)
    with pytest.raises(MixERValueError, match="is damaged: its fingerprint is"):
        Reduction.load(tmp_path / "pca.npz")
    features.save(tmp_path / "features.npz")
    with pytest.raises(MixERValueError, match="is no reduction of this version"):
        Reduction.load(tmp_path / "features.npz")
    with pytest.raises(MixERValueError, match="is not a file"):
        Reduction.load(tmp_path / "none.npz")


def test_what_cannot_be_reduced_is_refused():
    features = make(30)
    reduction = fit_reduction(features, 5)
    with pytest.raises(MixERValueError, match="No feature is wider than 12 dimensions"):
        fit_reduction(features, 12)
    with pytest.raises(MixERValueError, match="dim must be at least 1, got 0"):
        fit_reduction(features, 0)
    with pytest.raises(MixERValueError, match="4 images do not determine 5 directions"):
        fit_reduction(features[:4], 5)
    with pytest.raises(MixERValueError, match="give at least 6 images"):
        fit_reduction(features[:5], 5, center=True)
    with pytest.raises(MixERValueError, match="related features of 7 dimensions, the set has no"):
        reduction.apply(make(5, related=False))
    reduced = reduction.apply(features)
    with pytest.raises(MixERValueError, match="reduced already"):
        reduction.apply(reduced)
    with pytest.raises(MixERValueError, match="reduced already"):
        fit_reduction(reduced, 2)


def test_the_fingerprint_goes_with_the_features(tmp_path):
    features = make(30)
    one, other = (fit_reduction(part, 5) for part in (features[:20], features[10:]))
    reduced = one.apply(features)
    assert one.fingerprint != other.fingerprint
    assert reduced.reduction == reduced[:3].reduction == reduced.to("cpu").reduction
    reduced.save(tmp_path / "small.npz")
    assert FeatureSet.load(tmp_path / "small.npz").reduction == one.fingerprint
    assert FeatureSet.concatenate([reduced, reduced]).reduction == one.fingerprint
    for wrong in (other.fingerprint, None):
        with pytest.raises(MixERValueError, match="reduced by the same reduction, or none"):
            FeatureSet.concatenate([reduced, replace(reduced, reduction=wrong)])


@pytest.mark.parametrize(("precision", "atol", "bytes_"), [("float16", 2e-3, 2), ("int8", 2e-2, 1)])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_precisions_keep_cosines_at_any_scale(tmp_path, precision, atol, bytes_, scale):
    features = make(60)
    scaled = FeatureSet(
        features.erased * scale, features.related, features.ids, features.cams, features.modality
    )
    scaled.save(tmp_path / "small.npz", precision=precision)
    arrays = np.load(tmp_path / "small.npz")
    assert arrays["erased"].itemsize == arrays["related"].itemsize == bytes_
    loaded = FeatureSet.load(tmp_path / "small.npz")
    difference = (scores(loaded, loaded) - scores(features, features)).abs().max()
    assert 0 < difference < atol


def test_int8_is_rounding_to_steps_of_the_largest_magnitude():
    rows = torch.tensor([[0.5, -2.0, 1.01], [0.0, 0.0, 0.0]])
    assert stored_as(rows, "int8").tolist() == [[32, -127, 64], [0, 0, 0]]
    assert stored_as(rows, "float32") is rows
    with pytest.raises(MixERValueError, match="Unknown precision 'int16'"):
        stored_as(rows, "int16")


def test_an_index_refuses_features_of_another_reduction(tmp_path):
    pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")
    from mixer_plugin.search import MixedModalIndex
    from tests.search_cases import build, check, ranked

    gallery, query = make(100), make(10, 1)
    one, other = (fit_reduction(part, 5) for part in (gallery[:60], gallery[30:]))
    index = build(one.apply(gallery))
    index.save(tmp_path / "x.index")
    untold = replace(one.apply(query), reduction=None)
    for each in (index, MixedModalIndex.load(tmp_path / "x.index", device="cpu")):
        expected = ranked(one.apply(query), one.apply(gallery))
        check(each.search(one.apply(query), 5), expected, 5)
        with pytest.raises(MixERValueError, match=f"holds features reduced by {one.fingerprint}"):
            each.search(other.apply(query), 5)
        with pytest.raises(MixERValueError, match="these are features that no reduction made"):
            each.add(untold)
