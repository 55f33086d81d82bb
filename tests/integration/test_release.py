"""What a release needs: one version, dates, and a README that reads anywhere."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml

from mixer_plugin import __version__

ROOT = Path(__file__).resolve().parents[2]
URL = "https://example.org/mixer-plugin"
CHECK = runpy.run_path(str(ROOT / "scripts" / "release_check.py"))


def released(folder: Path) -> Path:
    """A copy of the files that say version and date, as they are on the day of a release."""
    (folder / "mixer_plugin").mkdir()
    for name in ("mixer_plugin/__init__.py", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, folder / name)
    change(folder / "CHANGELOG.md", r"(?m)^## \S+ \(.+\)", f"## {__version__} (2026-12-01)")
    change(folder / "CITATION.cff", r"(?m)^date-released: .*\n", "")
    with (folder / "CITATION.cff").open("a", encoding="utf-8") as file:
        file.write("date-released: 2026-12-01\n")
    return folder


def change(path: Path, pattern: str, to: str) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(pattern, to, text, count=1), encoding="utf-8")


def test_a_release_whose_files_agree(tmp_path: Path) -> None:
    assert CHECK["find_trouble"](released(tmp_path)) == []


@pytest.mark.parametrize(
    ("file", "pattern", "to", "says"),
    [
        ("CHANGELOG.md", r"2026-12-01", "unreleased", "the day of the release"),
        ("CHANGELOG.md", r"## \S+ ", "## 0.0.1 ", "begins with 0.0.1"),
        ("CHANGELOG.md", r"## .*", "## Soon", "no entry of the form"),
        ("CITATION.cff", r"(?m)^version: .*", "version: 0.0.1", f"`version: {__version__}`"),
        ("CITATION.cff", r"date-released: .*", "", "`date-released: 2026-12-01`"),
        ("mixer_plugin/__init__.py", r"__version__ = ", "VERSION = ", "has no line __version__"),
    ],
)
def test_a_release_whose_files_disagree(
    tmp_path: Path, file: str, pattern: str, to: str, says: str
) -> None:
    folder = released(tmp_path)
    # Of the changelog, the entry of this version alone: others below it would be taken then.
    if to == "## Soon":
        (folder / file).write_text("# Changelog\n\n## Soon\n", encoding="utf-8")
    change(folder / file, pattern, to)
    trouble = CHECK["find_trouble"](folder)
    assert any(says in line for line in trouble), trouble


def metadata(monkeypatch: pytest.MonkeyPatch, url: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
    monkeypatch.setenv("PROJECT_URL", url)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_links_of_the_readme_are_absolute_in_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    text = metadata(monkeypatch, URL + "/")["long_description"]
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", text)
    assert links
    for picture, link in links:
        if link.startswith(URL):
            kind, version, path = link.removeprefix(URL + "/").split("/", 2)
            assert (kind, version) == ("raw" if picture else "blob", f"v{__version__}")
            assert (ROOT / path.split("#")[0]).exists(), link
        else:
            assert link.startswith(("https://", "#")), link
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata(monkeypatch, "")["long_description"] == readme


def test_addresses_are_those_of_the_repository_that_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert metadata(monkeypatch, "")["project_urls"] == {}
    named = metadata(monkeypatch, URL)["project_urls"]
    assert set(named) == {"Source", "Documentation", "Changelog", "Issues"}
    assert all(address.startswith(URL) for address in named.values())


def test_workflows_run_targets_that_there_are() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert files
    for file in files:
        jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
        runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
        assert runs
        for line in runs:
            command, target = line.split()
            assert command == "make"
            assert target in targets, (file.name, target)


@pytest.mark.slow
def test_the_check_of_a_release(tmp_path: Path) -> None:
    pytest.importorskip("build")
    pytest.importorskip("twine")
    source = tmp_path / "tree"
    junk = shutil.ignore_patterns("__pycache__", ".*", "build", "dist", "results", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=junk)
    assert CHECK["check_distributions"](source, tmp_path / "dist") == []
    assert {file.suffix for file in (tmp_path / "dist").iterdir()} == {".whl", ".gz"}
