"""docs/evidence.md shows what the committed results say, made by commands that exist."""

import re
from pathlib import Path

from mixer_plugin.benchmarks.experiment.config import load_config
from mixer_plugin.benchmarks.experiment.study import load_study

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/evidence.md"
RESULTS = ROOT / "benchmarks/results"


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {i - 1 for i, line in enumerate(lines) if set(line) <= set("|- ")}
    return [line for i, line in enumerate(lines) if i not in heads and not set(line) <= set("|- ")]


def test_every_row_is_a_committed_one():
    saved = set()
    for path in RESULTS.glob("*/*.md"):
        saved |= set(path.read_text(encoding="utf-8").splitlines())
    shown = rows(PAGE.read_text(encoding="utf-8"))
    assert len(shown) > 40
    assert [line for line in shown if line not in saved] == []


def test_its_configurations_and_pictures_exist():
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"study --config (\S+)", text):
        assert load_study(name).variants
    for name in re.findall(r"table3 --config (\S+)", text):
        assert load_config(name.removeprefix("benchmarks/configs/").removesuffix(".yaml"))
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert pictures
    assert all((PAGE.parent / picture).is_file() for picture in pictures)
