"""The page of the command line, from its parsers."""

from __future__ import annotations

import argparse

from docstring import cell

from mixer_plugin.cli import COMMANDS, parser
from mixer_plugin.commands.shared.help import (
    shown_default,
    shown_value,
    text_and_examples,
    usage_words,
)

HEAD = """# Command line

`mixer-plugin COMMAND --help` says the same. The exit status is 0, or 2 for a wrong argument or
input, or 130 after Ctrl-C; a command with others names them. Results go to stdout, progress and
warnings to stderr. [How to use it](../how-to/command-line.md), with completion and JSON.
"""


def page() -> str:
    """Every command, its positional arguments and its options."""
    (choice,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    listed = [f"| [`{name}`](#mixer-plugin-{name}) | {text} |" for name, text in COMMANDS.items()]
    parts = [HEAD, "\n".join(["| command | what it does |", "|---|---|", *listed]), ""]
    return "\n".join([*parts, *(_command(name, choice.choices[name]) for name in COMMANDS)])


def _command(name: str, own: argparse.ArgumentParser) -> str:
    actions = [a for a in own._actions if a.help != argparse.SUPPRESS][1:]  # --help is the first
    usage = " ".join(["mixer-plugin", name, *usage_words(actions)])
    lines = [
        f"## mixer-plugin {name}",
        "",
        _sentence(own.description),
        "",
        f"```\n{usage}\n```",
        "",
    ]
    if actions:
        lines += ["| argument | what it is | default |", "|---|---|---|", *map(_row, actions), ""]
    text, examples = text_and_examples(own)
    lines += [text, ""] if text else []
    lines += ["```", *examples, "```", ""]
    for action in actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner, parser in action.choices.items():
                lines += [_command(f"{name} {inner}", parser).replace("## ", "### ", 1)]
    return "\n".join(lines)


def _row(action: argparse.Action) -> str:
    names = ", ".join([*action.option_strings[:-1], _last(action)])
    text = (action.help or "") % {**vars(action), "prog": "mixer-plugin"}
    return f"| `{cell(names)}` | {cell(text)} | {_default(action)} |"


def _last(action: argparse.Action) -> str:
    return f"{''.join(action.option_strings[-1:])} {shown_value(action)}".strip()


def _default(action: argparse.Action) -> str:
    value = shown_default(action)
    if action.required and action.nargs not in ("?", "*"):
        return "required"
    return value and f"`{value}`"


def _sentence(text: str | None) -> str:
    text = (text or "").strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
