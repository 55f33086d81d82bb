"""The site is built without a warning, and asks for nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.site.pages import DOCS, ROOT

pytest.importorskip("zensical", reason="needs Zensical (the extra 'docs')")


@pytest.fixture(scope="module")
def site() -> Path:
    command = [sys.executable, str(ROOT / "scripts" / "build_docs.py")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "No issues found" in result.stdout + result.stderr
    return ROOT / "build" / "site"


def test_every_page_is_there_and_searched(site: Path) -> None:
    found = (site / "search.json").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        path = page.relative_to(DOCS).with_suffix(".html").as_posix()
        path = re.sub(r"README\.html$", "index.html", path)
        assert (site / path).is_file()
        assert path.removesuffix("index.html") in found


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|iframe)[^>]* src=\"?(https?:)?//", text), page
        assert not re.search(r"<link[^>]* href=\"?(https?:)?//", text), page


def test_pictures_and_tables_are_whole(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for source in re.findall(r"<img[^>]* src=\"([^\"]+)\"", text):
            assert (page.parent / source).is_file(), (page, source)
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL):
            assert not re.search(r"^(\* |- |\||```)", paragraph, re.MULTILINE), (page, paragraph)
