"""Each page that a new user follows runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.site.pages import DOCS, ROOT, blocks, read, run

# What a page needs beside the plug-in.
NEEDS = {
    "getting-started": ("PIL", "scipy"),
    "tutorials/torchvision": ("PIL", "scipy", "torchvision"),
    "tutorials/script-loop": ("PIL", "scipy"),
    "tutorials/ignite-loop": ("PIL", "scipy", "ignite"),
    "tutorials/own-features": (),
    "tutorials/crops-to-search": ("PIL", "scipy", "torchvision", "faiss"),
    "how-to/command-line": (),
    "how-to/gpus": ("torchvision",),
    "how-to/data-sets": ("PIL", "scipy"),
    "explanations/how-mixer-works": (),
    "explanations/sizing": (),
    "reference/files": (),
    "baselines": (),
}
ROWS = (r"\(f\)\+MixER", "control:")


@pytest.mark.parametrize("name", NEEDS)
def test_the_page_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in NEEDS[name]:
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    run(DOCS / f"{name}.md", capsys)


def test_every_page_that_can_be_followed_is_among_them() -> None:
    for folder in ("tutorials", "how-to", "explanations"):
        for page in (DOCS / folder).glob("*.md"):
            assert f"{folder}/{page.stem}" in NEEDS or not blocks(page, "(?:python|bash)"), page


def test_the_table_that_is_read_is_the_demos() -> None:
    page = DOCS / "how-to" / "reading-a-table.md"
    (table,) = re.findall(r"^```\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)
    saved = read(ROOT / "benchmarks/results/demo/summary.txt")
    assert table in saved
    mix, control = (re.findall(rf"^{row} .*", table, re.MULTILINE)[0].split() for row in ROWS)
    for figure in (mix[-4], control[-4]):
        assert f" {figure}" in read(page).split("In four steps")[1]
    said = " ".join(read(page).split())
    of_f, of_e2e = (
        re.findall(rf"^{row} over trained-longer.*?Mix -([\d.]+)", saved, re.MULTILINE | re.DOTALL)
        for row in (r"\(f\)\+MixER", r"e2e\+MixER")
    )
    assert f"It leads (f) by {of_f[0]} points and e2e by {of_e2e[0]}:" in said
    curve = read(ROOT / "benchmarks/results/length/demo.md")
    *_, at_1200, at_1800 = re.findall(r"[\d.]+", curve.split("saai-base, Mix")[1].split("\n")[0])
    assert f"half as many steps again gain {float(at_1800) - float(at_1200):.1f} points" in said
    for steps, difference, words in (
        (800, "Cross +1.4, Mix +1.3", "[(f) leads by 1.3]"),
        (1000, "Cross -2.7 (0 of 2 seeds), Mix -1.8", "[the control leads by 1.8]"),
    ):
        other = read(ROOT / f"benchmarks/results/demo/summary-{steps}-steps.txt")
        assert f"(f)+MixER over trained-longer, calibrated: {difference}" in other
        assert words in said
    readme = " ".join(read(ROOT / "README.md").split())
    assert f"the control leads by {of_f[0]} points in Mix" in readme
