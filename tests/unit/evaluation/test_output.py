"""What an evaluation says on a terminal, and query by query."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest

from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.evaluation.per_query import QueryRow, cells, first_hits, worst
from mixer_plugin.evaluation.terminal import to_text
from mixer_plugin.features import Modality
from mixer_plugin.matching import scores
from tests.integration.evaluate.evaluate_cases import make

RULES = ("erased", "mixer", "mixer-shuffled", "fused-calibrated")


@pytest.fixture(scope="module")
def results():
    protocol = get_protocol("sysu/all/single@ye")
    systems = [(rule, c) for rule in RULES for c in (None, "znorm")][:-1]
    return evaluate(make(), protocol, query="both", trials=2, systems=systems)


def test_each_figure_stands_in_its_row_and_column(results):
    blocks = to_text(results).split("mAP, %")[1:]
    assert len(blocks) == 2  # a query modality each
    for query, block in zip(("infrared", "visible"), blocks, strict=True):
        for figure, part in zip(("mAP", "r1"), ("mAP, %" + block).split("\n\n"), strict=False):
            head, *lines = part.splitlines()
            settings = head.split("%")[1].split()
            assert settings == list(dict.fromkeys(row.setting for row in results.rows))
            for line in lines:
                *words, numbers = line.rsplit(maxsplit=len(settings))[0], line.split()
                rule, _, calibration = words[0].partition(", ")
                for setting, number in zip(settings, numbers[-len(settings) :], strict=True):
                    row = results.get(setting, rule, query=query, calibration=calibration or None)
                    assert number == f"{100 * getattr(row, figure):.2f}"
            assert len(lines) == 7


def test_it_fits_a_terminal_and_counts_its_queries(results):
    text = to_text(results)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "sysu/all/single@ye, 24 infrared queries, galleries of 8 to 24 images" in words
    assert "mean of 2 draws" in words
    assert "though a gain needs them: erased with center." in words
    alone = to_text(results.select([("erased", None)]))
    assert "needs them" not in alone


@pytest.mark.slow
def test_a_terminal_gets_lines_and_a_pipe_markdown(tmp_path):
    pty = pytest.importorskip("pty")
    make().save(tmp_path / "f.npz")
    command = [sys.executable, "-m", "mixer_plugin.cli", "evaluate", str(tmp_path / "f.npz")]
    command += ["--settings", "mix", "--rules", "erased", "--calibration", "none"]
    piped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| setting | rule |" in piped
    master, slave = pty.openpty()
    with subprocess.Popen(command, stdout=slave) as process:
        os.close(slave)
        shown = b""
        while chunk := _read(master):
            shown += chunk
    os.close(master)
    assert process.returncode == 0
    lines = shown.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:2] == ["mAP,", "%"] for line in lines)
    assert "|" not in shown.decode()
    assert lines[-1].startswith("--details: ")


def _read(master):
    try:
        return os.read(master, 4096)
    except OSError:  # the other end is closed
        return b""


def literal(features, rule):
    """AP and first hit in ``mix`` of each infrared query, from the definitions."""
    score = scores(features, features, rule=rule)
    found = {}
    for query in np.flatnonzero(features.modality.numpy() == int(Modality.INFRARED)):
        order = sorted(
            (row for row in range(len(features)) if row != query),
            key=lambda row: (-float(score[query, row]), row),
        )
        right = [features.ids[row] == features.ids[query] for row in order]
        ranks = [place for place, hit in enumerate(right, 1) if hit]
        ap = np.mean([number / rank for number, rank in enumerate(ranks, 1)])
        found[int(query)] = (ap, ranks[0])
    return found


@pytest.mark.parametrize("rule", ["erased", "mixer"])
def test_each_row_is_what_its_ranked_list_says(rule):
    features = make()
    results = evaluate(features, get_protocol("full"), rules=(rule,), settings=("mix", "cross"))
    rows = [row for row in results.per_query if row.setting == "mix"]
    expected = literal(features, rule)
    assert [row.row for row in rows] == list(expected)
    for row in rows:
        assert (row.query, row.rule, row.calibration) == ("infrared", rule, None)
        assert row.path == features.paths[row.row]
        assert row.ap == pytest.approx(expected[row.row][0])
        assert row.first_hit == expected[row.row][1]
    assert results.get("mix", rule).mAP == pytest.approx(np.mean([row.ap for row in rows]))


def test_trials_without_a_positive_do_not_count():
    first = np.array([[1, 0, 4], [3, 0, 0]])
    np.testing.assert_array_equal(first_hits(first), [2, np.nan, 4])


def test_the_worst_come_first():
    rows = [
        QueryRow(n, f"/data/a/{n}.jpg", "visible", "mix", "mixer", None, ap, hit)
        for n, (ap, hit) in enumerate([(0.5, 2), (0.1, 3), (math.nan, math.nan), (0.1, 9)])
    ]
    assert [row.row for row in worst(rows, 2)] == [3, 1]
    assert [row.row for row in worst(rows, 9)] == [3, 1, 0]
    _, body = cells(worst(rows, 2))
    assert body[0] == ["3.jpg", "visible", "10.00", "9"]
    bare = QueryRow(7, None, "visible", "mix", "mixer", None, 0.5, 1)
    assert cells([bare])[1][0][0] == "row 7"
