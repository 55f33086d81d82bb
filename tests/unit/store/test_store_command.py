from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mixer_plugin.cli import main
from mixer_plugin.search import GalleryStore
from tests.search_cases import make


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    make(40).save("a.npz")
    make(8, 1).save("q.npz")
    make(6, 2, paths=False).save("bare.npz")
    make(6, 3, related=False).save("erased.npz")
    return tmp_path


def run(capsys, *words):
    status = main(list(words))
    printed = capsys.readouterr()
    assert (status == 2) == bool(printed.err)
    return printed.err or printed.out


def test_the_table_fits_a_terminal(folder, capsys):
    run(capsys, "store", "add", "s", "a.npz")
    Path("t.csv").write_text("key,time\n" + "".join(f"{i},2026-11-28T14:0{i}\n" for i in range(6)))
    run(capsys, "store", "add", "s", "bare.npz", "--table", "t.csv")
    out = run(capsys, "search", "s", "q.npz", "-k", "50")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("query 0: set1/0.jpg (id ")
    assert lines[1].split() == ["rank", "score", "id", "camera", "modality", "time", "file"]
    query = make(8, 1)
    with GalleryStore("s") as store:
        rows = store.search(query, 50).rows(query)
    first, second = rows[0], rows[46]
    assert lines[2].split() == [
        "1",
        f"{first['score']:.4f}",
        str(first["id"]),
        str(first["camera"]),
        first["modality"],
        *("-" if first["time"] is None else "2026-11-28 14:00:00").split(),
        str(first["path"]).removeprefix("set0/") if first["path"] else str(first["key"]),
    ]
    assert lines[49].startswith("query 1: set1/1.jpg")
    assert f"{second['score']:.4f}" in lines[51]
    assert sum("2026-11-28 14:03:00" in line for line in lines) == 8
    long = "folder/" + "x" * 90 + ".jpg"
    image = make(1, 5)
    object.__setattr__(image, "paths", (long,))
    image.save("long.npz")
    run(capsys, "store", "add", "s", "long.npz")
    out = run(capsys, "search", "s", "long.npz", "-k", "2")
    assert max(map(len, out.splitlines())) == 80
    assert "…" in out.splitlines()[0]
    assert out.splitlines()[2].endswith("xxx.jpg")


def test_searching_a_store(folder, capsys):
    run(capsys, "store", "add", "s", "a.npz")
    options = ["--filter", "camera in (1, 2)", "--group", "id", "--settings", "mix-cam"]
    options += ["--threshold", "0.1", "-k", "4"]
    for kind in ("csv", "json", "jsonl", "md"):
        told = run(capsys, "search", "s", "q.npz", *options, "--out", f"h.{kind}")
        assert told == f"GalleryStore('s', rule mixer): 40 images\n8 queries: h.{kind}\n"
    query = make(8, 1)
    with GalleryStore("s") as store:
        expected = store.search(
            query, 4, filter="camera in (1, 2)", group_by="id", setting="mix-cam", threshold=0.1
        ).rows(query)
    assert json.loads(Path("h.json").read_text()) == expected
    assert [json.loads(line) for line in Path("h.jsonl").read_text().splitlines()] == expected
    with Path("h.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == [row["key"] for row in expected]
    assert len(Path("h.md").read_text().splitlines()) == 2 + len(rows)
    own = run(capsys, "search", "s", "a.npz", "-k", "1").splitlines()
    other = run(capsys, "search", "s", "a.npz", "-k", "1", "--exclude-self").splitlines()
    files = [[line.split()[-1] for line in each[2::4]] for each in (own, other)]
    names = [f"{i}.jpg" for i in range(40)]
    assert files[0] == names
    assert all(a != b for a, b in zip(files[1], names, strict=True))
    assert run(capsys, "search", "s", "q.npz", "--threshold", "9") == "No hits.\n"


def test_adding_and_removing(folder, capsys):
    run(capsys, "store", "add", "s", "a.npz", "--rule", "erased", "--segment", "30")
    assert "'set0/0.jpg' is in the store already" in run(capsys, "store", "add", "s", "a.npz")
    told = run(capsys, "store", "add", "s", "a.npz", "--upsert", "--rule", "erased")
    assert told == "Added 40 images: 40 in s.\n"
    assert "has rule 'erased', fixed when it was made" in run(
        capsys, "store", "add", "s", "a.npz", "--rule", "mixer"
    )
    run(capsys, "store", "add", "s", "bare.npz")
    assert run(capsys, "store", "remove", "s", "0", "5", "set0/3.jpg").startswith("Removed 3")
    assert "Key 5 is not in the store; nothing was removed" in run(
        capsys, "store", "remove", "s", "1", "5"
    )
    assert run(capsys, "store", "remove", "s", "--filter", "camera == 1").startswith("Removed")
    assert "Give either keys or --filter" in run(capsys, "store", "remove", "s")
    info = run(capsys, "store", "info", "s", "--check")
    assert "erased" in info
    run(capsys, "store", "compact", "s")
    with GalleryStore("s") as store:
        assert store.stats()["unsealed"] == 0
        assert set(store.keys("camera == 1")) == set()
        assert 2 in store or 1 in store or 3 in store or 4 in store
        assert 0 not in store
    run(capsys, "store", "add", "e", "erased.npz")
    with GalleryStore("e") as store:
        assert store.settings.rule == "erased"


def test_tables(folder, capsys):
    text = "key,time,site,track\n" + "".join(
        f"{key},{time},{site},{track}\n"
        for key, time, site, track in [
            ("7", "1.5", "gate", "1"),
            ("007", "", "gate", "2.5"),
            ("x", "2026-11-28", "", "true"),
            ("-3", "2026-11-28T01:00+01:00", "a b", "1e5"),
            ("8", "", "", ""),
            ("9", "0", "ä", "-1"),
        ]
    )
    Path("t.csv").write_text(text, encoding="utf-8")
    run(capsys, "store", "add", "s", "bare.npz", "--table", "t.csv")
    with GalleryStore("s") as store:
        found = store.get([7, "007", "x", -3, 8, 9])
    assert [image["payload"] for image in found] == [
        {"site": "gate", "track": 1},
        {"site": "gate", "track": 2.5},
        {"track": True},
        {"site": "a b", "track": "1e5"},
        {},
        {"site": "ä", "track": -1},
    ]
    day = 1795824000.0
    assert [image["time"] for image in found] == [1.5, None, day, day, None, 0.0]
    for text, message in [
        ("key\n1\n", "t.csv has 1 rows for 6 images"),
        ("time\n" + "noon\n" * 6, "'noon' is no time"),
        ("a,b\n" + "1\n" * 6, "t.csv, line 2: 2 values were expected"),
    ]:
        Path("t.csv").write_text(text)
        assert message in run(capsys, "store", "add", "s", "bare.npz", "--table", "t.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "nowhere", "q.npz"], "nowhere"),
        (["search", ".", "q.npz"], "holds no store"),
        (["search", "s", "q.npz", "--rule", "erased"], "--rule is for an index built from"),
        (["search", "s", "q.npz", "--recall"], "s is a store"),
        (["search", "a.npz", "q.npz", "--filter", "id == 1"], "--filter needs a store; make one"),
        (["search", "s", "q.npz", "--filter", "id = 1"], "`==` compares"),
        (["search", "s", "q.npz", "--exclude-self"], "finds no query in the gallery by its path"),
        (["search", "s", "bare.npz", "--exclude-self"], "needs queries with paths"),
        (["search", "s", "q.npz", "--settings", "mix,cross"], "Unknown setting 'mix,cross'"),
        (["store", "info", "nowhere"], "nowhere holds no store"),
    ],
)
def test_the_commands_say_what_is_wrong(folder, capsys, words, message):
    run(capsys, "store", "add", "s", "a.npz")
    assert message in run(capsys, *words)
