"""Commands on consoles of any encoding, and with readers that go away."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mixer_plugin import FeatureSet
from mixer_plugin.cli import main
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.console import run_command

PRINTS = (
    "from mixer_plugin.io.console import run_command\n"
    "raise SystemExit(run_command('tool', lambda: print('x')))"
)
TOOL = [sys.executable, "-c", PRINTS]


@pytest.fixture
def features(tmp_path: Path) -> str:
    made = torch.Generator().manual_seed(0)
    erased, related = torch.randn(2, 48, 8, generator=made)
    rows = torch.arange(48)
    path = tmp_path / "f.npz"
    FeatureSet(erased, related, rows % 6, rows % 2 + 1, (rows + rows // 6) % 2).save(path)
    return str(path)


@contextlib.contextmanager
def console(encoding: str, errors: str = "strict") -> Iterator[list[str]]:
    """Stands for stdout; gives what was printed, once it ends."""
    held, printed = io.BytesIO(), []
    stream = io.TextIOWrapper(held, encoding=encoding, errors=errors)
    with contextlib.redirect_stdout(stream):
        yield printed
    stream.flush()
    printed.append(held.getvalue().decode(encoding))  # nothing else is in it


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("gbk", "cp1252", "cp437", "utf-16")]


@pytest.mark.parametrize("encoding", ["ascii", *SLOW])
def test_every_table_is_printed(encoding: str, features: str) -> None:
    with console(encoding) as printed:
        for more in ((), ("--fair",)):
            assert main(["evaluate", features, *more]) == 0
        assert main(["probe", features, "--folds", "3", "--limit", "40"]) == 0
    assert "mAP" in printed[0]


@pytest.mark.parametrize("command", ["evaluate", "table3", "synth"])
def test_help_is_printed(command: str) -> None:
    with console("ascii", "surrogateescape") as printed, pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "usage" in printed[0]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_are_no_text_are_printed(encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"bad\xff")
    with console(encoding) as printed:
        assert main(["doctor", str(folder)]) == 1
        sizes = ("--train-ids", "1", "--val-ids", "1", "--test-ids", "1")
        assert main(["synth", str(folder), *sizes]) == 0
    assert r"bad\udcff is not a folder" in printed[0]
    assert "bad?: " in printed[0]


def test_a_reader_that_has_gone_and_a_stream_that_is_closed(tmp_path: Path) -> None:
    for more in ({}, {"PYTHONUNBUFFERED": "1"}):
        reading, writing = os.pipe()
        os.close(reading)
        environment = {**os.environ, **more}
        done = subprocess.run(TOOL, stdout=writing, stderr=subprocess.PIPE, env=environment)
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, b"")
    closed = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *TOOL], capture_output=True)
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, b"", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(TOOL, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "No space left" in line


def test_each_end_of_a_command_has_its_status(capsys: pytest.CaptureFixture) -> None:
    def fails(error: BaseException) -> int:
        def work() -> None:
            raise error

        return run_command("tool", work)

    assert fails(MixERValueError("wrong")) == 2
    assert fails(MemoryError()) == 2
    assert fails(BrokenPipeError(32, "of a worker")) == 2
    assert fails(KeyboardInterrupt("go on")) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["tool: wrong", "tool: MemoryError"]
    assert said[2:] == ["tool: [Errno 32] of a worker", "", "Interrupted. go on"]
    assert run_command("tool", lambda: None) == 0
    with pytest.raises(ZeroDivisionError):
        fails(ZeroDivisionError())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["study", "speed.head_cost"])
def test_the_other_entrances_say_it_in_one_line_too(name: str, tmp_path: Path) -> None:
    words = ["--config", tmp_path / "nö.yaml", "--out", tmp_path, "--study", tmp_path]
    words = words[: 4 if "study" in name else 6]
    module = f"mixer_plugin.benchmarks.{name}"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 2
    (line,) = done.stderr.decode("ascii").splitlines()
    assert line.startswith(f"{name.split('.')[-1]}: ")
