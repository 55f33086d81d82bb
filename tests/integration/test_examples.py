"""The examples run as they are, on data that they make."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import ROOT, ends, start

EXAMPLES = {
    "attach_torchvision": ("step 9: loss", "torchvision"),
    "script_family_loop": ("best.pth: mAP", "torch"),
    "evaluate_npz": ("mixer: mAP in Mix", "numpy"),
    "crops_to_search": ("query: ", "faiss"),
}


def test_every_example_is_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 60, path


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EXAMPLES))
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    said, needed = EXAMPLES[name]
    pytest.importorskip(needed)
    code = f"import os, runpy; os.chdir({str(tmp_path)!r}); runpy.run_path({str(path_of(name))!r})"
    ((status, out, err),) = ends([start("-c", code)])
    assert status == 0, err
    assert said in out


def path_of(name: str) -> Path:
    return ROOT / "examples" / f"{name}.py"
