"""Each page that a new user follows runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.site.pages import DOCS, run

# What a page needs beside the plug-in.
NEEDS = {
    "getting-started": ("PIL",),
    "tutorials/torchvision": ("PIL", "torchvision"),
    "tutorials/script-loop": ("PIL",),
    "tutorials/ignite-loop": ("PIL", "ignite"),
    "tutorials/own-features": (),
    "tutorials/crops-to-search": ("PIL", "torchvision", "faiss"),
}


SLOW = ("getting-started", "tutorials/torchvision", "tutorials/script-loop")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NEEDS]
)
def test_the_page_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in NEEDS[name]:
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    run(DOCS / f"{name}.md", capsys)


def test_every_tutorial_is_among_them() -> None:
    assert {f"tutorials/{path.stem}" for path in (DOCS / "tutorials").glob("*.md")} <= set(NEEDS)
