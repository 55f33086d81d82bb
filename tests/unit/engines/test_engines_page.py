from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mixer_plugin.cli import main
from tests.search_cases import make

PAGE = Path(__file__).resolve().parents[3] / "docs" / "engines.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("qdrant_client", reason="needs the extra 'qdrant'")
    monkeypatch.chdir(tmp_path)
    make(60).save("gallery.npz")
    make(5, 1).save("query.npz")
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    values = {}
    exec(compile(code, str(PAGE), "exec"), values)
    assert len(values["made"]) == 63
    assert capsys.readouterr().out.startswith("63 5 ")
    commands = re.findall(r"^mixer-plugin (.*)$", text, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert main(shlex.split(command)) == 0, capsys.readouterr().err
    assert Path("asked.npz").is_file()
