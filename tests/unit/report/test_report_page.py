"""The page's numbers are those of ``evaluate``; it is one file that needs no other."""

import itertools
import json
import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from mixer_plugin.errors import MissingExtraError
from mixer_plugin.evaluation import SETTINGS, evaluate
from mixer_plugin.evaluation.report import lists, thumbnails
from mixer_plugin.evaluation.report.charts import Line, line_chart
from mixer_plugin.evaluation.report.content import features_page
from mixer_plugin.evaluation.report.page import Page, can_write, render
from mixer_plugin.evaluation.report.words import sentences
from mixer_plugin.matching import scores
from tests import bruteforce
from tests.unit.report.report_cases import (
    PROTOCOL,
    SYSTEMS,
    assert_stands_alone,
    data_of,
    html_of,
    make,
    page_of,
)


def literal(features, system):
    """By (setting, infrared query): scores and the rows of its list, from the definitions."""
    ids, cams, modality = (getattr(features, name).tolist() for name in ("ids", "cams", "modality"))
    matrix = scores(features, features, *system, self_index=range(len(features))).tolist()
    return {
        (setting, q): (
            matrix[q],
            bruteforce.rank_list(
                matrix[q],
                [
                    g
                    for g in range(len(features))
                    if bruteforce.allowed(setting, q, g, ids, cams, modality)
                ],
            ),
        )
        for setting in SETTINGS
        for q in range(len(features))
        if modality[q] == 1
    }


def test_its_data_are_the_rows_and_queries_of_evaluate():
    results, html = html_of(make())
    data = data_of(html)
    assert data["systems"][0]["rows"] == json.loads(results.to_json())["rows"]
    assert [(c["rule"], c["by"]) for c in data["choices"]] == SYSTEMS
    assert data["start"] == [0, 1]
    for row in results.per_query:
        choice = SYSTEMS.index((row.rule, row.calibration))
        entry = data["entries"][choice][row.setting]
        at = data["queries"].index(row.row)
        assert entry["ap"][at] == (None if math.isnan(row.ap) else row.ap)
        assert entry["first"][at] == (None if math.isnan(row.first_hit) else row.first_hit)


@pytest.mark.parametrize("system", SYSTEMS[:3])
def test_lists_are_ranked_and_shortened_as_the_setting_says(system):
    features = make()
    data = data_of(html_of(features)[1])
    entries = data["entries"][SYSTEMS.index(system)]
    for (setting, query), (matrix, rows) in literal(features, system).items():
        if query not in data["queries"]:
            continue
        at = data["queries"].index(query)
        found = entries[setting]["rows"][at]
        assert found == rows[:10]
        expected = [matrix[row] for row in found]
        assert entries[setting]["scores"][at] == pytest.approx(expected, abs=1e-4)
        for row in found:
            image = data["images"][str(row)]
            assert image["id"] == int(features.ids[row])
            assert (image["camera"], image["modality"]) == (
                int(features.cams[row]),
                int(features.modality[row]),
            )


@pytest.mark.parametrize("system", SYSTEMS[:3])
def test_overlap_d_prime_and_precision_are_the_literal_ones(system):
    features = make()
    ids = features.ids.tolist()
    queries = np.flatnonzero(features.modality.numpy() == 1)
    found = lists.look(
        features, PROTOCOL, system, settings=SETTINGS, query="infrared", shown=queries, figures=True
    )
    every = literal(features, system)
    for setting in SETTINGS:
        same, other, precisions = [], [], []
        for query in queries.tolist():
            matrix, rows = every[setting, query]
            hits = [ids[row] == ids[query] for row in rows]
            for row, hit in zip(rows, hits, strict=True):
                (same if hit else other).append(matrix[row])
            count = sum(hits)
            if not count:
                continue
            ranks = [rank for rank, hit in enumerate(hits, 1) if hit]
            of_query = []
            for step in range(1, 21):
                needed = -(-step * count // 20)
                of_query.append(needed / ranks[needed - 1])
            precisions.append(of_query)
        assert found[setting].precision == pytest.approx(np.mean(precisions, axis=0))
        separation = found[setting].separation
        low, high = min(same + other), max(same + other)
        width = (high - low) / 60
        bins = [[0] * 60, [0] * 60]
        for counts, values in zip(bins, (same, other), strict=True):
            for value in values:
                counts[min(int((value - low) / width), 59)] += 1
        overlap = sum(min(a / len(same), b / len(other)) for a, b in zip(*bins, strict=True))
        assert separation.overlap == pytest.approx(overlap, abs=0.02)  # a value on a bin's edge
        means = [sum(v) / len(v) for v in (same, other)]
        spread = [
            sum((x - m) ** 2 for x in v) / len(v) for v, m in zip((same, other), means, strict=True)
        ]
        d_prime = (means[0] - means[1]) / math.sqrt(sum(spread) / 2)
        assert separation.d_prime == pytest.approx(d_prime, abs=1e-4)


def test_scores_that_lie_apart_and_equal_ones():
    apart = lists.separate(np.float32([0.8, 0.9]), np.float32([0.1, 0.2]))
    assert apart.overlap == 0
    equal = lists.separate(np.float32([0.1, 0.9]), np.float32([0.1, 0.9]))
    assert (equal.overlap, equal.d_prime) == (1, 0)
    assert lists.separate(np.float32([]), np.float32([0.1])) is None
    assert math.isnan(lists.separate(np.float32([0.5]), np.float32([0.5])).d_prime)


def test_the_cmc_of_the_page_is_that_of_the_table():
    results, _ = page_of(make())
    for row in results.rows:
        curve = results.cmc[row.key]
        assert [curve[rank - 1] for rank in (1, 5, 10, 20)] == [row.r1, row.r5, row.r10, row.r20]
        assert (np.diff(curve) >= 0).all()


def test_queries_are_spread_over_the_order_of_ap(monkeypatch):
    monkeypatch.setattr("mixer_plugin.evaluation.report.content.SHOWN", 5)
    results, page = page_of(make())
    rows, ap = results.per_query_ap["mix", "erased", "infrared", None]
    shown = page.data["queries"]
    assert len(shown) == 5
    assert "5 of 24 queries, evenly spaced" in page.data["note"]
    chosen = sorted(float(ap[rows.tolist().index(row)]) for row in shown)
    assert (chosen[0], chosen[-1]) == (ap.min(), ap.max())
    assert len(page.data["entries"][0]["mix"]["rows"]) == 5
    _, page = page_of(make(), query="both")
    assert len(page.data["queries"]) == 4


def test_lists_and_pictures_share_their_room(tmp_path, monkeypatch):
    features = make(tmp_path)
    _, page = page_of(features)
    lists_alone = len(json.dumps(page.data["entries"]))
    monkeypatch.setattr("mixer_plugin.evaluation.report.browser.MOST_BYTES", lists_alone + 5000)
    _, page = page_of(features)
    pictures = [image["picture"] for image in page.data["images"].values() if image["picture"]]
    assert 0 < sum(map(len, pictures)) <= 5000


def test_it_stands_alone_with_pictures_where_there_are_files(tmp_path):
    features = make(tmp_path)
    _, html = html_of(features, query="both")
    assert_stands_alone(html)
    data = data_of(html)
    assert len(data["queries"]) == len(features)
    for row, image in data["images"].items():
        assert image["name"] == f"image{int(row):02d}.png"
        assert (image["picture"] is None) == (int(row) >= len(features) - 4)
        assert image["picture"] is None or image["picture"].startswith("data:image/jpeg;base64,")
    assert str(tmp_path) not in html


def test_pictures_end_where_the_room_does(tmp_path):
    features = make(tmp_path)
    every = thumbnails.thumbnails(features.paths, range(20), 10**6)
    most = sum(map(len, every.values())) // 2
    some = thumbnails.thumbnails(features.paths, range(20), most)
    assert 0 < len(some) < 20
    assert sum(map(len, some.values())) <= most
    assert list(some) == list(range(len(some)))
    (tmp_path / "image00.png").write_bytes(b"none")
    assert 0 not in thumbnails.thumbnails(features.paths, range(3), 10**6)
    assert thumbnails.thumbnails(None, [0], 10**6) == {}


def test_controls_are_folded_and_explained():
    results, page = page_of(make())
    table = page.sections[1].tables[0]
    assert len(table.rows) == len(results.rows)
    assert [row.folded for row in table.rows[:4]] == [False, False, True, True]
    terms = dict(page.sections[0].terms)
    assert terms["mixer-shuffled"].startswith("control: ")
    assert terms["znorm"].startswith("control: ")
    gains = [text for text in page.sections[0].words if text.startswith("mix: ")]
    base, mine = (results.get("mix", rule).mAP for rule in ("erased", "mixer"))
    assert f"mAP {100 * base:.1f} % with erased, {100 * mine:.1f} % with mixer" in gains[0]


@pytest.mark.parametrize(("control", "ending"), [(0.6, "."), (0.7, ", as much or more.")])
@pytest.mark.parametrize("rule", ["mixer", "fused-calibrated"])
def test_a_gain_stands_beside_its_best_control(rule, control, ending):
    systems = [("erased", None), (rule, None), ("erased", "znorm"), ("erased-calibrated", None)]
    results = evaluate(make(), PROTOCOL, systems=systems, settings=("mix",))
    figures = dict(zip(systems, (0.5, 0.7, 0.4, control), strict=True))
    rows = [replace(row, mAP=figures[row.rule, row.calibration]) for row in results.rows]
    (gain,) = [text for text in sentences(replace(results, rows=rows)) if rule in text[:60]]
    assert gain == (
        f"mix: mAP 50.0 % with erased, 70.0 % with {rule} (+20.0). The best control, "
        f"erased-calibrated, has {100 * control:.1f} %{ending}"
    )


def test_names_and_paths_cannot_leave_their_place(tmp_path):
    features = make(tmp_path)
    object.__setattr__(features, "paths", tuple(f"</script><b>{p}" for p in features.paths))
    _, html = html_of(features)
    assert "</script><b>" not in html
    assert data_of(html)["images"]
    assert "<b>" not in render(Page("<b>", []))


def test_without_jinja2_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert not can_write()
    with pytest.raises(MissingExtraError, match=r"jinja2.*mixer-plugin\[demo\]"):
        render(Page("title", []))


def test_re_ranked_results_have_the_table_alone():
    features = make()
    results = evaluate(features, PROTOCOL, rules=("erased",), rerank="aim")
    page = features_page([("mine", features, results)], PROTOCOL)
    assert [section.name for section in page.sections] == ["summary", "results"]
    assert_stands_alone(render(page))


def test_one_modality_and_no_mixed_gallery():
    features = make()[np.flatnonzero(make().modality.numpy() == 0)]
    object.__setattr__(features, "related", None)
    results = evaluate(features, PROTOCOL, rules=("erased",), settings=("uni",), query="visible")
    page = features_page([("mine", features, results)], PROTOCOL)
    assert "bias" not in [section.name for section in page.sections]
    assert_stands_alone(render(page))
    assert page.data["start"] == [0]


@pytest.mark.parametrize(("low", "high"), [(0, 0), (-0.001, 0.002), (0, 1), (5, 100), (-3e5, 7e5)])
def test_labels_of_a_chart_are_inside_it(low, high):
    svg = line_chart("x", [Line("y", [low, high], [low, high], "s0")], ("x axis", "y axis"))
    texts = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*class="(\w+)">([^<]*)', svg)
    assert len(texts) >= 9
    ends = []
    for x, y, anchor, text in texts:
        width = 7.2 * len(text)
        left = float(x) - (width if anchor == "end" else width / 2)
        assert 0 <= float(y) <= 240
        assert left + width <= 360
        if text != "x axis" and anchor == "middle":
            ends.append((left, left + width))
    for (_, end), (start, _) in itertools.pairwise(ends):
        assert end < start
