"""The controls of a mixed gallery, and what the guide to them says."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import SETTINGS, ResultRow, evaluate
from mixer_plugin.evaluation.analysis.comparison import ComparedRow, Comparison, compare
from mixer_plugin.evaluation.analysis.fairness import (
    CONTROLS,
    GAIN,
    SYSTEMS,
    fair_report,
    fair_systems,
    judge,
    verdict,
)
from mixer_plugin.evaluation.statistics import PairedDifference
from mixer_plugin.features import FeatureSet


def simulated(related="informative", leak=0.6, identities=40, seed=0):
    """Three visible and two infrared images per identity, and how the erased feature leaks.

    ``related`` says something of its own of the identity (``informative``), of nothing (``noise``).
    """
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(identities), 5)
    modality = np.tile([0, 0, 0, 1, 1], identities)
    width = 32
    codes = rng.normal(size=(identities, width))
    own = rng.normal(size=(2, identities, width))
    sides = rng.normal(size=(2, width))
    noise = rng.normal(size=(2, len(ids), width))
    erased = codes[ids] + leak * sides[modality] + 1.4 * noise[0]
    told = own[modality, ids] if related == "informative" else 0
    return FeatureSet(erased, told + noise[1], ids, np.tile([1, 2, 4, 3, 6], identities), modality)


@pytest.fixture(scope="module")
def informative():
    return fair_report(simulated(), "full", query="both", resamples=2000)


@pytest.fixture(scope="module")
def noise():
    return fair_report(simulated("noise"), "full", resamples=2000)


def test_rows_are_those_of_evaluate(informative):
    for label, (rule, calibration) in SYSTEMS.items():
        alone = evaluate(
            simulated(), "full", rules=(rule,), calibration=calibration, query="visible"
        )
        for row in alone.rows:
            found = informative.row(label, row.setting, "visible")
            assert (found.mAP, found.r1) == pytest.approx((row.mAP, row.r1), abs=1e-12)


def test_results_at_hand_are_judged_as_if_evaluated(informative):
    features = simulated()
    systems = fair_systems(features)
    known = evaluate(
        features, "full", query="both", systems=(("related", None), *reversed(systems))
    )
    found = judge(known, features.ids, resamples=2000)
    assert found.to_json() == informative.to_json()
    assert found.to_markdown() == informative.to_markdown()
    assert len(found.results.rows) == len(SYSTEMS) * 2 * len(SETTINGS)
    with pytest.raises(MixERValueError, match=r"No row \('cross', 'erased', 'infrared', 'znorm'\)"):
        judge(known.select([each for each in systems if each[1] != "znorm"]), features.ids)


def test_differences_are_those_of_compare(informative):
    features, results = simulated(), informative.results
    assert list(informative.comparisons) == [GAIN, *CONTROLS]
    wanted = [("erased", None), ("erased", "center"), ("erased", "znorm"), ("mixer-shuffled", None)]
    for (rule, calibration), found in zip(wanted, informative.comparisons.values(), strict=True):
        expected = compare(
            *(results, results),
            ids=features.ids,
            rule_b=rule,
            calibration_b=calibration,
            resamples=2000,
        )
        assert found == expected
        assert (found.a, len(found.rows)) == ("mixer", 2 * len(SETTINGS))


def test_an_informative_related_feature_survives_where_it_can(informative):
    for query in ("infrared", "visible"):
        assert informative.verdicts["cross", query] == "equal"
        for setting in ("mix", "mix-cam", "uni"):
            assert informative.verdicts[setting, query] == "survives"


def test_noise_does_not_survive(noise):
    """What Mix-ID gains, noise gains: it demotes the scores within a modality."""
    gain = noise.comparisons[GAIN].get("mix-id", "infrared")
    assert gain.gain
    assert gain.difference.mean > 0.1
    assert noise.verdicts["mix-id", "infrared"].startswith("explained by: ")
    assert "shuffled" in noise.verdicts["mix-id", "infrared"]
    assert "survives" not in noise.verdicts.values()
    assert noise.verdicts["cross", "infrared"] == "equal"


def simulated_table(leak):
    """MAP of systems (rows) for an informative related feature and for noise, Mix and Mix-ID."""
    table = {}
    for related in ("informative", "noise"):
        report = fair_report(
            simulated(related, leak), "full", settings=("mix", "mix-id"), resamples=50
        )
        for label in SYSTEMS:
            for setting in ("mix", "mix-id"):
                table[label, setting, related] = report.row(label, setting, "infrared").mAP
    return table


@pytest.mark.parametrize("leak", [0.6, 1.0])
def test_what_the_guide_says_of_the_simulation(leak):
    table = simulated_table(leak)
    erased, fused, znormed = "(a) erased", "(c) fused", "(b) erased, z-normed"
    # Mix-ID cannot tell an informative related feature from noise ...
    for related in ("informative", "noise"):
        gain = table[fused, "mix-id", related] - table[erased, "mix-id", related]
        assert gain > 0.1
        # ... and calibration of the erased feature alone brings about as much.
        calibrated = table[znormed, "mix-id", related] - table[erased, "mix-id", related]
        assert calibrated > 0.7 * gain
    in_mix, in_mix_id = (
        table[fused, setting, "informative"] - table[fused, setting, "noise"]
        for setting in ("mix", "mix-id")
    )
    assert abs(in_mix_id) < 0.05
    assert in_mix > 0.05


def made(low, p, mean=0.1, equal=False, queries=10):
    difference = PairedDifference(mean, low, 0.3, p, queries, 5)
    return Comparison("mixer", "b", (ComparedRow("mix", "infrared", difference, p, equal),))


@pytest.mark.parametrize(
    ("gain", "controls", "words"),
    [
        (made(0.01, 0.01), [made(0.01, 0.01)] * 3, "survives"),
        (made(0.01, 0.05), [made(0.01, 0.05)] * 3, "survives"),
        (made(0.0, 1.0, 0.0, equal=True), [made(0.01, 0.01)] * 3, "equal"),
        (made(-0.2, 0.01, -0.1), [made(0.01, 0.01)] * 3, "no gain"),
        (made(-0.01, 0.3), [made(0.01, 0.01)] * 3, "gain not shown"),
        (made(0.01, 0.051), [made(0.01, 0.01)] * 3, "gain not shown"),
        (
            made(0.01, 0.01),
            [made(0.01, 0.01), made(-0.1, 0.01), made(0.01, 0.01)],
            "explained by: z-norm",
        ),
        (
            made(0.01, 0.01),
            [made(0.01, 0.2), made(0.01, 0.01), made(0.0, 1.0, 0.0, equal=True)],
            "explained by: centring, shuffled",
        ),
        (made(np.nan, np.nan, np.nan, queries=0), [made(0.01, 0.01)] * 3, "no query"),
    ],
)
def test_verdicts(gain, controls, words):
    comparisons = {GAIN: gain, **dict(zip(CONTROLS, controls, strict=True))}
    assert verdict(comparisons, "mix", "infrared") == words


def test_without_related_features_there_are_only_the_erased_rows():
    features = replace(simulated(), related=None)
    report = fair_report(features, "full", settings=("mix",))
    assert report.comparisons == report.verdicts == {}
    assert {(row.rule, row.calibration) for row in report.results.rows} == {
        ("erased", None),
        ("erased", "center"),
        ("erased", "znorm"),
    }
    text = report.to_markdown()
    assert "(b) erased, z-normed" in text
    assert "fused" not in text
    assert json.loads(report.to_json())["verdicts"] == []


def test_forms_hold_the_figures(informative):
    levels, differences = informative.to_markdown().split("\n\n")
    for table in (levels, differences):
        lines = table.strip().splitlines()
        assert len(lines) == 2 + 12
        assert len({line.count("|") for line in lines}) == 1
    row = informative.row("(d) fused, related shuffled", "mix", "visible")
    (line,) = [x for x in levels.splitlines() if x.startswith("| mix | visible |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2 + list(SYSTEMS).index("(d) fused, related shuffled")] == (
        f"{100 * row.mAP:.2f} / {100 * row.r1:.2f}"
    )
    (line,) = [x for x in differences.splitlines() if x.startswith("| mix | visible |")]
    found = informative.comparisons[GAIN].get("mix", "visible").difference
    bounds = f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]"
    assert f"| {100 * found.mean:+.2f} {bounds} |" in line
    assert line.endswith("| survives |")
    content = json.loads(informative.to_json())
    assert len(content["rows"]) == len(informative.results.rows)
    assert content["comparisons"][GAIN]["rows"][1]["p"] == (
        informative.comparisons[GAIN].rows[1].difference.p
    )
    assert content["verdicts"][0] == {"setting": "cross", "query": "infrared", "verdict": "equal"}


PAGE = Path(__file__).resolve().parents[3] / "docs" / "evaluation.md"


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the page draws a curve")
    monkeypatch.chdir(tmp_path)
    small = simulated(identities=12)
    small.save(tmp_path / "mine.npz")
    replace(small, erased=small.erased + 0.5).save(tmp_path / "theirs.npz")
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == page.count("```") // 2
    exec("\n".join(blocks), {"__name__": "page"})
    printed = capsys.readouterr().out
    assert "verdict" in printed
    assert (tmp_path / "mixing.png").is_file()
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)` *\|", page))
    assert set(SETTINGS) <= named
    figures = set(re.findall(r"`((?:mAP|r1)_[a-z]+)`", page))
    assert len(figures) == 5
    assert figures <= {field.name for field in fields(ResultRow)}
