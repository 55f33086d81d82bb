"""``mixer-plugin list``."""

from __future__ import annotations

import argparse
import textwrap

from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments, show

_WIDTH = 80
_KINDS = {
    "adapters": "recognised networks: wrap_with_mixer(model, adapter=NAME)",
    "baselines": "our own networks, as table3 trains them",
    "protocols": "evaluations: --protocol NAME",
    "configs": "experiments that come with the package: table3 --config NAME",
    "studies": "of the evidence: python -m mixer_plugin.benchmarks.study --config NAME",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "",
        "--protocols --configs",
        "--adapters --json",
        text="Without an option: the names of all five kinds.",
    )
    for kind, text in _KINDS.items():
        command.add_argument(f"--{kind}", action="store_true", help=text)
    add_output_arguments(command, json=True)


def run(options: argparse.Namespace) -> int:
    """Prints names, and a line on each of those that are asked for."""
    from mixer_plugin.commands.attach.names import NAMED

    asked = [kind for kind in _KINDS if getattr(options, kind)]
    found = {kind: NAMED[kind]() for kind in asked or _KINDS}
    if asked:
        parts = [_explained(kind, names) for kind, names in found.items()]
    else:
        parts = [*(_names(kind, names) for kind, names in found.items()), _advice()]
    show(options, "\n\n".join(parts), found)
    return 0


def _names(kind: str, names: dict[str, str]) -> str:
    return _wrapped(f"{kind}: ", " " * 11, ", ".join(names))


def _advice() -> str:
    return f"{', '.join(f'--{kind}' for kind in _KINDS)}: a line on each."


def _explained(kind: str, names: dict[str, str]) -> str:
    width = max(map(len, names), default=0)
    lines = [_wrapped(f"  {name:<{width}}  ", " " * (width + 4), names[name]) for name in names]
    return "\n".join([f"{kind.capitalize()}, {_KINDS[kind]}", *lines])


def _wrapped(start: str, later: str, text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"{start:<{len(later)}}",
        subsequent_indent=later,
        break_on_hyphens=False,
    )
