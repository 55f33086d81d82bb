"""Every link leads somewhere, and every page is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.site.pages import DOCS, ROOT, anchors, links

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_and_picture_is_there(page: Path) -> None:
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert ROOT in target.parents, path
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{path}#{anchor}"


def named(entries: list[Any]) -> list[str]:
    """The pages of a navigation, in its order."""
    found = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += named(value) if isinstance(value, list) else [value]
    return found


def test_the_navigation_holds_every_page_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    assert sorted(named(settings["nav"])) == pages


def test_the_first_page_leads_to_every_page_that_is_not_under_another() -> None:
    """The repository's host shows no navigation."""
    listed = {(DOCS / path).resolve() for path, _ in links(DOCS / "README.md")}
    under = {path.parent for path in DOCS.rglob("README.md")} - {DOCS}
    for page in DOCS.rglob("*.md"):
        if page != DOCS / "README.md":
            assert page in listed or (page.parent in under and page.name != "README.md"), page
    for folder in under:
        here = {(folder / path).resolve() for path, _ in links(folder / "README.md")}
        assert set(folder.glob("*.md")) - here <= {folder / "README.md"}, folder
