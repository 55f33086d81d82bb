"""The paper's printed numbers, each beside the protocol and query that it was measured by."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mixer_plugin.benchmarks.experiment.comparisons import asked_of
from mixer_plugin.benchmarks.experiment.config import load_config
from mixer_plugin.benchmarks.experiment.tables import all_tables
from mixer_plugin.benchmarks.paper.numbers import TABLES, paper_table, rows_beside
from mixer_plugin.errors import MixERError
from mixer_plugin.evaluation import SETTINGS
from mixer_plugin.evaluation.protocols.registry import PROTOCOLS

# Protocol, query → the labels beside saai-base, and one number that tells the table.
BOUND = {
    ("sysu/all/single", "infrared"): ("SAAI", "SAAI (f)+MixER", "SAAI+MixER"),
    ("sysu/all/single", "visible"): ("SAAI", "MixER"),
    ("llcm/sampled", "infrared"): ("SAAI", "MixER"),
    ("llcm/sampled", "visible"): ("SAAI", "MixER"),
    **{(f"regdb/{n}", query): ("SAAI", "MixER") for n in range(1, 11)
       for query in ("infrared", "visible")},
}  # fmt: skip
MIX_ID = {
    ("sysu/all/single", "infrared"): 53.30,
    ("sysu/all/single", "visible"): 57.61,
    ("llcm/sampled", "infrared"): 31.27,
    ("llcm/sampled", "visible"): 34.63,
    ("regdb/3", "infrared"): 55.41,
    ("regdb/3", "visible"): 68.82,
}


@pytest.mark.parametrize("query", ["infrared", "visible"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_papers_rows_stand_beside_their_own_protocol_and_query_alone(protocol, query):
    rows = dict(rows_beside("saai-base", {(protocol, query)}))
    assert tuple(rows) == BOUND.get((protocol, query), ())
    if (protocol, query) in MIX_ID:
        assert rows["SAAI"]["mix-id"][1] == MIX_ID[protocol, query]
    for levels in rows.values():
        assert set(levels) <= set(SETTINGS)


def test_both_queries_or_two_protocols_have_none():
    both = {("sysu/all/single", query) for query in ("infrared", "visible")}
    assert rows_beside("saai", both) == []
    assert rows_beside("saai", {("sysu/all/single", "infrared"), ("full", "infrared")}) == []
    assert rows_beside("saai", set()) == []
    splits = {(f"regdb/{split}", "infrared") for split in (1, 2)}
    assert len(rows_beside("saai", splits)) == 2


def test_the_two_directions_of_table_2_stand_in_their_own():
    infrared, visible = (
        dict(rows_beside("deen", {("regdb/1", query)}))["DEEN"] for query in ("infrared", "visible")
    )
    assert (infrared["cross"], visible["cross"]) == ((90.29, 83.98), (91.21, 85.13))
    assert (infrared["mix"], visible["mix"]) == ((99.95, 83.06), (99.95, 88.49))


def test_a_network_that_the_paper_does_not_train_there_has_no_rows():
    assert rows_beside("sgeil", {("regdb/1", "infrared")}) == []
    assert rows_beside("sgeil", {("sysu/all/single", "visible")}) != []


@pytest.mark.parametrize(("query", "shown"), [("infrared", "62.45"), ("visible", "70.76")])
def test_the_tables_of_a_run_show_the_rows_of_its_own_query(query, shown):
    row = SimpleNamespace(protocol="sysu/all/single", query=query, setting="mix-id",
                          rule="erased", calibration=None, mAP=0.5, r1=0.5)  # fmt: skip
    measured = {("cues", "baseline", 0): SimpleNamespace(rows=[row])}
    assert asked_of(measured) == {("sysu/all/single", query)}
    text = "\n".join(
        table.to_markdown() for table in all_tables({"saai-base": measured}, load_config("demo"))
    )
    others = {"62.45", "70.76", "73.45"} - {shown}
    assert shown in text
    assert not any(other in text for other in others)


def test_every_table_is_whole_and_an_unknown_one_is_refused():
    for name in TABLES:
        rows = paper_table(name)
        assert rows
        for row in rows:
            assert row.method
            assert row.values
            for key in row.values:
                stem, _, metric = key.rpartition("_")
                if metric in ("r1", "map"):
                    assert row.levels(stem) is not None
    with pytest.raises(MixERError, match="table1"):
        paper_table("table11")


def test_what_the_paper_contradicts_is_marked():
    marked = {name for name in TABLES if any(row.erratum for row in paper_table(name))}
    assert marked >= {"table1", "table2b", "table5", "b4"}
    (ddag,) = [row for row in paper_table("table2b") if row.method == "DDAG"]
    (regdb,) = [row for row in paper_table("table2a") if row.method == "DDAG"]
    assert ddag.levels("mix") == regdb.levels("cross")
