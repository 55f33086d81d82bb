"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("mixer_plugin", "adapters", "baselines")


def modules() -> list[str]:
    """Modules with an example."""
    found = []
    for path in (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))):
        if ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__")
            found.append(name if parts[0] == "mixer_plugin" else f"mixer_plugin.{name}")
    return found


SLOW = ("mixer_plugin.conformance.adapter_check",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in modules()]
)
def test_the_examples_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = importlib.import_module("mixer_plugin.adapters.registry")
    monkeypatch.setattr(registry, "_registry", dict(registry._adapters()))
    with warnings.catch_warnings():
        failed, tried = doctest.testmod(importlib.import_module(name))
    assert failed == 0
    assert tried > 0
