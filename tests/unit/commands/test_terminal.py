"""What commands print on a terminal fits it; elsewhere there is no sign of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mixer_plugin.evaluation.narrow import narrow_table, narrow_text
from tests.unit.commands.files import features
from tests.unit.commands.terminal import on_terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

COMMANDS = [
    "evaluate f.npz --fair --worst 3 --diagnostics --audit 4 --against f.npz",
    "probe f.npz --folds 3 --limit 40",
    "reduce f.npz --report --dims 4 --settings cross,mix,mix-id",
    "search f.npz f.npz -k 2 --settings mix",
    "list",
    "list --adapters --baselines --protocols --configs --studies",
    "doctor .",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("terminal")
    features().save(made / "f.npz")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_eighty_columns(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    status, text = on_terminal(*command.split())
    assert status == (1 if command.startswith("doctor") else 0), text
    assert "\033" not in text
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    assert max(map(len, lines)) <= 80
    assert "| ---" not in text


@pytest.mark.slow
def test_a_bar_is_drawn_on_a_terminal_alone(tmp_path: Path) -> None:
    words = ["synth", "SET", "--train-ids", "1", "--val-ids", "1", "--test-ids", "1"]
    words += ["--height", "16", "--width", "8"]
    words[1] = str(tmp_path / "one")
    status, text = on_terminal(*words)
    assert status == 0
    assert "\r100% [####################] " in text
    assert "\033" not in text
    words[1] = str(tmp_path / "two")
    done = subprocess.run([sys.executable, "-m", "mixer_plugin.cli", *words], capture_output=True)
    assert b"\r" not in done.stderr + done.stdout
    assert done.stderr.startswith(b'{"event": "written", "images": ')
    words[1] = str(tmp_path / "three")
    status, text = on_terminal(*words, "--quiet")
    assert text.count("\n") == 1
    assert "#" not in text
    status, text = on_terminal("synth", str(tmp_path / "three"), "--train-ids", "2")
    assert status == 2
    assert text.startswith("\r")  # the line of an error begins where a bar may have stood
    assert "mixer-plugin synth: " in text


def test_narrow_tables() -> None:
    head = ["name", "kind", "a mAP", "a R1", "b mAP", "b R1", "words"]
    body = [["first", "x", "1.00", "2.00", "3.00", "4.00", "a long remark " * 9]]
    body += [["the second " * 6, "y", "5.00", "–", "7.00", "8.00", "short"]]
    text = narrow_table(head, body, 2, width=60)
    assert max(map(len, text.splitlines())) <= 60
    for cell in ("1.00", "8.00", "short"):
        assert text.count(cell) == 1
    assert " ".join(text.split()).count("remark") == 9
    line = next(line for line in text.splitlines() if "a mAP" in line)
    assert "a R1" in line  # figures of one setting stay together


def test_narrow_text_keeps_words() -> None:
    report = "## Title\n\n| a | b |\n| --- | ---: |\n| x \\| y | 1 |\n\n" + "word " * 40
    text = narrow_text(report)
    assert text.startswith("Title\n\na      b\nx | y  1\n\nword word")
    assert text.split().count("word") == 40
    assert narrow_text("") == "\n"
