"""``mixer-plugin bench``: every table and figure in small, and whether what it says is right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mixer_plugin.benchmarks.bench import NAMES, artifact_of
from mixer_plugin.benchmarks.experiment.config import read_yaml
from mixer_plugin.benchmarks.experiment.tables import Table
from mixer_plugin.benchmarks.reproduce import networks
from mixer_plugin.benchmarks.reproduce.artifact import Made
from mixer_plugin.benchmarks.reproduce.networks import LOSSES, OURS, Bench, Network, loss_cell
from mixer_plugin.benchmarks.reproduce.write import for_terminal
from mixer_plugin.cli import main
from mixer_plugin.config import MixERConfig
from mixer_plugin.evaluation import evaluate


@pytest.fixture(scope="module", autouse=True)
def shorter(tmp_path_factory):
    """Shorter trainings and fewer persons: it is the tables that are looked at here."""
    values = read_yaml("bench-mini")
    values["recipe"]["iterations"] = 40
    values["data"]["synthetic"]["test_ids"] = 8
    path = tmp_path_factory.mktemp("config") / "mini.yaml"
    path.write_text(yaml.safe_dump(values))
    patch = pytest.MonkeyPatch()
    patch.setattr(networks, "_MINI", str(path))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """One folder for all names, so that they share their networks."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def made(out, capfd):
    """Runs a name; its rows, what a terminal shows, and which networks were trained for it."""

    def run(name: str):
        assert main(["bench", name, "--out", str(out)]) == 0
        text, log = capfd.readouterr()
        trained = [
            (event["job"], event["cell"])
            for event in map(
                json.loads, filter(lambda line: line.startswith("{"), log.splitlines())
            )
            if event["event"] == "start"
        ]
        folder = out / name
        for form in ("md", "tex", "csv", "json"):
            assert (folder / f"{name}.{form}").stat().st_size > 0
        assert text == (folder / f"{name}.md").read_text() + "\n"
        return json.loads((folder / f"{name}.json").read_text()), text, trained

    return run


def level(rows, row, column, metric="mAP"):
    (found,) = [r for r in rows if (r["row"], r["column"]) == (row, column)]
    return found[metric]


def bench_of(out: Path) -> Bench:
    return Bench(scale="mini", out=out)


def test_table3_shares_the_networks_of_table1(made):
    assert len(made("table1")[2]) == 7  # six baselines, and MixER on the paper's own
    rows, _, trained = made("table3")
    assert ("saai-cues-seed0", "f") not in trained
    assert len(trained) == 6  # e2e of each
    for name in ("DDAG", "DEEN", "SGEIL", "SAAI", "IDKL", "MPANet"):
        assert level(rows, name, "cross") == level(rows, f"{name} (f)+MixER", "cross")
        assert level(rows, name, "mix") != level(rows, f"{name}+MixER", "mix")
    assert made("table3")[2] == []


@pytest.mark.parametrize("name", ["table2a", "table2b"])
def test_table2(made, name):
    rows, text, _ = made(name)
    assert {r["column"] for r in rows if r["row"] == "DEEN"} == {
        "mix", "mix-id", "cross", "cross-visible",
    }  # fmt: skip
    assert not any(r["row"] == "SGEIL" for r in rows)
    assert "paper: IDKL + KR" in text
    assert {r["column"] for r in rows if r["row"] == "MixER + KR"} == {"cross", "cross-visible"}


def test_b1_asks_visible_queries_of_the_networks_of_tables_1_and_2(made, out):
    rows, _, trained = made("b1")
    assert trained == []
    assert {r["dataset"] for r in rows} == {"sysu", "regdb", "llcm"}
    bench, network = bench_of(out), Network("sysu", "deen", "baseline")
    results = evaluate(
        bench.features(network, 0), bench.protocol(network, 0), rules=["erased"],
        settings=["mix-id"], query="visible",
    )  # fmt: skip
    (own,) = [
        r for r in rows if (r["dataset"], r["row"], r["column"]) == ("sysu", "DEEN", "mix-id")
    ]
    assert own["mAP"] == 100 * results.get("mix-id", "erased", query="visible").mAP


def test_table4_is_a_joint_table_over_what_was_trained_on(made, out):
    rows, text, trained = made("table4")
    assert trained == []
    assert {(r["row"], r["source"]) for r in rows} >= {("MixER(E+R)", "llcm"), ("SGEIL", "sysu")}
    assert ("SGEIL", "regdb") not in {(r["row"], r["source"]) for r in rows}
    from mixer_plugin.features import FeatureSet

    file = next((out / "networks/sysu/cells").glob(f"{OURS}-*/e2e.market.features.npz"))
    results = evaluate(FeatureSet.load(file), "market1501", rules=["related"])
    (own,) = [r for r in rows if (r["row"], r["source"]) == ("MixER(R)", "sysu")]
    assert own["mAP"] == 100 * results.get("uni", "related", query="visible").mAP
    assert "paper: Upper-bound †" in text


def test_table5_follows_its_switches(made, out):
    rows, text, _ = made("table5")
    bench = bench_of(out)
    folder = out / "networks/sysu/cells" / bench.job(Network("sysu", OURS, "e2e"), 0).name
    weights = {
        "L_ymr": "lambda_related", "L_o": "lambda_orthogonal", "L_m": "lambda_confusion",
    }  # fmt: skip
    for row in LOSSES:
        mixer = json.loads((folder / f"{loss_cell(row)}.json").read_text())["mixer"]
        literal = MixERConfig.paper().to_dict()
        for loss, weight in weights.items():
            assert mixer[weight] == (literal[weight] if loss in row.split(", ") else 0)
        assert mixer["lambda_fusion"] == 0
    levels = [level(rows, row, "mix-cam-id") for row in ("L_yme", *LOSSES, "all")]
    assert len(set(levels)) == len(levels)
    assert text.count("| paper: L_yme") == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table9"], "Did you mean"),
        (["table1", "--scale", "huge"], "mini"),
        (["table1", "--scale", "full"], "--data"),
        (["table1", "--data", "nowhere"], "no data set"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(words, said, tmp_path, capsys):
    assert main(["bench", *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_terminal_shows_at_most_80_columns():
    heads = [f"{c} {m}" for c in ("Mix-Cam-ID", "Mix-ID", "All", "V→V") for m in ("R1", "mAP")]
    body = tuple((f"paper: a long name {i} †", *["12.34 ± 0.45"] * 8) for i in range(3))
    table = Table("T", "word " * 40, ("", *heads), body)
    lines = for_terminal(Made([table]), "note " * 30).splitlines()
    assert max(map(len, lines)) <= 80
    heads_shown = [line.split() for line in lines if "R1" in line]
    assert all(line.count("R1") == line.count("mAP") for line in heads_shown)
    assert sum(line.count("R1") for line in heads_shown) == 4


def test_every_name_is_made():
    assert len(NAMES) == 15
    for name in NAMES:
        assert artifact_of(name).title
