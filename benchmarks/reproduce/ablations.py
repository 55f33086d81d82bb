"""Tables 5, B.4 and B.5, and Figure B.1: what losses, weights, trunks and fusion are worth."""

from __future__ import annotations

from typing import Any

from mixer_plugin.benchmarks.experiment.pictures import pyplot
from mixer_plugin.benchmarks.experiment.tables import Table
from mixer_plugin.benchmarks.experiment.trained_network import read_trained
from mixer_plugin.benchmarks.paper.numbers import paper_table
from mixer_plugin.benchmarks.reproduce.artifact import Artifact, Made, Picture
from mixer_plugin.benchmarks.reproduce.cost import operations_of
from mixer_plugin.benchmarks.reproduce.grid import (
    Column,
    Line,
    grid,
    mean_and_spread,
    measure_line,
)
from mixer_plugin.benchmarks.reproduce.networks import (
    LOSSES,
    OURS,
    SWEEP,
    WEIGHTS,
    Bench,
    Network,
    loss_cell,
    sweep_cell,
)

_CROSS = Column(name="cross", title="Cross", setting="cross")
_MIX_CAM = Column(name="mix-cam", title="Mix-Cam", setting="mix-cam")
_MIX_CAM_ID = Column(name="mix-cam-id", title="Mix-Cam-ID", setting="mix-cam-id")
_SYMBOLS = {"lambda_confusion": "λ_m", "lambda_orthogonal": "λ_o", "lambda_fusion": "λ_f"}


def _ours(cell: str) -> Network:
    return Network("sysu", OURS, cell)


def _table5() -> Artifact:
    title = "Table 5: what each loss is worth"
    lines = [Line(label="L_yme", network=_ours("baseline"))]
    for row in LOSSES:
        # Without L_ymr the related feature has learned nothing, and the erased one is matched.
        rule = "mixer" if "L_ymr" in row else "erased"
        lines.append(Line(label=row, network=_ours(loss_cell(row)), rule=rule))
    lines.append(Line(label="all", network=_ours("e2e"), rule="mixer"))

    def make(bench: Bench) -> Made:
        note = (
            "L_yme is the base's own training. Rows with L_ymr are matched by the paper's rule, "
            "the others by the erased feature. The paper marks two losses in rows 2 to 4; they are "
            "read in the order of its columns."
        )
        table, rows = grid(bench, title, lines, [_CROSS, _MIX_CAM_ID], "table5", note)
        return Made([table], rows=rows)

    return Artifact(title=title, networks=lambda bench: [n.network for n in lines], make=make)


def parameters_of(bench: Bench, network: Network) -> int:
    """Parameters of a trained network with what MixER added, classifiers included."""
    job = bench.job(network, bench.seeds_of(network)[0])
    path = job.folder(bench.folder(network.dataset)) / f"{network.cell}.pt"
    model = read_trained(path)[1].build()
    return sum(p.numel() for p in model.parameters())


def _b4() -> Artifact:
    title = "Table B.4: other trunks"
    trunks = {
        "ResNet-18": f"{OURS}@resnet18", "ResNet-50": OURS, "ViT-B-16": f"{OURS}@vit-b16",
        "ViT-L-16": f"{OURS}@vit-l16",
    }  # fmt: skip
    columns = [_CROSS, _MIX_CAM_ID]
    lines = [
        Line(label=name, network=Network("sysu", entry, "e2e"), rule="mixer")
        for name, entry in trunks.items()
    ]

    def make(bench: Bench) -> Made:
        counts = {line.label: parameters_of(bench, line.network) for line in lines}
        note = "Trunks of the paper's baseline, with MixER end to end."
        if bench.mini:
            used = {n: bench.config("sysu", e).baselines[e]["trunk"] for n, e in trunks.items()}
            stand = ", ".join(f"{name}: {trunk}" for name, trunk in used.items())
            note += f" In mini, small trunks stand for them ({stand})."
        table, rows = grid(bench, title, lines, columns, "b4", note)
        return Made(
            [_with(table, "parameters, M", counts, "parameters_m", "b4", 1e6)],
            rows=[{**row, "parameters": counts[row["row"]]} for row in rows],
        )

    return Artifact(title=title, networks=lambda bench: [n.network for n in lines], make=make)


def _with(
    table: Table, head: str, counts: dict[str, int], column: str, paper: str, unit: float
) -> Table:
    """A table with one column more, after the labels."""
    printed = [f"{row.values[column]:.2f}" for row in paper_table(paper)]
    own = [f"{counts[row[0]] / unit:.3g}" for row in table.rows[: len(counts)]]
    rows = tuple(
        (row[0], cell, *row[1:]) for row, cell in zip(table.rows, [*own, *printed], strict=True)
    )
    header = (table.header[0], head, *table.header[1:])
    return Table(table.title, table.note, header, rows)


def _b5() -> Artifact:
    title = "Table B.5: fusion by concatenation, and by cross-attention before pooling"
    kinds = {"Concatenation": _ours("e2e"), "Cross-attention": _ours("attention")}
    lines = [Line(label=name, network=n, rule="mixer") for name, n in kinds.items()]

    def make(bench: Bench) -> Made:
        counts = {line.label: parameters_of(bench, line.network) for line in lines}
        costs = {line.label: operations_of(bench, line.network) for line in lines}
        note = (
            "With cross-attention the related map attends to the erased one before both are "
            "pooled. Operations: of a batch in training, forward and backward."
        )
        table, rows = grid(bench, title, lines, [_MIX_CAM, _MIX_CAM_ID], "b5", note)
        table = _with(table, "operations, T", costs, "operations_t", "b5", 1e12)
        table = _with(table, "parameters, M", counts, "parameters_m", "b5", 1e6)
        return Made(
            [table],
            rows=[
                {**row, "parameters": counts[row["row"]], "operations": costs[row["row"]]}
                for row in rows
            ],
        )

    return Artifact(title=title, networks=lambda bench: list(kinds.values()), make=make)


def _figure_b1() -> Artifact:
    title = "Figure B.1: the weights of the losses, Mix-Cam-ID"

    def networks(bench: Bench) -> list[Network]:
        cells = [sweep_cell(w, v) for w in WEIGHTS for v in SWEEP[bench.scale]]
        return [_ours(cell) for cell in dict.fromkeys([*cells, "e2e"])]

    def make(bench: Bench) -> Made:
        rows: list[dict[str, Any]] = []
        body = []
        for weight, best in WEIGHTS.items():
            for value in sorted({*SWEEP[bench.scale], best}):
                line = Line(label=weight, network=_ours(sweep_cell(weight, value)), rule="mixer")
                found = measure_line(bench, line, [_MIX_CAM_ID])["mix-cam-id"]
                r1, ap = zip(*found.values(), strict=True)
                cells = (mean_and_spread(r1), mean_and_spread(ap))
                body.append((f"{_SYMBOLS[weight]} = {value:g}", *cells))
                rows += [
                    {"weight": weight, "value": value, "seed": s, "r1": a, "mAP": b}
                    for s, (a, b) in found.items()
                ]
        others = ", ".join(f"{_SYMBOLS[w]} = {best:g}" for w, best in WEIGHTS.items())
        note = f"Percent. One weight changes; the others stay at the paper's best, {others}."
        table = Table(title, note, ("", "Mix-Cam-ID R1", "Mix-Cam-ID mAP"), tuple(body))
        caption = f"R1 and mAP in Mix-Cam-ID as one weight changes and the others stay at {others}."
        return Made([table], [Picture("figure-b1", _bars(rows), caption)], rows)

    return Artifact(title=title, networks=networks, make=make)


def _bars(rows: list[dict[str, Any]]) -> Any:
    plt = pyplot()
    figure, panels = plt.subplots(1, len(WEIGHTS), figsize=(9, 3), sharey=True)
    for panel, weight in zip(panels, WEIGHTS, strict=True):
        own = [row for row in rows if row["weight"] == weight]
        values = sorted({row["value"] for row in own})
        for shift, metric, colour in ((-0.2, "r1", "#0072b2"), (0.2, "mAP", "#d55e00")):
            for at, value in enumerate(values):
                levels = [row[metric] for row in own if row["value"] == value]
                label = {"r1": "R1", "mAP": "mAP"}[metric] if at == 0 else "_"
                panel.bar(at + shift, sum(levels) / len(levels), 0.38, color=colour, label=label)
                panel.plot([at + shift] * len(levels), levels, "k.", markersize=3)
        panel.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        panel.set_xlabel(_SYMBOLS[weight])
    panels[0].set_ylabel("Mix-Cam-ID, %")
    top = max(max(row["r1"], row["mAP"]) for row in rows)
    panels[0].set_ylim(0, 1.25 * top or 1)  # room for the legend
    panels[0].legend(loc="upper left", ncols=2, fontsize=9)
    return figure


ARTIFACTS = {"table5": _table5(), "b4": _b4(), "b5": _b5(), "figure-b1": _figure_b1()}
