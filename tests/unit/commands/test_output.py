"""``--json`` prints one document on stdout, ``--quiet`` nothing but the result."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mixer_plugin.cli import main
from mixer_plugin.errors import MixERWarning
from tests.unit.commands.files import features
from tests.unit.commands.parsers import arguments, every_parser


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    features().save("f.npz")
    features(1).save("g.npz")
    dataclasses.replace(features(), related=None).save("erased.npz")
    return tmp_path


# What is printed, and which keys it has at least.
JSON = {
    "evaluate f.npz": {"results"},
    "evaluate f.npz g.npz --format json": {"results"},
    "probe f.npz --folds 3 --limit 40": {"about", "modality", "evaluation"},
    "search f.npz g.npz -k 2": {"gallery", "queries", "hits"},
    "search f.npz g.npz -k 2 --out hits.csv": {"gallery", "queries", "hits"},
    "store add s f.npz": {"added", "images"},
    "store info s --check": {"images", "bytes", "rule", "damaged"},
    "store remove s 3 4": {"removed", "images"},
    "store compact s": {"before", "bytes"},
    "reduce f.npz --dim 4 --out small.npz": {"file", "reduction", "precision"},
    "reduce f.npz --report --dims 4 --settings mix": {"rule", "costs"},
    "report f.npz --html page.html --settings mix": {"report"},
    "list": {"adapters", "baselines", "protocols", "configs", "studies"},
    "list --protocols": {"protocols"},
    "doctor .": {"root", "errors", "warnings", "findings"},
}
# They need a network, and are tried where there is one.
ELSEWHERE = {"check", "export", "extract", "inspect"}


@pytest.mark.parametrize("command", JSON)
def test_one_document(command: str, capsys: pytest.CaptureFixture) -> None:
    if command.startswith("store") and " add " not in command:
        assert main(["store", "add", "s", "f.npz"]) == 0
        capsys.readouterr()
    status = main([*command.split(), "--json"])
    assert status == (1 if command.startswith("doctor") else 0)
    found = json.loads(capsys.readouterr().out)
    assert JSON[command] <= found.keys()
    if command.startswith("list "):
        assert found.keys() == JSON[command]


def test_every_command_with_json_is_tried() -> None:
    having = {n for n in every_parser() if any(a.dest == "json" for a in arguments(n))}
    tried = {name for name in having for command in JSON if command.startswith(f"{name} ")}
    assert tried | {"list"} | ELSEWHERE == having


def test_an_evaluation_with_all_it_can_say(capsys: pytest.CaptureFixture) -> None:
    asked = "evaluate f.npz g.npz --fair --worst 2 --diagnostics --audit 3 --out out --json"
    assert main(asked.split()) == 0
    printed = capsys.readouterr()
    first, second = json.loads(printed.out)["results"]
    assert (first["features"], second["features"]) == ("f.npz", "g.npz")
    assert first["rows"] != second["rows"]
    assert first["audit"]["ok"] is True
    for name in ("fairness", "worst", "diagnostics"):
        assert first[name] == json.loads(Path(f"out/f/{name}.json").read_text())
    assert all(line.startswith("Report: ") for line in printed.err.splitlines())


def test_two_forms_at_once_are_refused(capsys: pytest.CaptureFixture) -> None:
    for command in ("evaluate f.npz --format csv", "evaluate f.npz --details"):
        assert main([*command.split(), "--json"]) == 2
        printed = capsys.readouterr()
        assert "give one of them" in printed.err
        assert printed.out == ""


QUIET: dict[str, Any] = {
    "evaluate f.npz --fair --out out --format csv": "Report: ",
    "probe f.npz --folds 3 --limit 40 --out out": None,
    "search erased.npz g.npz -k 1": "rule erased",
    "synth set --train-ids 1 --val-ids 1 --test-ids 1 --height 16 --width 8": "written",
    "arrays set --size 16x8": "written",
}


@pytest.mark.parametrize("command", QUIET)
def test_quiet(command: str, capsys: pytest.CaptureFixture) -> None:
    if command.startswith("arrays"):
        assert main(["synth", "set", "--train-ids", "1", "--val-ids", "1", "--test-ids", "1"]) == 0
        capsys.readouterr()
    assert main([*command.split(), "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert quiet.err == ""
    assert quiet.out
    for path in (Path("set") if command.startswith("synth") else Path("out"),):
        if path.is_dir():
            path.rename("before")
    words = command.split() + ["--overwrite"] * command.startswith("arrays")
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out == quiet.out
    if QUIET[command]:
        assert QUIET[command] in said.err


def test_quiet_says_errors(capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", "none.npz", "--quiet"]) == 2
    assert "none.npz" in capsys.readouterr().err


def test_every_command_with_progress_has_quiet() -> None:
    having = {n for n in every_parser() if any(a.dest == "quiet" for a in arguments(n))}
    assert having == {
        *("table3", "bench", "extract", "evaluate", "probe", "search", "synth", "arrays", "doctor"),
    }


def test_quiet_says_warnings(capsys: pytest.CaptureFixture) -> None:
    """What may make a number wrong is no note."""
    assert main(["store", "add", "gate", "f.npz", "--segment", "8"]) == 0
    damaged = Path("gate/segment-1.bin")
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    capsys.readouterr()
    with pytest.warns(MixERWarning, match="segment"):
        assert main(["search", "gate", "g.npz", "-k", "1", "--quiet"]) == 0
