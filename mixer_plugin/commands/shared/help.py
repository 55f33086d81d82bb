"""The help of a command: what it takes in a line, defaults, and examples that can be pasted."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

_WIDTH = 80
_EXAMPLES = "Examples:"


class CommandParser(argparse.ArgumentParser):
    """A parser whose help is written by :class:`HelpLines`; those of its commands, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpLines)
        super().__init__(*args, **kwargs)


class HelpLines(argparse.HelpFormatter):
    """Help of at most 80 columns: usage without options, and each option's default beside it."""

    def __init__(self, prog: str) -> None:
        columns = min(shutil.get_terminal_size().columns, _WIDTH)
        super().__init__(prog, max_help_position=22, width=columns - 2)

    def _format_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: Any, prefix: str | None
    ) -> str:
        if usage is None:
            usage = " ".join([self._prog, *usage_words(list(actions))])
        before = "usage: " if prefix is None else prefix
        line = f"{before}{usage}"
        lines = textwrap.wrap(line, self._width, subsequent_indent=" " * (len(before) + 2),
                              break_long_words=False, break_on_hyphens=False)  # fmt: skip
        return "\n".join(lines) + "\n\n"

    def _get_default_metavar_for_positional(self, action: argparse.Action) -> str:
        return action.dest.upper()

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs in ("+", "*"):
            return shown_value(action)
        return super()._format_args(action, default_metavar)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return _metavar(action)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        value = shown_default(action)
        return f"{action.help} (default: {value.replace('%', '%%')})" if value else action.help

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs are filled; one with an indented line stays as it is."""
        parts = text.split("\n\n")
        return "\n\n".join(
            part if "\n " in part else super(HelpLines, self)._fill_text(part, width, indent)
            for part in parts
        )


def describe(command: argparse.ArgumentParser, *examples: str, text: str = "") -> None:
    """Gives a command's help its end: a paragraph, and examples.

    Args:
        command: The parser.
        *examples: What stands behind the parser's name, such as ``mine.npz --fair``.
        text: The paragraph.
    """
    lines = [line for words in examples for line in _broken(f"{command.prog} {words}".rstrip())]
    command.epilog = "\n\n".join(filter(None, [text, "\n".join([_EXAMPLES, *lines])]))


def text_and_examples(command: argparse.ArgumentParser) -> tuple[str, list[str]]:
    """The two parts of what :func:`describe` gave: the paragraph, and each example in one line."""
    text, _, examples = (command.epilog or "").rpartition(_EXAMPLES)
    found = textwrap.dedent(examples.strip("\n").replace(" \\\n      ", " "))
    return text.strip(), found.splitlines()


def usage_words(actions: list[argparse.Action]) -> list[str]:
    """What must be given, and that there are options."""
    wanted = [shown(a) for a in actions if a.required or not a.option_strings]
    others = (a for a in actions if not (a.required or isinstance(a, argparse._HelpAction)))
    return wanted + ["[options]"] * any(a.option_strings for a in others)


def shown(action: argparse.Action) -> str:
    """An argument as a usage line has it."""
    value = shown_value(action)
    if not action.option_strings:
        return f"[{value}]" if action.nargs in ("?", "*") else value
    return f"{action.option_strings[0]} {value}".rstrip()


def shown_value(action: argparse.Action) -> str:
    """What an argument takes, such as ``FILE``, ``{a,b}`` or ``NAME=VALUE …``."""
    if action.nargs == 0:
        return ""
    name = action.metavar or _metavar(action)
    if action.choices and not action.metavar:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    if isinstance(name, tuple):
        return " ".join(name)
    return f"{name} …" if action.nargs in ("+", "*") else name


def shown_default(action: argparse.Action) -> str:
    """An argument's default as it is given; empty if it has none."""
    value = action.default
    if action.required or action.nargs == 0 or value is None or value is False:
        return ""
    if isinstance(action, argparse._SubParsersAction) or value == argparse.SUPPRESS:
        return ""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _metavar(action: argparse.Action) -> str:
    """What stands for a value: N for a whole number, X for another, else the argument's name."""
    return {int: "N", float: "X"}.get(action.type) or action.dest.upper()  # type: ignore[call-overload]


def _broken(line: str) -> list[str]:
    """A command in lines that a shell reads as one, each option with its value."""
    lines = [""]
    for part in re.split(r" (?=--|> )", line):
        if lines[-1] and len(lines[-1]) + len(part) > _WIDTH - 8:
            lines.append("")
        lines[-1] = f"{lines[-1]} {part}".lstrip()
    ends = [" \\"] * (len(lines) - 1) + [""]
    starts = ["  "] + ["      "] * (len(lines) - 1)
    return [start + each + end for start, each, end in zip(starts, lines, ends, strict=True)]
