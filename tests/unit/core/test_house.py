"""What lies where: few files beside each other, none too long, adapters without foreign imports."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PRODUCT = ("mixer_plugin", "adapters", "baselines", "benchmarks")
MODULES = {
    *("__init__", "attach", "checkpoints", "cli", "config", "errors", "extraction"),
    *("heads", "losses", "module", "releases", "run_card", "testing"),
}
ROOMS = {
    *("commands", "conformance", "data", "distributed", "evaluation", "export", "features"),
    *("forward", "io", "matching", "probing", "search", "training"),
}
FILES_IN_A_FOLDER, LINES = 16, 400

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").is_file(), reason="looks at a source tree, and this is none"
)


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def test_the_root_of_the_package_holds_what_the_plan_names():
    own = ROOT / "mixer_plugin"
    assert {path.stem for path in own.glob("*.py")} == MODULES
    assert {path.parent.name for path in own.glob("*/__init__.py")} == ROOMS


def test_folders_and_files_stay_small():
    files = python_files(*PRODUCT, "tests")
    for folder in {path.parent for path in files}:
        beside = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(beside) <= FILES_IN_A_FOLDER, folder
    for path in files:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES, path


def test_adapters_import_no_foreign_package():
    allowed = {"mixer_plugin", "torch", *sys.stdlib_module_names}
    for path in python_files("adapters"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= allowed, path


MOVED = {
    "mixer_plugin.data.layouts": "mixer_plugin.data.datasets.layouts",
    "mixer_plugin.data.image_checks": "mixer_plugin.data.datasets.image_checks",
    "mixer_plugin.data.samplers": "mixer_plugin.data.loading.samplers",
    "mixer_plugin.benchmarks.config": "mixer_plugin.benchmarks.experiment.config",
}


@pytest.mark.parametrize("path", MOVED)
def test_an_earlier_path_gives_the_same_objects(path):
    earlier, now = importlib.import_module(path), importlib.import_module(MOVED[path])
    for name in earlier.__all__:
        assert getattr(earlier, name) is getattr(now, name)
