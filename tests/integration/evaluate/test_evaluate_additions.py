"""What ``mixer-plugin evaluate`` adds to its table: fairness, diagnostics, a comparison."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mixer_plugin.commands.evaluate import run as command
from mixer_plugin.commands.evaluate import sections as evaluate_sections
from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.evaluation.analysis import fairness
from mixer_plugin.evaluation.analysis.comparison import compare
from mixer_plugin.evaluation.analysis.curves import gallery_curve
from mixer_plugin.evaluation.analysis.fairness import fair_report
from mixer_plugin.evaluation.analysis.label_noise import wrong_labels
from mixer_plugin.evaluation.analysis.modality_bias import (
    camera_pairs,
    modality_bias,
    modality_pairs,
)
from mixer_plugin.evaluation.protocols.fixed_gallery import fixed_gallery
from tests.integration.evaluate.evaluate_cases import SYSU, make


def told(folder):
    """What stands on stderr: where the page is."""
    return f"Report: {folder / 'out' / 'report.html'}\n"


@pytest.mark.slow
def test_additions_are_printed_after_the_table_and_written(run, stored, tmp_path):
    make(1).save(tmp_path / "two.npz")
    given = (stored, *SYSU, "--settings", "cross,mix,mix-id", "--query", "both")
    asked = ("--fair", "--diagnostics", "--against", tmp_path / "two.npz")
    protocol = get_protocol("sysu/all/single@ye")
    settings = {"settings": ("cross", "mix", "mix-id"), "query": "both", "trials": 2}
    mine, theirs = (evaluate(make(seed), protocol, **settings) for seed in (0, 1))
    compared = compare(mine, theirs, ids=make().ids, rule_a="mixer", rule_b="mixer")
    a, b = f"mixer of {stored}", f"mixer of {tmp_path / 'two.npz'}"
    fair = fair_report(make(), protocol, **settings)
    tables = [
        *(modality_bias(make(), protocol, settings=("mix", "mix-id"), query=side, trials=2)
          for side in ("infrared", "visible")),
        *(table(make(), protocol, trials=2) for table in (modality_pairs, camera_pairs)),
    ]  # fmt: skip
    compared = dataclasses.replace(compared, a=a, b=b)
    few = fixed_gallery(protocol, protocol.draws(make(), 2), "both draws")  # nothing is left out
    grown = [gallery_curve(make(), few, draws=3, query=side) for side in ("infrared", "visible")]
    wrong = [
        wrong_labels(make(), few, settings=("mix", "mix-id"), query=side, draws=1, trials=1)
        for side in ("infrared", "visible")
    ]

    plain = run(*given)[1]
    status, out, err = run(*given, *asked, "--out", tmp_path / "out")
    assert (status, err) == (0, told(tmp_path))
    assert out.startswith(plain)
    added = out.removeprefix(plain)
    names = ("fairness", "diagnostics", "comparison")
    assert [line for line in added.splitlines() if line.startswith("#")] == [
        f"### {name.capitalize()}" for name in names
    ]
    tables_shown = [*tables, *grown, *wrong]
    lines = [line for table in tables_shown for line in table.to_markdown().splitlines()]
    lines += [f"As the gallery grows: mix, {n} of {n} {side} queries"
              for n, side in ((24, "infrared"), (48, "visible"))]  # fmt: skip
    lines += (fair.to_markdown() + compared.to_markdown()).splitlines()
    assert set(lines) <= set(added.splitlines())
    files = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir()}
    assert files.keys() == {
        *(f"evaluation.{form}" for form in ("txt", "md", "csv", "tex", "json")),
        *("queries.csv", "queries.json", "report.html"),
        *(f"{name}.{form}" for name in names for form in ("md", "json")),
    }
    assert all(files[f"{name}.md"].rstrip() in added for name in names)
    assert files["fairness.json"] == fair.to_json()
    assert files["comparison.json"] == compared.to_json()
    content = json.loads(files["diagnostics.json"])
    assert content["rule"] == "mixer"
    assert content["bias"] == [row for each in tables[:2] for row in json.loads(each.to_json())]
    for name, table in zip(("modalities", "cameras"), tables[2:], strict=True):
        assert content[name] == json.loads(table.to_json())
    expected = [("infrared", 24), ("visible", 48)]
    for (side, count), curve, entry in zip(expected, grown, content["growth"], strict=True):
        labels = {"query": side, "asked": count, "of": count}
        assert entry == labels | json.loads(curve.to_json())
    assert content["wrong_labels"] == [x for each in wrong for x in json.loads(each.to_json())]
    for form in ("csv", "json", "tex"):
        status, out, err = run(*given, *asked, "--format", form)
        assert status == 0
        assert out == run(*given, "--format", form)[1]
        assert added in err


def test_repeated_rankings_are_bounded(run, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_sections, "_PAIRS", 5 * 72 + 71)
    ranked = []

    def watch(name):
        plain = getattr(evaluate_sections, name)

        def watched(features, protocol, **kwargs):
            queries = len(protocol.queries(features, 1))
            ranked.extend(queries * len(draw) for draw in protocol.draws(features))
            return plain(features, protocol, **kwargs)

        monkeypatch.setattr(evaluate_sections, name, watched)

    watch("gallery_curve")
    watch("wrong_labels")
    given = (stored, "--settings", "mix,cross", "--rules", "erased", "--no-positive", "error")
    status, out, err = run(*given, "--diagnostics", "--out", tmp_path / "out")
    assert (status, err) == (0, told(tmp_path))
    assert ranked == [5 * 72] * 2
    assert "As the gallery grows: mix, 5 of 24 infrared queries" in out
    content = json.loads((tmp_path / "out" / "diagnostics.json").read_text(encoding="utf-8"))
    (curve,) = content["growth"]
    assert (curve["asked"], curve["of"]) == (5, 24)
    assert {p["queries_valid"] + p["queries_dropped"] for p in curve["points"]} == {5}
    assert curve["points"][0]["queries_dropped"] > 0  # though that is an error in the table


def test_no_labels_are_wrong_where_none_are_used(run, stored):
    make(related=False).save(stored)
    _, out, _ = run(stored, "--settings", "mix", "--diagnostics")
    assert "Rule: erased" in out
    assert "As the gallery grows" in out
    assert "labels are wrong" not in out


@pytest.mark.parametrize(
    ("table", "rule"), [((), "mixer"), (("--rules", "related", "--calibration", "none"), "dev-sum")]
)
def test_additions_evaluate_nothing_twice(run, stored, tmp_path, monkeypatch, table, rule):
    make(1).save(tmp_path / "two.npz")
    given = (stored, *SYSU, *table, "--settings", "mix")
    added = ("--fair", "--against", tmp_path / "two.npz", "--compare-rule", rule)
    expected = run(*given)[1]
    evaluated = []

    def counted(features, *args, **kwargs):
        results = evaluate(features, *args, **kwargs)
        evaluated.extend((features.erased[0, 0].item(), row.key) for row in results.rows)
        return results

    for module in (command, evaluate_sections, fairness):
        monkeypatch.setattr(module, "evaluate", counted)
    status, out, err = run(*given, *added, "--out", tmp_path / "out")
    assert (status, err) == (0, told(tmp_path))
    assert out.startswith(expected)  # the table shows what was asked for, no more
    assert len({system for system, _ in evaluated}) == 2
    assert len(evaluated) == len(set(evaluated))
    fair = fair_report(make(), "sysu/all/single@ye", settings=("mix",), trials=2)
    assert (tmp_path / "out" / "fairness.json").read_text(encoding="utf-8") == fair.to_json()


def test_rules_of_a_comparison(run, stored, tmp_path):
    plain, two = tmp_path / "plain.npz", tmp_path / "two.npz"
    make(1, related=False).save(plain)
    make(1).save(two)
    given = (stored, "--settings", "mix", "--rules", "related", "--calibration", "none")

    def head(*asked):
        status, out, err = run(*given, "--against", *asked)
        assert status == 0, err
        return next(line for line in out.splitlines() if "mAP: " in line)

    assert f"mAP: mixer of {stored} − mixer of {two}" in head(two)
    assert f"mAP: erased of {stored} − erased of {plain}" in head(plain)
    chosen = (plain, "--compare-rule", "mixer,erased")
    assert f"mAP: mixer of {stored} − erased of {plain}" in head(*chosen)
    related = (two, "--compare-rule", "related")
    assert f"mAP: related of {stored} − related of {two}" in head(*related)
    _, out, _ = run(*given, "--against", stored)  # with itself
    assert "0 (exactly)" in out
    assert "no related features" not in out
    _, out, _ = run(*given, "--against", plain, "--out", tmp_path / "out")
    note = f"{plain} has no related features: both are compared under rule erased."
    assert note in out
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["note"].startswith(note)
