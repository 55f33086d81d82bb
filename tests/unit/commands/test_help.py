"""The help of every command: short, with defaults, and with examples that can be pasted."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys

import pytest

from mixer_plugin.cli import COMMANDS, parser
from mixer_plugin.commands.shared.help import shown_default, text_and_examples
from tests.unit.commands.parsers import arguments, every_parser

NAMES = list(every_parser())


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a wider terminal does not make it wider


@pytest.mark.parametrize("name", NAMES)
def test_examples_parse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    epilog = every_parser()[name].epilog or ""
    assert "Examples:\n" in epilog
    lines = epilog.partition("Examples:\n")[2].replace("\\\n", " ").splitlines()
    assert lines
    assert text_and_examples(every_parser()[name])[1] == [" ".join(each.split()) for each in lines]

    def refuse(self: argparse.ArgumentParser, message: str) -> None:
        raise AssertionError(message)

    monkeypatch.setattr(argparse.ArgumentParser, "error", refuse)
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        assert words[0] == "mixer-plugin"
        given = parser().parse_args(words[1:])
        own = every_parser()[name]
        called = f"{given.command} {getattr(given, 'action', '')}".strip()
        assert called.startswith(name), line
        assert own.prog == f"mixer-plugin {name}"


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_says_what_it_is_and_its_default(name: str) -> None:
    text = " ".join(every_parser()[name].format_help().split())
    for action in arguments(name):
        assert action.help, action.dest
        default = shown_default(action)
        assert not default or f"(default: {default})" in text, action.dest
        # The default is told once, by the parser itself.
        assert not default or "default" not in action.help, action.dest
        if action.default not in (None, False) and action.nargs != 0:
            assert default or action.default in ([], argparse.SUPPRESS), action.dest


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_fits_eighty_columns(name: str) -> None:
    own = every_parser()[name] if name else parser("")
    assert max(map(len, own.format_help().splitlines())) <= 80
    assert max(map(len, own.format_usage().splitlines())) <= 80


def test_help_needs_no_torch() -> None:
    light = sorted(set(COMMANDS) - {"synth"})  # its options are those of the generator
    code = (
        "import sys; from mixer_plugin.cli import parser\n"
        f"for name in {light!r}: parser(name)\n"
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# The same name, but another kind of value: the command that is not like the others → why.
OTHERWISE = {("--mixer", "convert"): "a file of the mixer.* weights"}


def test_one_name_is_one_kind_of_value() -> None:
    kinds: dict[str, dict[object, list[str]]] = {}
    for name in NAMES:
        for action in arguments(name):
            kind = (action.type, action.nargs, action.metavar)
            for option in action.option_strings:
                if (option, name) not in OTHERWISE:
                    kinds.setdefault(option, {}).setdefault(kind, []).append(name)
    assert {option: found for option, found in kinds.items() if len(found) > 1} == {}


def test_one_meaning_is_one_name() -> None:
    every = {o for name in NAMES for a in arguments(name) for o in a.option_strings}
    assert not every & {"--output", "--verbose", "--silent", "--batch-size", "--format-json"}
    for name in NAMES:
        for action in arguments(name):
            for option in {"--json", "--quiet", "--dry-run", "--overwrite"} & {
                *action.option_strings
            }:
                said = {a.help for n in NAMES for a in arguments(n) if option in a.option_strings}
                assert len(said) == 1, (option, said)
