from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from mixer_plugin import FeatureSet
from mixer_plugin.cli import main
from tests.search_cases import build, make, write_page_files

pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")

PAGE = Path(__file__).resolve().parents[3] / "docs" / "search.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the page speaks of, as the working one."""
    monkeypatch.chdir(tmp_path)
    write_page_files(tmp_path)
    return tmp_path


def test_the_page_runs(folder, capsys):
    text = PAGE.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    values = {}
    exec(compile(code, str(PAGE), "exec"), values)
    assert len(values["index"]) == 208
    query, hits = values["query"], values["hits"]
    assert not (hits.cams == query.cams[:, None]).any()
    assert "recall@10" in capsys.readouterr().out
    commands = re.findall(r"^mixer-plugin (.*)$", text, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert main(shlex.split(command)) == 0, capsys.readouterr().err
    assert "| across |" in capsys.readouterr().out
    with (folder / "hits.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15 * 5
    assert all(row["path"] != row["query_path"] for row in rows)


def run(capsys, *arguments):
    status = main(["search", *arguments])
    printed = capsys.readouterr()
    assert (status == 2) == bool(printed.err)
    return printed.err or printed.out


def test_the_command_writes_what_the_index_finds(folder, capsys):
    gallery, query = FeatureSet.load("gallery.npz"), FeatureSet.load("query.npz")
    hits = build(gallery, "dev-sum", calibration="center").search(query, 3, setting="mix-id")
    options = ["-k", "3", "--rule", "dev-sum", "--calibration", "center", "--settings", "mix-id"]
    run(capsys, "gallery.npz", "query.npz", *options, "--save", "x", "--out", "hits.jsonl")
    rows = [json.loads(line) for line in Path("hits.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == hits.keys.flatten().tolist()
    assert rows == hits.rows(query)
    assert rows[4] == {
        "query": 1,
        "query_id": int(query.ids[1]),
        "query_modality": ["visible", "infrared"][int(query.modality[1])],
        "query_path": query.paths[1],
        "rank": 2,
        "key": int(hits.keys[1, 1]),
        "score": round(float(hits.scores[1, 1]), 6),
        "id": int(hits.ids[1, 1]),
        "camera": int(hits.cams[1, 1]),
        "modality": ["visible", "infrared"][int(hits.modality[1, 1])],
        "path": hits.paths[1][1],
    }
    run(capsys, "x", "query.npz", "-k", "3", "--settings", "mix-id", "--out", "hits.md")
    table = Path("hits.md").read_text().splitlines()
    assert len(table) == 2 + len(rows)
    assert table[2 + 4].split(" | ")[5] == str(rows[4]["key"])
    printed = run(capsys, "x", "query.npz", "-k", "3", "--settings", "mix-id").splitlines()
    assert max(map(len, printed)) <= 80
    assert printed[0].startswith("query 0: set0/0.jpg (id ")
    assert printed[1].split() == ["rank", "score", "id", "camera", "modality", "file"]
    assert printed[9].split()[1:3] == [f"{rows[4]['score']:.4f}", str(rows[4]["id"])]


def test_the_command_without_related_features_or_paths(folder, capsys):
    make(30, related=False, paths=False).save("bare.npz")
    out = run(capsys, "bare.npz", "bare.npz", "-k", "1", "--exclude-self")
    tables = out.strip().split("\n\n")
    assert len(tables) == 30
    for row, lines in enumerate(map(str.splitlines, tables)):
        assert lines[0].startswith(f"query {row} (")
        assert lines[1].split()[-1] == "key"
        assert int(lines[2].split()[-1]) != row
    assert "by its row; there are 15 queries and 30 images" in run(
        capsys, "bare.npz", "query.npz", "--exclude-self", "--rule", "erased"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gallery.npz", "query.npz", "--out", "x.txt"], "--out takes a name on .csv"),
        (["x.index", "query.npz", "--rule", "erased"], "--rule is fixed in the saved index"),
        (["x.index", "query.npz", "--recall"], "needs the gallery's features"),
        (["gallery.npz", "nowhere.npz"], "nowhere.npz is not a file"),
        (["gallery.npz", "query.npz", "--rule", "mixr"], "Did you mean 'mixer'"),
        (["gallery.npz", "query.npz", "-k", "0"], "k must be at least 1"),
    ],
)
def test_the_command_says_what_is_wrong(folder, capsys, arguments, message):
    build(make(20)).save("x.index")
    assert message in run(capsys, *arguments)
    assert not Path("x.txt").exists()
