"""``mixer-plugin bench``: every table and figure in small, and whether what it says is right."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mixer_plugin.attach import wrap_with_mixer
from mixer_plugin.baselines import create_baseline
from mixer_plugin.benchmarks.bench import NAMES, artifact_of
from mixer_plugin.benchmarks.experiment.config import read_yaml
from mixer_plugin.benchmarks.experiment.tables import Table
from mixer_plugin.benchmarks.experiment.trained_network import load_trained
from mixer_plugin.benchmarks.reproduce import mixed_tables, networks
from mixer_plugin.benchmarks.reproduce.artifact import Made
from mixer_plugin.benchmarks.reproduce.networks import LOSSES, OURS, Bench, Network, loss_cell
from mixer_plugin.benchmarks.reproduce.write import for_terminal
from mixer_plugin.cli import main
from mixer_plugin.config import MixERConfig
from mixer_plugin.evaluation import evaluate
from mixer_plugin.matching import scores


@pytest.fixture(scope="module", autouse=True)
def shorter(tmp_path_factory):
    """Shorter trainings and fewer persons: it is the tables that are looked at here."""
    values = read_yaml("bench/mini")
    values["recipe"]["iterations"] = 12
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


def pictures_of(out: Path, name: str) -> list[str]:
    """Names of the pictures, each there in three forms."""
    found = defaultdict(set)
    for path in (out / name).iterdir():
        if path.suffix in (".png", ".svg", ".pdf"):
            found[path.stem].add(path.suffix)
    assert all(forms == {".png", ".svg", ".pdf"} for forms in found.values())
    return sorted(found)


def test_table1(made, out):
    rows, text, trained = made("table1")
    assert len(trained) == 7  # six baselines, and MixER on the paper's own
    for column in ("cross", "cross-indoor"):
        assert level(rows, "MixER", column) == level(rows, "MixER(E)", column)
    assert level(rows, "MixER", "mix") != level(rows, "MixER(E)", "mix")
    reranked = {r["column"] for r in rows if r["row"] == "SAAI + AIM"}
    assert reranked == {"cross", "cross-indoor"}
    assert "paper: MixER(R)" in text
    assert "†" in text
    network = Network("sysu", OURS, "e2e")
    bench = bench_of(out)
    results = evaluate(
        bench.features(network, 0), bench.protocol(network, 0), rules=["mixer"], settings=["uni"],
        query="visible", trials=1,
    )  # fmt: skip
    assert (
        level(rows, "MixER", "uni-visible")
        == 100 * results.get("uni", "mixer", query="visible").mAP
    )
    indoor = bench.protocol(network, 0, "indoor")
    assert (indoor.id, indoor.cameras) == ("sysu/indoor/single", ((1, 2), (3, 6)))


def test_table3_shares_the_networks_of_table1(made):
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
        settings=["mix-id"], query="visible", trials=1,
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


def test_b3_routes_three_networks(made, out):
    rows, _, trained = made("b3")
    assert {cell for _, cell in trained} == {"visible-only", "infrared-only"}
    bench = bench_of(out)
    features = mixed_tables.routed(bench, 0)
    both, visible, infrared = (
        bench.features(Network("sysu", "saai", cell), 0)
        for cell in ("baseline", "visible-only", "infrared-only")
    )
    dark = features.modality == 1
    assert torch.equal(features.erased, both.erased)
    assert torch.equal(features.related[dark], infrared.erased[dark])
    assert torch.equal(features.related[~dark], visible.erased[~dark])
    assert not torch.equal(visible.erased, infrared.erased)
    assert level(rows, "Upper bound", "cross") == level(rows, "SAAI", "cross")
    protocol = bench.protocol(Network("sysu", "saai", "baseline"), 0)
    alone = evaluate(infrared, protocol, rules=["erased"], settings=["uni"], trials=1)
    assert level(rows, "Upper bound", "uni-infrared") == 100 * alone.get("uni", "erased").mAP
    pairs = torch.nn.functional.cosine_similarity(
        infrared.erased[dark][:1], infrared.erased[dark][1:9]
    )
    own = features[dark.nonzero().flatten()]
    found = scores(own[torch.arange(1)], own[torch.arange(1, 9)], "routed")[0]
    assert torch.allclose(found, pairs, atol=1e-6)


def test_b2_counts_what_the_modules_hold(made):
    rows, text, trained = made("b2")
    assert trained == []
    assert [r["row"] for r in rows] == ["DDAG", "DEEN", "SGEIL", "SAAI", "IDKL", "MPANet"]
    model = create_baseline("mpanet", 395, trunk="small", dataset="sysu")
    bare = sum(p.numel() for p in model.parameters())
    wrap_with_mixer(model, "e2e", config=MixERConfig.paper())
    (own,) = [r for r in rows if r["row"] == "MPANet"]
    assert (own["parameters"], own["parameters_mixer"]) == (
        bare, sum(p.numel() for p in model.parameters()),
    )  # fmt: skip
    for row in rows:
        assert row["operations_mixer"] >= row["floor"] * row["operations"] > row["operations"] > 0
        assert row["seconds_mixer"] > 0
    assert "Upper bound" in text
    assert "216" in text


@pytest.mark.parametrize("name", ["b4", "b5"])
def test_other_trunks_and_fusions_are_counted(made, out, name):
    rows, text, _ = made(name)
    counts = {r["row"]: r["parameters"] for r in rows}
    assert len(set(counts.values())) == {"b4": 3, "b5": 2}[name]  # one ViT stands for both
    bench = bench_of(out)
    network = artifact_of(name).networks(bench)[-1]
    folder = bench.job(network, 0).folder(bench.folder("sysu"))
    own = sum(p.numel() for p in load_trained(folder / f"{network.cell}.pt")[0].parameters())
    assert list(counts.values())[-1] == own
    if name == "b5":
        assert counts["Cross-attention"] > counts["Concatenation"]
        costs = {r["row"]: r["operations"] for r in rows}
        assert costs["Cross-attention"] > costs["Concatenation"]
        assert "0.94" in text or "67.33" in text


def test_figure4_overlap_is_the_literal_one(made, out):
    rows, _, trained = made("figure4")
    assert trained == []  # table3 has trained them
    assert pictures_of(out, "figure4") == ["figure-4"]
    bench, network = bench_of(out), Network("sysu", "saai", "e2e")
    features, protocol = bench.features(network, 0), bench.protocol(network, 0)
    (draw, *_) = protocol.draws(features)
    found = {True: [], False: []}
    queries = (features.modality == 1).nonzero().flatten().tolist()
    for query in queries:
        pair = scores(features[torch.tensor([query])], features[torch.as_tensor(draw)], "mixer")[0]
        for item, score in zip(draw.tolist(), pair.tolist(), strict=True):
            # Mix-Cam: nothing of the query's own camera is in its list.
            if item != query and features.cams[item] != features.cams[query]:
                found[bool(features.ids[item] == features.ids[query])].append(score)
    edges = np.linspace(min(map(min, found.values())), max(map(max, found.values())), 61)
    same, other = (np.histogram(found[k], edges)[0] / len(found[k]) for k in (True, False))
    (row,) = [r for r in rows if (r["row"], r["setting"]) == ("MixER", "mix-cam")]
    assert row["overlap"] == pytest.approx(np.minimum(same, other).sum(), abs=0.02)
    spread = np.sqrt((np.var(found[True]) + np.var(found[False])) / 2)
    literal = (np.mean(found[True]) - np.mean(found[False])) / spread
    assert row["d_prime"] == pytest.approx(literal, rel=1e-4)


def test_figure5_lists_are_those_of_evaluate(made, out):
    rows, _, _ = made("figure5")
    assert pictures_of(out, "figure5") == ["figure-5-mix-cam-id", "figure-5-mix-id"]
    bench = bench_of(out)
    for name, cell, rule in (("baseline", "baseline", "erased"), ("MixER", "e2e", "mixer")):
        network = Network("sysu", OURS, cell)
        features, protocol = bench.features(network, 0), bench.protocol(network, 0)
        draw = torch.as_tensor(protocol.draws(features)[0])
        results = evaluate(features, protocol, rules=[rule], settings=["mix-cam-id", "mix-id"])
        first = evaluate(
            features, protocol, rules=[rule], settings=["mix-cam-id", "mix-id"], trials=1
        )
        ranks = {(q.row, q.setting): q.first_hit for q in first.per_query}
        aps = {(q.row, q.setting): q.ap for q in results.per_query}
        for row in (r for r in rows if r["row"] == name):
            query = row["query"]
            own = features.ids[draw] == features.ids[query]
            alike = "cams" if row["setting"] == "mix-cam-id" else "modality"
            values = getattr(features, alike)
            removed = own & (values[draw] == values[query]) | (draw == query)
            left = draw[~removed]
            found = scores(features[torch.tensor([query])], features[left], rule)[0]
            order = left[found.sort(descending=True, stable=True).indices]
            assert row["items"] == order[:6].tolist()
            # The protocol's CMC counts persons, of whom a list of images can hold one twice.
            hits = (features.ids[order] == features.ids[query]).nonzero().flatten()
            rank = len(features.ids[order][: int(hits[0]) + 1].unique())
            assert ranks[query, row["setting"]] == rank
            assert row["ap"] == aps[query, row["setting"]]


def test_figure_b1_changes_one_weight_at_a_time(made, out):
    rows, text, _ = made("figure-b1")
    assert pictures_of(out, "figure-b1") == ["figure-b1"]
    by_weight = defaultdict(dict)
    for row in rows:
        by_weight[row["weight"]][row["value"]] = row["mAP"]
    assert set(by_weight["lambda_orthogonal"]) == {0.0, 0.4, 0.6, 0.8}
    best = {by_weight[w][b] for w, b in (("lambda_confusion", 0.4), ("lambda_orthogonal", 0.6),
                                         ("lambda_fusion", 0.4))}  # fmt: skip
    assert len(best) == 1  # e2e itself
    for values in by_weight.values():
        assert len(set(values.values())) == len(values)
    assert "λ_o = 0.8" in text


def test_figure_b2_places_the_same_persons_four_times(made, out):
    rows, _, _ = made("figure-b2")
    assert pictures_of(out, "figure-b2") == ["figure-b2"]
    panels = defaultdict(list)
    for row in rows:
        panels[row["row"]].append((row["person"], row["modality"]))
    assert set(panels) == {"baseline", "erased", "related", "fused"}
    assert len({tuple(panel) for panel in panels.values()}) == 1
    assert len({person for person, _ in panels["fused"]}) == 8


def test_a_dry_run_of_the_papers_setting_writes_nothing(tmp_path, capsys, monkeypatch):
    def smaller(name):  # a ResNet-50 of 288×144 would take minutes
        own = {"baselines": {OURS: {"trunk": "small"}}, "image_size": [64, 32]}
        return {**read_yaml(name), **own}

    monkeypatch.setattr(networks, "read_yaml", smaller)
    root, out = tmp_path / "data", tmp_path / "out"
    words = ["synth", root, "--train-ids", 12, "--val-ids", 2, "--test-ids", 4]
    words += ["--height", 32, "--width", 16, "--workers", 1]
    assert main([str(word) for word in words]) == 0
    before = sorted(p for p in tmp_path.rglob("*"))
    words = ["bench", "figure-b2", "--scale", "full", "--dry-run", "--data", str(root)]
    words += ["--weights", "none", "--device", "cpu", "--seeds", "0", "--out", str(out)]
    capsys.readouterr()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "hours" in said
    assert "Memory" in said
    assert "Disk" in said
    assert max(map(len, said.splitlines())) <= 80
    assert sorted(p for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["table9"], "Did you mean"),
        (["table1", "--scale", "huge"], "mini"),
        (["table1", "--scale", "full"], "--data"),
        (["table1", "--scale", "full", "--data", "nowhere"], "no data set"),
        (["table1", "--data", "."], "no data set"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(words, said, tmp_path, capsys):
    assert main(["bench", *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mini_refuses_a_folder_that_it_would_not_read(tmp_path, capsys):
    words = ["synth", tmp_path / "data", "--train-ids", 4, "--val-ids", 2, "--test-ids", 4]
    words += ["--height", 32, "--width", 16, "--workers", 1]
    assert main([str(word) for word in words]) == 0
    words = ["bench", "table1", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--scale full" in capsys.readouterr().err


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
