"""``mixer-plugin completion``."""

from __future__ import annotations

import argparse
from typing import Any

from mixer_plugin.commands.shared.help import describe
from mixer_plugin.errors import MissingExtraError

_SHELLS = ("bash", "zsh")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "bash > ~/.local/share/bash-completion/completions/mixer-plugin",
        "zsh > ~/.zfunc/_mixer-plugin",
        text="The script completes commands, options, and names such as protocols and "
        "configurations. bash reads that folder by itself; zsh needs `fpath+=~/.zfunc` before "
        "`compinit` in .zshrc. Write it anew after an update.",
    )
    command.add_argument("shell", choices=_SHELLS, help="that the script is for")


def run(options: argparse.Namespace) -> int:
    """Prints the script.

    Raises:
        MissingExtraError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise MissingExtraError("shtab", "completion", "mixer-plugin completion") from error
    from mixer_plugin.commands.parsers import parser
    from mixer_plugin.commands.shell.choices import known_names

    root, names = parser(), known_names()
    _prepare(root, names, shtab.FILE)
    print(shtab.complete(root, options.shell))
    return 0


def _prepare(parser: argparse.ArgumentParser, names: dict[str, Any], files: Any) -> None:
    """Gives each argument the names that it takes, or else the names of files."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            action.help = "what to do"  # a suppressed one is not completed
            for own in action.choices.values():
                _prepare(own, names, files)
        elif action.nargs != 0 and action.choices is None and action.type in (None, str):
            known = names.get((action.option_strings or [action.dest])[-1])
            if known is None:
                action.complete = files  # type: ignore[attr-defined]
            else:
                action.choices = known
