"""The page of the command line, from its parsers."""

from __future__ import annotations

import argparse

from docstring import cell

from mixer_plugin.cli import COMMANDS, parser

HEAD = """# Command line

`mixer-plugin COMMAND --help` says the same. The exit status is 0, or 2 for a wrong argument or
input, or 130 after Ctrl-C; a command with others names them. Results go to stdout, progress and
warnings to stderr.
"""


def page() -> str:
    """Every command, its positional arguments and its options."""
    (choice,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    listed = [f"| [`{name}`](#mixer-plugin-{name}) | {text} |" for name, text in COMMANDS.items()]
    parts = [HEAD, "\n".join(["| command | what it does |", "|---|---|", *listed]), ""]
    return "\n".join([*parts, *(_command(name, choice.choices[name]) for name in COMMANDS)])


def _command(name: str, own: argparse.ArgumentParser) -> str:
    actions = [a for a in own._actions if not isinstance(a, argparse._HelpAction)]
    wanted = [_shown(a) for a in actions if a.required or not a.option_strings]
    usage = " ".join(["mixer-plugin", name, *wanted, "[options]"])
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
    if own.epilog:
        lines += [own.epilog, ""]
    return "\n".join(lines)


def _shown(action: argparse.Action) -> str:
    """An argument as a usage line has it."""
    value = _value(action)
    if not action.option_strings:
        return f"[{value}]" if action.nargs in ("?", "*") else value
    return f"{action.option_strings[0]} {value}".rstrip()


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar or action.dest.upper().replace("_", "-")
    if action.choices and not action.metavar:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    if isinstance(name, tuple):
        return " ".join(name)
    return f"{name} …" if action.nargs in ("+", "*") else name


def _row(action: argparse.Action) -> str:
    names = ", ".join([*action.option_strings[:-1], _shown_last(action)])
    text = (action.help or "") % {**vars(action), "prog": "mixer-plugin"}
    return f"| `{cell(names)}` | {cell(text)} | {_default(action)} |"


def _shown_last(action: argparse.Action) -> str:
    if not action.option_strings:
        return _value(action)
    return f"{action.option_strings[-1]} {_value(action)}".rstrip()


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.nargs == 0 or action.default in (None, argparse.SUPPRESS, [], ()):
        return ""
    value = action.default
    return f"`{' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}`"


def _sentence(text: str | None) -> str:
    text = (text or "").strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
