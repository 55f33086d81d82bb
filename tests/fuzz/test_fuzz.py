"""What fuzzing found once is refused now, and its machine sees each kind of fault."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mixer_plugin.errors import MixERValueError
from tests.fuzz import child
from tests.fuzz.doors import DOORS

ROOT = Path(__file__).parents[2]


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.child", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_every_file_that_was_found_is_refused_by_name():
    done = run("corpus")
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
def test_a_moment_at_each_door(tmp_path):
    for door in DOORS:
        (tmp_path / door).mkdir()
    done = run(",".join(DOORS), 1, 0, tmp_path)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for door in DOORS:
        assert re.search(rf"^{door}: [1-9]\d* files, 0 faults$", done.stdout, re.MULTILINE), door


def loop():
    while True:
        pass


def wrong_error():
    raise KeyError("x")


def nameless():
    raise MixERValueError("it is damaged")


def memory():
    try:
        raise MemoryError
    except MemoryError as error:
        raise MixERValueError("labels.bin cannot be read") from error


@pytest.mark.parametrize(
    ("read", "fault"),
    [(loop, "seconds"), (wrong_error, "KeyError"), (nameless, "no file name"), (memory, "memory")],
)
def test_each_kind_of_fault_is_seen(read, fault, monkeypatch):
    monkeypatch.setattr(child, "MOST_SECONDS", 1)

    def late(*_):
        raise child.Hang

    before = child.signal.signal(child.signal.SIGALRM, late)
    try:
        with pytest.raises(child.Failure, match=fault):
            child.try_file(Path("somewhere/labels.bin"), read)
    finally:
        child.signal.signal(child.signal.SIGALRM, before)


def test_edits_do_what_they_say():
    assert child.edited(b"abc", [("flip", 0, 1)]) == b"cbc"
    assert child.edited(b"abc", [("write", 1, b"xy")]) == b"axy"
    assert child.edited(b"abc", [("insert", 1, b"-")]) == b"a-bc"
    assert child.edited(b"abc", [("delete", 0, 2), ("repeat", 0, 1)]) == b"cccc"
    assert child.edited(b"abc", [("cut", 2, 0)]) == b"ab"


@pytest.mark.slow
def test_a_fault_is_kept_when_the_time_is_over(monkeypatch, tmp_path):
    def door(folder):
        path = folder / "labels.bin"
        path.write_bytes(b"sound")

        def read():
            if path.read_bytes() != b"sound":
                raise KeyError("x")

        return {path: read}

    monkeypatch.setitem(DOORS, "mine", door)
    (tmp_path / "mine").mkdir()
    # A second a file, so that a busy machine tries as many.
    monkeypatch.setattr(child, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    assert child.in_fork(lambda: child.fuzz("mine", 200, 0, tmp_path)) == 256  # status 1
    (kept,) = (tmp_path / "mine").iterdir()
    assert kept.read_bytes() != b"sound"
