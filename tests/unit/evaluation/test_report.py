"""The table of results and its forms."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math

import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import ResultRow, Results, evaluate
from tests.unit.evaluation.evaluation_cases import make


@pytest.fixture(scope="module")
def results() -> Results:
    return evaluate(make(60), "full", query="both", calibration=(None, "znorm"))


def test_get_finds_one_row(results):
    row = results.get("mix", "mixer", query="visible", calibration="znorm")
    assert row.key == ("mix", "mixer", "visible", "znorm")
    with pytest.raises(MixERValueError, match="say query="):
        results.get("mix", "mixer")
    with pytest.raises(MixERValueError, match="No row"):
        results.get("mix", "related")


def test_csv_and_json_hold_every_number_in_full(results):
    table = list(csv.DictReader(io.StringIO(results.to_csv())))
    content = json.loads(results.to_json())
    assert len(table) == len(content["rows"]) == len(results.rows)
    assert any("queries" in line for line in content["contract"])
    for line, entry, row in zip(table, content["rows"], results.rows, strict=True):
        for field in dataclasses.fields(ResultRow):
            if field.name == "mAP_ci":
                assert (entry["mAP_ci_low"], entry["mAP_ci_high"]) == row.mAP_ci
                assert float(line["mAP_ci_low"]) == row.mAP_ci[0]
                continue
            value = getattr(row, field.name)
            if isinstance(value, float) and math.isnan(value):
                assert entry[field.name] is None
                continue
            assert entry[field.name] == value
            assert line[field.name] == ("" if value is None else str(value))


def test_a_mixed_table_says_which_controls_it_lacks():
    def note(**options):
        text = evaluate(make(), "full", **options).to_markdown()
        return text.partition("Not in this table: ")[2].partition(". ")[0]

    every = (None, "znorm", "center")
    rules = ("erased", "mixer", "mixer-shuffled")
    assert note(rules=rules, calibration=every) == ""
    assert note(rules=("mixer",), calibration="znorm") == (
        "erased, erased with znorm, erased with center, mixer-shuffled"
    )
    assert note(rules=rules[:2], calibration=every) == "mixer-shuffled"
    assert note(rules=rules, rerank="aim") == "erased with center"
    # Nothing is fused, or nothing is mixed.
    assert note(rules=("erased", "related")) == ""
    assert note(rules=("erased", "mixer"), settings=("cross", "uni")) == ""


def test_markdown_and_latex_are_in_percent(results):
    row = results.rows[0]
    markdown, latex = results.to_markdown().splitlines(), results.to_latex().splitlines()
    *markdown, blank, note = markdown
    assert not blank
    assert note.startswith("Not in this table: erased with center, mixer-shuffled. Without")
    assert len(markdown) == len(results.rows) + 2
    cells = [cell.strip() for cell in markdown[2].strip("|").split("|")]
    assert cells[:5] == ["cross", "erased", "infrared", "none", f"{100 * row.r1:.2f}"]
    assert f"{100 * row.mAP:.2f}" in cells
    assert len({line.count("|") for line in markdown}) == 1
    body = [line for line in latex if line.startswith("cross & erased & infrared & none & ")]
    assert len(body) == 1
    assert f"{100 * row.mAP:.2f}" in body[0]
    assert latex[0].startswith(r"\begin{tabular}{llll")
    assert latex[-1] == r"\end{tabular}"
