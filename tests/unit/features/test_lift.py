"""What calibrated rules take from the gallery: how much features and pairs across count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixer_plugin.evaluation import evaluate
from mixer_plugin.evaluation.audit.reference import literal_scores
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import lift
from mixer_plugin.matching.lift import sampled
from mixer_plugin.matching.normalized import unit_source
from mixer_plugin.matching.rules import RULES
from mixer_plugin.matching.score_norm import find_cohort
from mixer_plugin.matching.scores import scores
from tests.literal_cohort import literal_lift, make

RULE = "mixer-calibrated"


def lift_of(features, rule=RULE):
    source, rules = unit_source(features, {"": RULES[rule]}), (RULES[rule],)
    return find_cohort(source, torch.arange(len(features)), rules).lifts[RULES[rule]]


def test_the_worse_pairs_across_are_the_less_they_count():
    rng = np.random.default_rng(0)
    ids, modality = np.arange(240) % 30, np.arange(240) // 120
    codes = rng.normal(size=(30, 24))

    def images(noise):
        """Erased features that tell identity, worse in infrared images by some noise."""
        spread = np.where(modality == 1, noise, 0.0)[:, None]
        own = rng.normal(size=(2, 30, 24))[modality, ids]
        erased = codes[ids] + spread * own + 0.3 * rng.normal(size=(240, 24))
        related = own + 0.3 * rng.normal(size=(240, 24))
        return FeatureSet(erased, related, ids, np.arange(240) // 30, modality)

    lifts = [lift_of(images(noise)) for noise in (0.1, 0.5, 3.0)]
    slopes = [lift.slope for lift in lifts]
    assert 1 >= slopes[0] > slopes[1] > slopes[2] == 0.5
    for slope, offset, erased, related in lifts:
        assert offset == pytest.approx(1.5 * (1 - slope**2))  # right pairs are told well within
        assert (erased, related) == (3.0, 3.0)


def people(erased, related, shift, count=480, width=16):
    """Images of 40 people; how much noise each feature has, and a common part of the erased one."""
    rng = np.random.default_rng(0)
    ids, modality = np.arange(count) % 40, np.arange(count) // (count // 2)
    codes = rng.normal(size=(2, 40, width))
    noise = rng.normal(size=(2, count, width))
    return FeatureSet(
        shift + codes[0, ids] + erased * noise[0],
        codes[1, ids] + related * noise[1],
        ids,
        np.arange(count) // 40,
        modality,
    )


def test_scores_are_those_of_the_audit_where_pairs_across_count_more():
    features, rows = people(0.5, 0.2, 0.0, count=240), np.arange(240)
    found = lift_of(features)
    assert 0.52 < found.slope < 0.98
    assert found.erased < found.related
    made = scores(features, features, RULE, self_index=rows)
    expected, slack = literal_scores(features, rows, rows, RULES[RULE], None)
    others = ~np.eye(240, dtype=bool)
    assert (np.abs(made.numpy() - expected) <= slack)[others].all()
    np.testing.assert_allclose(made.numpy()[others], expected[others], atol=1e-4)


def mean_ap(features, rule):
    return {row.setting: row.mAP for row in evaluate(features, "full", rules=(rule,)).rows}


def test_a_feature_counts_by_how_well_it_tells_people():
    equal, worse = (lift_of(people(noise, 0.1, 0.0)) for noise in (0.1, 1.5))
    assert equal[2:] == (3.0, 3.0)
    assert worse.erased < worse.related == 3.0
    features = people(1.5, 0.2, 0.0)
    assert mean_ap(features, RULE)["uni"] > mean_ap(features, "mixer")["uni"] + 0.01


def test_pairs_across_stay_nearly_first_where_the_plain_rule_puts_them_first():
    """Erased cosines that are all large: fused ones within a modality are far below."""
    usual, large = (people(2.0, 0.2, shift) for shift in (0.0, 5.0))
    slope, offset, *_ = lift_of(usual)
    assert offset <= 1.5 * (1 - slope**2)
    slope, offset, *_ = lift_of(large)
    assert offset > 1.5 * (1 - slope**2) + 0.2
    plain, ours = (mean_ap(large, rule) for rule in ("mixer", RULE))
    for setting in ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id"):
        assert ours[setting] >= plain[setting]
    assert ours["mix"] > plain["mix"] + 0.1


def test_the_lift_is_that_of_the_sample(monkeypatch):
    monkeypatch.setattr(lift, "_SAMPLE", 8)
    features = make(40)
    rows = [torch.nonzero(features.modality == m).flatten()[::3] for m in (0, 1)]
    assert [len(part) for part in rows] == [7, 7]
    slope, offset, means = literal_lift(features, None, torch.cat(rows).tolist())
    expected = (slope, offset, means["erased"], means["related"])
    assert tuple(lift_of(features)) == pytest.approx(expected, abs=1e-5)
    assert abs(offset - literal_lift(features, None)[1]) > 0.01


def test_no_more_than_a_thousand_images_of_a_modality_are_looked_at():
    rows = torch.arange(2500), torch.arange(2500, 2510)
    found = sampled(rows)
    assert torch.equal(found, torch.cat([torch.arange(0, 2500, 3), rows[1]]))
    assert len(sampled((rows[0][:0], rows[1]))) == 10
