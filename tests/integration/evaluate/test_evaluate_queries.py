"""Results query by query, as ``mixer-plugin evaluate`` prints and writes them."""

from __future__ import annotations

import json

from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.evaluation.per_query import cells, worst
from tests.integration.evaluate.evaluate_cases import make, rows_of


def test_the_command_prints_and_writes_them(run, stored, tmp_path):
    given = ("--rules", "erased,mixer", "--calibration", "none", "--out", tmp_path / "o")
    status, out, _ = run(stored, *given, "--format", "txt", "--worst", "3")
    assert status == 0
    section = out.split("### Worst")[1]
    assert "Lowest AP in mix, mixer." in section
    results = evaluate(make(), get_protocol("full"), rules=("erased", "mixer"))
    mix = [row for row in results.per_query if (row.setting, row.rule) == ("mix", "mixer")]
    bad = worst(mix, 3)
    assert [line.split()[0] for line in section.splitlines()[-3:]] == [
        line[0] for line in cells(bad)[1]
    ]
    written = rows_of((tmp_path / "o" / "queries.csv").read_text())
    assert len(written) == len(results.per_query)
    for row, line in zip(results.per_query, written, strict=True):
        assert (int(line["row"]), line["setting"], line["rule"]) == (
            row.row,
            row.setting,
            row.rule,
        )
        assert float(line["ap"]) == row.ap
    content = json.loads((tmp_path / "o" / "queries.json").read_text())
    kept = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
    assert kept == [vars(row) for row in results.per_query]
    status, _, err = run(stored, "--worst", "0")
    assert status == 2
    assert "--worst needs at least one query" in err
