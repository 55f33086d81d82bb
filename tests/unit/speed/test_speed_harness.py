"""The turn-taking loop of the speed scripts: order, clocks, statistics, options, files."""

from __future__ import annotations

import functools
import gc
import json
import operator
import os
import statistics

import pytest
import torch

from mixer_plugin.benchmarks.speed import harness


def test_contestants_take_turns_after_warming_up():
    ran = []
    contestants = {name: lambda name=name: ran.append(name) or len(ran) for name in "abc"}
    taken = harness.take_turns(contestants, 4, per=2)
    assert "".join(ran) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert taken.results == {"a": 13, "b": 14, "c": 15}
    assert taken.peaks == {}
    for runs in taken.seconds.values():
        assert {name: len(values) for name, values in runs.items()} == dict.fromkeys("abc", 4)
    assert [name for _, name in harness.order(["a", "b"], 2, warm_up=1)] == list("aabba")
    assert list(harness.order(["a"], 1, warm_up=0)) == [(1, "a")]


def test_seconds_are_those_of_one_step(monkeypatch):
    times = iter([10.0, 14.0, 20.0, 30.0])
    monkeypatch.setattr(harness, "CLOCKS", {"wall": lambda: next(times)})
    taken = harness.take_turns({"a": lambda: None, "b": lambda: None}, 1, per=2, warm_up=0)
    assert taken.seconds == {"wall": {"a": [2.0], "b": [5.0]}}


def test_ratios_are_those_of_statistics_and_of_rounds():
    runs = {"floor": [1.0, 2.0, 4.0], "mine": [2.0, 6.0, 4.0]}
    assert harness.summary(runs)["median"] == {"floor": 2.0, "mine": 4.0}
    over = harness.ratios(runs)
    assert over["minimum"] == {"mine": 2.0}
    assert over["median"] == {"mine": 2.0}
    assert over["spread"] == {"mine": statistics.stdev([2.0, 3.0, 1.0])}
    assert harness.ratios(runs, "mine")["minimum"] == {"floor": 0.5}
    assert harness.spread([3.0]) == 0


def test_options_and_file(tmp_path, capsys):
    threads = torch.get_num_threads()
    parser = harness.speed_parser("What?\n\nMore.", 7, "--repetitions")
    path = tmp_path / "new" / "found.json"
    for spelling in ("--repetitions", "--rounds"):
        words = [spelling, "9", "--threads", str(threads), "--out", str(path)]
        assert harness.parse(parser, words, least=5).rounds == 9
    for wrong, message in ((["--rounds", "4"], "at least 5, got 4"), (["--device", "x"], "cpu")):
        with pytest.raises(SystemExit):
            harness.parse(parser, wrong, least=5)
        assert message in capsys.readouterr().err
    harness.write_json(path, harness.environment())
    found = json.loads(path.read_text())
    assert found["threads"] == threads
    assert found["device"] == "cpu"
    harness.write_json(None, found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit):
        harness.parse(harness.speed_parser("What?", 7), ["--device", "cuda"])
    assert "PyTorch sees no GPU" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_is_what_a_run_adds():
    grow = functools.partial(operator.mul, b"x", 1 << 26)
    assert harness.in_own_process(harness.peak_memory, "cpu", grow) > 0.9 * (1 << 26)


def kept_memory_and_garbage():
    """Leaves 128 MB as garbage and another 128 MB with the allocator; measures a run of 64 MB."""
    del [bytearray(1 << 24)][:]  # from now on, what is as large comes from the heap
    blocks = [bytearray(1 << 20) for _ in range(257)]
    garbage: list[object] = [blocks[::2]]
    garbage.append(garbage)
    last = blocks[-1]
    del blocks, garbage
    return harness.peak_memory("cpu", lambda: (gc.collect(), b"x" * (1 << 26), last))


@pytest.mark.slow
def test_earlier_work_does_not_hide_what_a_run_adds():
    assert harness.in_own_process(kept_memory_and_garbage) > 0.9 * (1 << 26)


def test_memory_is_read_where_linux_has_it():
    with pytest.raises(harness.MixERRuntimeError, match="/proc"):
        harness.resident("VmNothing")


def test_memory_is_refused_where_the_system_is_not_linux(monkeypatch):
    def not_there(*_):
        raise TypeError

    monkeypatch.setattr(harness, "_lines", lambda path: [])
    monkeypatch.setattr(harness.ctypes, "CDLL", not_there)
    with pytest.raises(harness.MixERRuntimeError, match="/proc"):
        harness.peak_memory("cpu", list)


@pytest.mark.slow
def test_a_process_of_its_own_has_as_many_threads():
    assert harness.in_own_process(torch.get_num_threads) == torch.get_num_threads()
    assert harness.in_own_process(os.getpid) != os.getpid()
