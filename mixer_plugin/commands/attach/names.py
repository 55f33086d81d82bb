"""What the package knows by name, with a line on each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping

from torch import nn

from mixer_plugin.adapters import list_adapters, resolve_adapter
from mixer_plugin.baselines import describe_baseline, list_baselines
from mixer_plugin.commands.shared.packaged import packaged_configs
from mixer_plugin.evaluation.protocols.registry import PROTOCOLS


def adapters() -> dict[str, str]:
    """Adapters, each with the first sentence of its module's docstring."""
    found = {}
    for name in list_adapters():
        module = inspect.getmodule(type(resolve_adapter(nn.Module(), name)))
        found[name] = _first_sentence(inspect.getdoc(module) or "")
    return found


def baselines() -> dict[str, str]:
    """Baselines."""
    return {name: _first_sentence(describe_baseline(name)) for name in list_baselines()}


def protocols() -> dict[str, str]:
    """Protocols of an evaluation."""
    return dict(PROTOCOLS)


def configs() -> dict[str, str]:
    """Packaged configurations, by the name that ``--config`` takes: how each file begins."""
    return _beginnings(packaged_configs() | packaged_configs("paper/"))


def studies() -> dict[str, str]:
    """The same of the studies."""
    every = packaged_configs("studies/")
    return _beginnings({name.removeprefix("studies/"): text for name, text in every.items()})


def _beginnings(files: Mapping[str, str]) -> dict[str, str]:
    return {name: _first_sentence(_comment(text)) for name, text in files.items()}


def _first_sentence(text: str) -> str:
    """That of the first paragraph, without marks of code."""
    line = " ".join(text.partition("\n\n")[0].split()).replace("``", "")
    return re.split(r"(?<!\bal)\. ", line)[0].rstrip(".")  # "Ye et al. (2021)" is no end


def _comment(text: str) -> str:
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.lstrip("# ") for line in lines[:end])


NAMED: Mapping[str, Callable[[], dict[str, str]]] = {
    "adapters": adapters,
    "baselines": baselines,
    "protocols": protocols,
    "configs": configs,
    "studies": studies,
}
