"""Rules whose cosines are standardised by the first set added, such as ``mixer-calibrated``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mixer_plugin import FeatureSet, scores
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.settings import SETTINGS
from mixer_plugin.matching.normalized import unit_source
from mixer_plugin.matching.rules import RULES
from mixer_plugin.matching.score_norm import all_moments, find_cohort, standardised, standardised_by
from mixer_plugin.search import MixedModalIndex, recall_report
from tests.search_cases import build, check, make, ranked

pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")

STANDARDISED = [name for name, rule in RULES.items() if rule.standardised]
ATOL = 1e-5  # scores up to 10, of about 60 float32 products


def literal(query, items, first, rule, center=False):
    """Scores float64 [Q, N] with the statistics of the first set, which ``items`` begin with."""
    rules = {rule: RULES[rule]}
    source = unit_source(first, rules)
    if center:
        source = source.centered(source.rows(torch.arange(len(first))))
    cohort = find_cohort(source, torch.arange(len(first)), rules.values())

    def ready(features, members):
        own = torch.arange(len(features))
        made = replace(unit_source(features, rules), center=source.center)
        made = standardised(made, cohort, own.where(own < members, -1))
        return made.rows(torch.arange(len(features)))

    of_query, of_items = ready(query, 0), ready(items, len(first))
    result = torch.zeros(len(query), len(items), dtype=torch.float64)
    for i, asking in enumerate(query.modality.tolist()):
        for j, side in enumerate(items.modality.tolist()):
            lift = cohort.lifts[RULES[rule]]
            weights = RULES[rule].weights(asking, side)
            parts = [w * mean for w, mean in zip(weights, lift[2:], strict=True)]
            weights = [part / sum(parts) for part in parts]
            for name, weight in zip(("erased", "related"), weights, strict=True):
                if weight:
                    left, right = of_query.parts[name][i], of_items.parts[name][j]
                    cosine = left.double() @ right.double()
                    for slope, offset in (
                        of_query.scaling[name][i, side].tolist(),
                        of_items.scaling[name][j, asking].tolist(),
                    ):
                        result[i, j] += weight * (slope * cosine - offset)
            if asking != side:
                result[i, j] = lift.slope * result[i, j] + lift.offset
    return result


def by_score(matrix):
    return [sorted((-value, j) for j, value in enumerate(line)) for line in matrix.tolist()]


@pytest.mark.parametrize("calibration", [None, "center"])
@pytest.mark.parametrize("count", [150, 14])  # more and fewer images than dimensions
@pytest.mark.parametrize("rule", STANDARDISED)
def test_flat_is_the_sorted_scores(rule, count, calibration):
    gallery, query = make(count), make(40, 1)
    index = build(gallery, rule, calibration=calibration)
    for asking in (query, query[query.modality == 0], query[query.modality == 1]):
        expected = ranked(asking, gallery, rule, calibration)
        for k in (1, 10, count, 200):
            check(index.search(asking, k), expected, k, ATOL)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("rule", STANDARDISED)
def test_exclusions_and_settings(rule, setting):
    gallery, query = make(80), make(20, 1)
    key = torch.arange(20)
    same = {
        name: getattr(query, name)[:, None] == getattr(gallery, name)
        for name in ("ids", "cams", "modality")
    }
    forbidden = {
        "cross": same["modality"],
        "mix": torch.zeros(20, 80, dtype=torch.bool),
        "mix-cam": same["cams"],
        "mix-cam-id": same["cams"] & same["ids"],
        "mix-id": same["modality"] & same["ids"],
        "uni": ~same["modality"] | same["cams"],
    }[setting].clone()
    forbidden[key, key] = True
    hits = build(gallery, rule).search(query, 9, exclude=key, setting=setting)
    check(hits, ranked(query, gallery, rule, forbidden=forbidden.tolist()), 9, ATOL)


@pytest.mark.parametrize("calibration", [None, "center"])
@pytest.mark.parametrize("rule", STANDARDISED)
def test_later_images_are_no_members_and_change_nothing(rule, calibration, tmp_path):
    first, more, query = make(60), make(30, 1), make(12, 2)
    index = build(first, rule, calibration=calibration)
    assert index._statistics.lift.slope < 1  # pairs across are told apart worse
    index.add(more[:20])
    index.remove([0, 3])
    index.save(tmp_path / "x")
    index = MixedModalIndex.load(tmp_path / "x", device="cpu")
    index.add(more[20:])
    whole = FeatureSet.concatenate([first, more])
    matrix = literal(query, whole, first, rule, calibration == "center")
    start = scores(query, first, rule, calibration).double()
    torch.testing.assert_close(matrix[:, :60], start, atol=ATOL, rtol=0)
    anew = scores(query, whole, rule, calibration).double()
    assert (matrix - anew).abs().max() > 100 * ATOL  # the cohort is another
    expected = [[pair for pair in row if pair[1] not in (0, 3)] for row in by_score(matrix)]
    check(index.search(query, 90), expected, 90, ATOL)


def test_an_index_that_does_not_say_what_pairs_across_count_is_refused(tmp_path):
    index = build(make(40), "mixer-calibrated")
    index._statistics = replace(index._statistics, lift=None)
    index.save(tmp_path / "old")
    with pytest.raises(MixERValueError, match="build the index anew"):
        MixedModalIndex.load(tmp_path / "old", device="cpu")


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("rule", STANDARDISED)
def test_a_gallery_of_one_modality(rule, side):
    both, query = make(60), make(20, 1)
    gallery = both[both.modality == side]
    index = build(gallery, rule)
    check(index.search(query, 40), ranked(query, gallery, rule), 40, ATOL)
    index.add(query[query.modality == side])
    before = len(index)
    name = ["infrared", "visible"][side]
    with pytest.raises(MixERValueError, match=f"no statistics of cosines with {name} images"):
        index.add(query)
    assert len(index) == index.total == before


def test_an_empty_index_waits_for_its_first_set(tmp_path):
    first, query = make(40), make(9, 1)
    index = MixedModalIndex("mixer-calibrated", device="cpu")
    index.add(first[:0])
    assert index.search(query, 2).keys.eq(-1).all()
    index.save(tmp_path / "x")
    index = MixedModalIndex.load(tmp_path / "x", device="cpu")
    index.add(first)
    check(index.search(query, 40), ranked(query, first, "mixer-calibrated"), 40, ATOL)


def test_a_first_set_that_fails_leaves_no_statistics():
    index = MixedModalIndex("erased-calibrated", factory="IVF30,Flat", device="cpu")
    with pytest.raises(MixERValueError, match="cannot be trained"):
        index.add(make(20, 5))
    index.add(make(200))
    index.tune("nprobe=30")
    query = make(9, 1)
    check(index.search(query, 10), ranked(query, make(200), "erased-calibrated"), 10, ATOL)


def test_vectors_hold_each_half_once_and_per_modality_that_asks():
    widths = {
        rule: {m: part.index.d for m, part in build(make(20), rule)._parts.items()}
        for rule in STANDARDISED
    }
    # 12 and 7 wide; 2 offsets and the 1. The related feature is asked for by one modality.
    assert widths == {
        "mixer-calibrated": {0: 3 * 12 + 2 * 7 + 3, 1: 3 * 12 + 2 * 7 + 3},
        "fused-calibrated": {0: 3 * 12 + 3 * 7 + 3, 1: 3 * 12 + 3 * 7 + 3},
        "erased-calibrated": {0: 3 * 12 + 3, 1: 3 * 12 + 3},
    }


@pytest.mark.parametrize("factory", ["IVF4,Flat", "HNSW16", "SQ8"])
def test_approximate_factories_find_most(factory):
    gallery, query = make(300), make(20, 1)
    index = build(gallery, "mixer-calibrated", factory)
    index.tune("nprobe=4" if "IVF" in factory else "")
    report = recall_report(index, query, build(gallery, "mixer-calibrated"), k=(10,))
    assert min(report.within + report.across + report.merged) > (0.99 if "IVF" in factory else 0.6)


@pytest.mark.parametrize("count", [40, 8])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-5, 0.0])
def test_moments_alone_give_the_statistics_of_the_items(count, spread):
    rng = np.random.default_rng(0)
    rules = {"": RULES["erased-calibrated"]}
    none, modality = np.zeros(count), np.arange(count) % 2
    alike = 1 + spread * rng.normal(size=(count, 12))
    items = unit_source(FeatureSet(alike, None, none, none, modality), rules)
    cohort = find_cohort(items, torch.arange(count), [rules[""]])
    images = unit_source(make(10), rules)
    exact = standardised(images, cohort, torch.full((10,), -1)).scaling["erased"]
    found = standardised_by(images, all_moments(cohort), [rules[""]]).scaling["erased"]
    torch.testing.assert_close(found, exact, atol=0, rtol=1e-5)
    assert bool(exact.any()) == (spread > 0)


def test_a_variance_in_doubt_counts_as_none():
    rules = {"": RULES["erased-calibrated"]}
    erased = torch.cat([torch.eye(10), torch.ones(10, 1)], dim=1)
    erased[::2, 10] += 1e-5
    none = np.zeros(10)
    items = unit_source(FeatureSet(erased, None, none, none, none), rules)
    cohort = find_cohort(items, torch.arange(10), [rules[""]])
    last = torch.zeros(1, 11)
    last[0, 10] = 1  # the items vary widely, but hardly along this image
    image = unit_source(FeatureSet(last, None, [0], [0], [0]), rules)
    exact = standardised(image, cohort, torch.tensor([-1])).scaling["erased"]
    assert exact[0, 0, 0] > 1e4
    assert not standardised_by(image, all_moments(cohort), [rules[""]]).scaling["erased"].any()
