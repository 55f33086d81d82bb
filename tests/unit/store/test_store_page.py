from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mixer_plugin.cli import main
from mixer_plugin.errors import MixERValueError
from mixer_plugin.search.filter_grammar import parse_filter
from tests.search_cases import write_page_files

PAGE = Path(__file__).resolve().parents[3] / "docs" / "store.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the page speaks of, as the working one."""
    monkeypatch.chdir(tmp_path)
    write_page_files(tmp_path)
    lines = [f"n{i},2026-11-{25 + i % 5}T12:00,gate {i},{i}" for i in range(10)]
    Path("new.csv").write_text("\n".join(["key,time,site,track", *lines]))
    return tmp_path


def test_the_page_runs(folder, capsys):
    pytest.importorskip("faiss")  # for its last section
    text = PAGE.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    values = {}
    exec(compile(code, str(PAGE), "exec"), values)
    assert values["hits"].change == 3
    told = capsys.readouterr().out
    assert "'images': 208" in told
    assert "'site': 'gate'" in told


def test_the_first_part_needs_one_screen():
    screen = PAGE.read_text(encoding="utf-8").split("\n## ")[0]
    assert len(screen.splitlines()) <= 30


def test_the_commands_run(folder, capsys):
    text = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^mixer-plugin (.*)$", text, re.MULTILINE)
    assert len(commands) == 6
    told = []
    for command in commands:
        assert main(shlex.split(command)) == 0, capsys.readouterr().err
        told.append(capsys.readouterr().out)
    assert told[0] == "Added 200 images: 200 in yard.\n"
    assert told[1] == "Added 10 images: 210 in yard.\n"
    assert "2026-11-2" in told[2]
    assert told[3] == "Removed 8 images: 202 in yard.\n"
    assert re.fullmatch(r"[\d,]+ bytes before, [\d,]+ now.\n", told[4])
    assert re.search(r"^images +202$", told[5], re.MULTILINE)


def test_the_message_of_the_page():
    text = PAGE.read_text(encoding="utf-8")
    (shown,) = re.findall(r"```\n(Expected a whole.*?)\n```", text, re.DOTALL)
    with pytest.raises(MixERValueError) as caught:
        parse_filter("camera == one")
    assert str(caught.value) == shown
