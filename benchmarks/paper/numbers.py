"""The paper's printed numbers, and beside which of our measurements they belong."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources

from mixer_plugin.errors import check_name
from mixer_plugin.evaluation import SETTINGS

TABLES = (
    "table1", "table2a", "table2b", "table3", "table4", "table5",
    "b1-sysu", "b1-regdb", "b1-llcm", "b2", "b3", "b4", "b5",
)  # fmt: skip
Levels = dict[str, tuple[float, float]]  # setting → R1 and mAP in percent

# Protocol and query → the tables that were measured so, and which of their columns is a setting of
# another name. Table 2 prints both directions of the cross-modal search, B.1 the visible query.
_BOUND: Mapping[tuple[str, str], tuple[tuple[str, Mapping[str, str]], ...]] = {
    ("sysu/all/single", "infrared"): (("table3", {}),),
    ("sysu/all/single", "visible"): (("b1-sysu", {}),),
    ("regdb", "infrared"): (("table2a", {}),),
    ("regdb", "visible"): (("b1-regdb", {}), ("table2a", {"cross": "cross-visible"})),
    ("llcm/sampled", "infrared"): (("table2b", {}),),
    ("llcm/sampled", "visible"): (("b1-llcm", {}), ("table2b", {"cross": "cross-visible"})),
}
_VARIANTS = {"baseline": "{}", "f": "{} (f)+MixER", "e2e": "{}+MixER"}


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of a table of the paper.

    Attributes:
        method: as the table names it.
        variant: ``baseline``, ``f`` or ``e2e`` in Table 3, else empty.
        values: column → number, such as ``mix_r1`` in percent; what is not printed is left out.
        erratum: where the paper contradicts itself, or empty.
    """

    method: str
    variant: str
    values: Mapping[str, float]
    erratum: str

    def levels(self, column: str) -> tuple[float, float] | None:
        """R1 and mAP in percent of a column, where they are printed."""
        pair = (f"{column}_r1", f"{column}_map")
        if not all(name in self.values for name in pair):
            return None
        return self.values[pair[0]], self.values[pair[1]]


def paper_table(name: str) -> list[PaperRow]:
    """The rows of a table, in the paper's order.

    Args:
        name: one of ``TABLES``: the table's number, B.1 by data set.

    Raises:
        MixERValueError: for another name.
    """
    check_name("table", name, TABLES)
    file = resources.files("mixer_plugin.benchmarks").joinpath(f"paper/{name}.csv")
    words = ("method", "variant", "erratum")
    return [
        PaperRow(
            method=row["method"],
            variant=row.get("variant", ""),
            values={k: float(v) for k, v in row.items() if k not in words and v},
            erratum=row.get("erratum") or "",
        )
        for row in csv.DictReader(file.read_text("utf-8").splitlines())
    ]


def rows_beside(baseline: str, asked: Collection[tuple[str, str]]) -> list[tuple[str, Levels]]:
    """The paper's rows that belong beside a baseline's results; none where the paper has none.

    Args:
        baseline: name of a network.
        asked: protocol and query of each result. Rows belong beside results of one query, of the
            protocol that the paper measured by.

    Returns:
        Label, and setting → (R1, mAP) in percent.
    """
    places = {(_family(protocol), query) for protocol, query in asked}
    if len(places) != 1:
        return []
    method = baseline.removesuffix("-base").lower()
    # Where a table has one row for MixER, it is that of the paper's own baseline.
    methods = (method, *(["mixer"] if method == "saai" else []))
    found: dict[str, Levels] = {}
    for name, renamed in _BOUND.get(places.pop(), ()):
        for row in paper_table(name):
            if row.method.lower() not in methods:
                continue
            label = _VARIANTS[row.variant or "baseline"].format(row.method)
            printed = {key.rpartition("_")[0] for key in row.values}
            for setting in renamed or sorted(printed & set(SETTINGS)):
                pair = row.levels(renamed.get(setting, setting))
                if pair is not None:
                    found.setdefault(label, {})[setting] = pair
    return list(found.items())


def _family(protocol: str) -> str:
    """``regdb`` for each of its splits, over which Table 2 is a mean."""
    return protocol.partition("/")[0] if protocol.startswith("regdb/") else protocol
