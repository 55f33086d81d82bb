"""The pages of evidence show what the committed results say, made by commands that exist."""

import re
from pathlib import Path

import pytest

from mixer_plugin.benchmarks.experiment.config import load_config
from mixer_plugin.benchmarks.experiment.study_config import load_study

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted((ROOT / "docs").glob("evidence*.md"))
RESULTS = ROOT / "benchmarks/results"


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {i - 1 for i, line in enumerate(lines) if set(line) <= set("|- ")}
    return [line for i, line in enumerate(lines) if i not in heads and not set(line) <= set("|- ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_row_is_a_committed_one(page):
    saved = set()
    for path in RESULTS.rglob("*.md"):
        saved |= set(path.read_text(encoding="utf-8").splitlines())
    shown = rows(page.read_text(encoding="utf-8"))
    if page.stem == "evidence":  # beside its own words, which have no figures
        shown = [line for line in shown if re.search(r"\d\.\d", line)]
    assert [line for line in shown if line not in saved] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_configurations_and_pictures_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(\S+) --config ([\w-]+)", text)
    assert named
    for command, name in named:
        assert load_config(name) if command == "table3" else load_study(name).variants
    links = re.findall(r"\]\((?!http)(.*?)(?:#.*?)?\)", text)
    assert [link for link in links if not (page.parent / link).is_file()] == []


def test_the_first_page_is_read_in_three_minutes():
    text = (ROOT / "docs/evidence.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120


def test_the_first_page_shows_the_committed_summary():
    text = (ROOT / "docs/evidence.md").read_text(encoding="utf-8")
    saved = (RESULTS / "demo/summary.txt").read_text(encoding="utf-8")
    shown = saved[: saved.index("\nEvery control")].rstrip()
    assert f"```\n{shown}\n```" in text
