"""scripts/gpu.py: every step a process of its own with its own time, all in one file."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path

import pytest

from mixer_plugin.benchmarks.speed import harness

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs a source tree")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return runpy.run_path(str(SCRIPT))


def test_it_goes_on_after_a_failure_and_writes_after_every_step(script, tmp_path, monkeypatch):
    given, out = tmp_path / "given.json", tmp_path / "found.json"
    given.write_text('{"a": 1}')
    words = {
        "writes": ("json.tool", str(given), "{out}"),
        "waits": ("timeit", "-n1", "-r1", "import time; print('on', flush=True); time.sleep(99)"),
        "fails": ("json.tool", str(tmp_path / "missing")),
    }
    seconds = {"waits": 3}
    steps = [script["Step"](name=n, words=w, seconds=seconds.get(n, 60)) for n, w in words.items()]
    steps.append(script["Step"](name="lacks", words=(), seconds=60, needs="no_such_package"))
    written, write = [], harness.write_json

    def watched(path, report):
        written.append(list(report["steps"]))
        write(path, report)

    monkeypatch.setattr(harness, "write_json", watched)
    assert script["run_all"](steps, out, {}, script["time"].monotonic() + 100) == 2
    names = [*words, "lacks"]
    assert written == [names[: i + 1] for i in range(4)]
    found = json.loads(out.read_text())["steps"]
    assert (found["writes"]["rc"], found["writes"]["found"]) == (0, {"a": 1})
    assert (found["waits"]["rc"], found["waits"]["found"]) == (None, None)
    assert found["waits"]["seconds"] < 50
    assert found["fails"]["rc"] > 0
    assert "missing" in found["fails"]["tail"]
    assert found["lacks"] == {"skipped": "no_such_package is not installed"}


def test_quick_on_a_cpu(script, tmp_path):
    out = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--quick", "--only", "eval_speed", "--out", str(out)]
    assert script["main"](words) == 0
    report = json.loads(out.read_text())
    assert {"date", "device", "torch", "commit"} <= set(report)
    assert list(report["steps"]) == ["eval_speed"]
    assert report["steps"]["eval_speed"]["found"]["cpu_median"]["evaluation_ratio"] > 0


@pytest.mark.parametrize("quick", [True, False])
def test_every_step_is_a_command_that_its_script_takes(quick, script, monkeypatch):
    class ParsedError(Exception):
        pass

    def parse(parser, argv, least=1):
        options = parser.parse_args(argv)
        assert options.rounds >= least
        assert options.device == "cuda"
        raise ParsedError

    monkeypatch.setattr(harness, "parse", parse)
    tests, *steps = script["steps_of"]("cuda", quick)
    assert tests.needs == "pytest"
    assert tests.seconds + sum(step.seconds for step in steps) <= script["LIMIT"]
    for step in steps:
        with pytest.raises(ParsedError):
            importlib.import_module(step.words[0]).main(list(step.words[1:]))
