"""docs/probing.md runs as it is written, and so does the command that measures its speed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from mixer_plugin.benchmarks.speed import probing_speed
from mixer_plugin.cli import parser
from mixer_plugin.data.synthetic import layout_config, write_layout
from tests.unit.evaluation.evaluation_cases import make

PAGE = Path(__file__).resolve().parents[3] / "docs" / "probing.md"


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(120, identities=9).save("features.npz")
    config = layout_config("sysu", train_ids=4, val_ids=1, test_ids=1, height=32, width=16)
    write_layout("ROOT", config, "sysu")
    text = PAGE.read_text(encoding="utf-8")
    values = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, str(PAGE), "exec"), values)
    assert "## Modality" in capsys.readouterr().out
    assert torch.load("heads.pt", weights_only=True)["step"] == 2
    commands = re.findall(r"^mixer-plugin probe (.*)$", text, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        assert parser().parse_args(["probe", *shlex.split(command)]).command == "probe"


def test_both_ways_of_training_are_timed_in_turns(tmp_path):
    out = tmp_path / "speed.json"
    network = ("--network", "saai-base/small", "--size", "32", "16", "--ids", "4")
    turns = ("--p", "2", "--rounds", "2", "--steps", "1", "--threads", "1")
    assert probing_speed.main([*network, *turns, "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["networks"]
    assert row["size"] == [32, 16]
    assert row["batch"] == 8
    assert {len(values) for values in row["times"].values()} == {2}
    assert row["operations"] > 1.3  # the trunk and the base's own stage are not run
    assert row["map"][0] == 64
