"""The command for a GPU: order, limits, interruption, failures, its table. No part is measured."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mixer_plugin.benchmarks.gpu import __main__ as command
from mixer_plugin.benchmarks.gpu import agreement, figures, own_tests, run
from mixer_plugin.benchmarks.gpu.parts import MINUTES, PARTS, Part
from mixer_plugin.benchmarks.gpu.summary import summary
from mixer_plugin.benchmarks.speed import harness
from tests import processes

WRITTEN = {"passed": 1, "failed": 0, "skipped": 2}
WRITES = f"import pathlib, sys; pathlib.Path(sys.argv[1]).write_text({json.dumps(WRITTEN)!r})"
WAITS = WRITES + "; print('on'); import time; time.sleep(600)"


@dataclass(frozen=True, kw_only=True)
class Script(Part):
    """A part that runs lines of Python."""

    code: str
    module: str = "gpu.own_tests"
    seconds: float = 100

    def command(self, quick, device, out):
        return ["-c", self.code, str(out)]


def run_all(parts, folder, keep=lambda outcomes: None):
    return run.run_parts(parts, folder, minutes=10, device="cpu", quick=True, keep=keep)


def test_the_parts_come_in_order_of_worth_and_fill_the_time():
    names = [part.name for part in PARTS]
    steps = [f"steps-{b}" for b in ("saai", "ddag", "mpanet", "deen", "sgeil", "idkl")]
    rest = ["evaluation", "evaluation-1m", "reranking", "reranking-50k", "agreement", "trainer"]
    assert names == ["tests", *steps, *rest, "loading", "probing", "growth", "search"]
    assert sum(part.seconds for part in PARTS) == 60 * MINUTES
    assert MINUTES < 10


@pytest.mark.parametrize("quick", [True, False])
def test_every_part_is_a_command_that_its_script_takes(quick, monkeypatch, tmp_path):
    class ParsedError(Exception):
        pass

    def stop(parser, device):
        raise ParsedError(device)

    monkeypatch.setattr(harness, "refuse_missing_gpu", stop)
    for part in PARTS:
        minus_m, module, *words = part.command(quick, "cuda", tmp_path / "x.json")
        assert minus_m == "-m"
        with pytest.raises(ParsedError, match="cuda"):
            importlib.import_module(module).main(words)
        assert words[-2:] == ["--out", str(tmp_path / "x.json")]


def test_the_full_sizes_are_the_ones_that_are_wanted():
    words = {part.name: part.full for part in PARTS}
    steps = [words[name].split() for name in words if name.startswith("steps-")]
    assert len(steps) == 6
    for own in steps:
        assert {"e2e", "f", "bf16", "--memory"} <= set(own)
        assert not {"--p", "--k", "--size", "--trunk", "--contiguous"} & set(own)  # as public
    assert words["evaluation-1m"] == "--once --width 512 --queries 10000 --items 1000000"
    assert words["reranking-50k"].startswith("--images 50000")
    assert words["reranking"] == words["agreement"] == words["trainer"] == ""  # their defaults


def test_it_goes_on_after_a_failure_and_keeps_what_was_found_after_every_part(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    parts = [
        Script(name="writes", code=WRITES),
        Script(name="fails", code="raise SystemExit('no such thing')"),
        Script(name="silent", code=""),
        Script(name="dies", code="import os; os.kill(os.getpid(), 9)"),
        Script(name="lacks", code="", needs=("no_such_package", "PIL_", "json")),
        Script(name="elsewhere", code="", folder="no/such/folder"),
        Script(name="last", code=WRITES),
    ]
    (tmp_path / "silent.json").write_text("{}")  # of an earlier run
    kept = []

    def keep(outcomes):
        kept.append([own["state"] for own in outcomes.values()])

    found = run_all(parts, Path(), keep)
    states = ["done", "failed", "failed", "failed", "left out", "left out", "done"]
    assert kept == [states[:n] + ["not run"] * (7 - n) for n in range(8)]
    assert found["writes"]["found"] == WRITTEN
    assert "reason" not in found["writes"]
    assert found["fails"]["reason"] == "Status 1: no such thing"
    assert found["silent"]["reason"] == "It wrote no figures."
    assert found["dies"]["reason"] == "Signal 9, without a word."
    assert found["lacks"]["reason"] == "Not installed: no_such_package, PIL_."
    assert "no/such/folder" in found["elsewhere"]["reason"]
    assert found["last"]["command"] == f"-c {WRITES} {tmp_path / 'last.json'}"


def test_a_part_may_use_what_earlier_ones_left_and_no_more(monkeypatch, tmp_path):
    clock, limits = [0.0], []
    takes = {"first": 5.0, "second": 1000.0, "third": 0.0}
    monkeypatch.setattr(run.time, "monotonic", lambda: clock[0])

    def fake(part, folder, seconds, device, quick, outcome):
        limits.append(seconds)
        clock[0] += min(takes[part.name], seconds)
        outcome["state"] = run.DONE

    monkeypatch.setattr(run, "run_part", fake)
    parts = [Script(name=n, code="", seconds=s) for n, s in zip(takes, (10, 20, 30), strict=True)]
    run.run_parts(parts, tmp_path, minutes=2, device="cpu", quick=True, keep=lambda o: None)
    assert limits == [20.0, 40.0 + 15.0, 60.0]  # two minutes, shared out as 10, 20 and 30 are


def test_a_part_that_is_late_is_ended_with_its_children_and_leaves_its_figures(
    tmp_path, monkeypatch
):
    class Late(subprocess.Popen):
        def wait(self, timeout=None):
            while timeout is not None and not (tmp_path / "waits.json").exists():
                time.sleep(0.05)
            if timeout is not None:
                raise subprocess.TimeoutExpired(self.args, timeout)
            return super().wait()

    child = "import time; time.sleep(600)"
    code = (
        "import json, os, subprocess, sys, time; print('begun')\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "aside = sys.argv[1] + '.part'\n"
        "open(aside, 'w').write(json.dumps({'child': child.pid}))\n"
        "os.rename(aside, sys.argv[1]); time.sleep(600)\n"
    )
    monkeypatch.setattr(run.subprocess, "Popen", Late)
    outcome = {}
    run.run_part(Script(name="waits", code=code), tmp_path, 30.0, "cpu", True, outcome)
    assert outcome["state"] == run.LATE
    assert outcome["reason"] == "Ended after 30 s, its share of the time."
    assert outcome["tail"] == "begun\n"
    pid, deadline = outcome["found"]["child"], time.monotonic() + 60
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid):
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


INTERRUPTED = """
import argparse, sys
from pathlib import Path
from mixer_plugin.benchmarks.gpu.__main__ import run
from tests.unit.speed.test_gpu_command import WAITS, WRITES, Script

codes = {"first": WRITES, "second": WAITS, "third": WRITES}
parts = [Script(name=name, code=code) for name, code in codes.items()]
options = argparse.Namespace(out=Path(sys.argv[1]), minutes=60.0, device="cpu", quick=True)
sys.exit(run(parts, options))
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_keeps_what_was_written(tmp_path, number, status):
    process = processes.start("-c", INTERRUPTED, tmp_path)
    log = tmp_path / "parts" / "second.log"
    deadline = time.monotonic() + 240
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    ((ended, out, err),) = processes.ends([process])
    assert (ended, err) == (status, "")
    assert "Interrupted" in out
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [own["state"] for own in found.values()] == ["done", "interrupted", "not run"]
    assert found["first"]["found"] == found["second"]["found"] == WRITTEN
    assert found["second"]["reason"].startswith("Interrupted after")
    text = (tmp_path / "summary.txt").read_text()
    assert text.count("1 passed, 0 failed, 2 skipped") == 2
    assert out.startswith("first: done\nsecond: interrupted\n")


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit('broken')", 1), (WRITES, 0)])
def test_the_status_says_whether_a_part_failed(tmp_path, capsys, code, status):
    parts = [Script(name="first", code=code), Script(name="second", code=WRITES)]
    options = command.argparse.Namespace(
        out=tmp_path / "new" / "out", minutes=60.0, device="cpu", quick=True
    )
    assert command.run(parts, options) == status
    report = json.loads((options.out / "gpu.json").read_text())
    assert {"date", "device", "torch", "commit", "minutes"} <= set(report)
    assert report["parts"]["second"]["state"] == "done"
    text = (options.out / "summary.txt").read_text()
    assert capsys.readouterr().out.endswith(text)
    assert ("Status 1: broken" in text) == bool(status)


def test_the_table_fits_a_terminal():
    network = {
        "mode": "e2e",
        "clock": "wall",
        "seconds": {"bare": {"wall_median": 0.07}, "mixer": {"wall_median": 0.1}},
        "images_per_s": {"bare": 1142.9, "mixer": 800.4},
        "mixer_over_bare": {"median": 1.42857},
        "mixer_over_floor": {"median": 1.012},
        "memory": {"bare": 11_000_000_000, "mixer": 14_200_000_000},
    }
    outcomes = {part.name: {"state": "not run"} for part in PARTS}
    outcomes["tests"] = {"state": "failed", "seconds": 40.0, "reason": "Status 1: " + "x" * 200}
    found = {"networks": [network, {**network, "mode": "f"}]}
    late = "Ended after 24 s, its share of the time."
    outcomes["steps-saai"] = {"state": "out of time", "seconds": 24.0, "reason": late,
                              "found": found}  # fmt: skip
    report = {"device": "NVIDIA H200", "torch": "2.11.0+cu128", "commit": "0123456789abcdef" + "+",
              "date": "2026-01-01", "minutes": 8.0, "quick": False, "parts": outcomes}  # fmt: skip
    text = summary(report, PARTS)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("NVIDIA H200, PyTorch 2.11.0+cu128, commit 0123456789ab+, ")
    assert "miniature" not in text
    words = " ".join(text.split())
    assert f"steps-saai out of time 24.0 {late}" in words
    measured = "bare 70.0 ms, 1,143 images/s, 11.00 GB e2e 100.0 ms, 800 images/s, 14.20 GB"
    assert f"{measured} e2e 1.429 x bare, 1.012 x the floor f 100.0 ms" in words
    assert [line.split()[0] for line in lines if line.endswith("not run")] == [
        part.name for part in PARTS[2:]
    ]


def test_every_part_has_figures_to_show():
    assert {part.module for part in PARTS} == set(figures._FIGURES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--device cpu", "add --quick"),
        ("--minutes 0", "--minutes must be a number above 0"),
        ("--minutes nan", "--minutes must be a number above 0"),
        ("--only nothing", "invalid choice: 'nothing'"),
        pytest.param(
            "",
            "PyTorch sees no CUDA device here.",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs to have no GPU"),
        ),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path, capsys, words, message):
    try:
        status = command.main([*words.split(), "--out", str(tmp_path / "out")])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_losses_agree_within_the_tolerance_of_their_step():
    first, later = agreement.FIRST, agreement.LATER
    assert agreement.judged([2.0, 4.0], [2.0 + first, 4.0 - 2 * later])["agrees"]
    for there in ([2.0 + 4 * first, 4.0], [2.0, 4.0 + 8 * later], [2.0, float("nan")]):
        assert not agreement.judged([2.0, 4.0], there)["agrees"]
    found = agreement.judged([2.0, 4.0], [2.5, 3.0])
    assert (found["differences"], found["cpu"]) == ([0.25, 0.25], [2.0, 4.0])


@pytest.mark.slow
def test_outcomes_of_tests_are_counted(tmp_path):
    folder = tmp_path / "tests" / "own"
    folder.mkdir(parents=True)
    (folder / "test_one.py").write_text(
        "import pytest\n"
        "@pytest.mark.gpu\n@pytest.mark.parametrize('x', [0, 0, 1])\n"
        "def test_one(x):\n    assert not x\n"
        "@pytest.mark.gpu\n@pytest.mark.skip\ndef test_two(): pass\n"
        "def test_three(): assert False\n"
    )
    (folder / "test_other.py").write_text("def test_one(): assert False\n")
    (folder / "test_broken.py").write_text("import pytest\npytest.mark.gpu\nimport no_such\n")
    (tmp_path / "tests" / "conftest.py").write_text("import no_such\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    assert own_tests.test_files(tmp_path / "tests") == [
        folder / "test_broken.py",
        folder / "test_one.py",
    ]
    out = tmp_path / "out.json"
    code = (
        "import sys; from pathlib import Path; from mixer_plugin.benchmarks.gpu import own_tests\n"
        f"own_tests.ROOT = Path({str(tmp_path)!r})\n"
        f"sys.exit(own_tests.main(['--device', 'cpu', '--out', {str(out)!r}]))\n"
    )
    ended = processes.run("-c", code)
    assert ended.returncode == 1, ended.stderr
    found = json.loads(out.read_text())
    assert {name: found[name] for name in ("passed", "failed", "skipped")} == {
        "passed": 2,
        "failed": 2,
        "skipped": 1,
    }
    assert {name.rpartition("/")[2] for name in found["failures"]} == {
        "test_broken.py",
        "test_one.py::test_one[1]",
    }
