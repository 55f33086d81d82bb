"""docs/reference says what the code says, and shows each public name at work."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import re
import subprocess
import sys

import pytest

from mixer_plugin import MixERConfig
from mixer_plugin.benchmarks.experiment.config import Table3Config
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.cli import COMMANDS, main
from tests.integration.site.pages import DOCS, ROOT, blocks, read

REFERENCE = DOCS / "reference"
API = {page: read(page) for page in (REFERENCE / "api").glob("*.md") if page.stem != "README"}


@pytest.mark.slow
def test_the_pages_are_fresh() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "reference"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("options", [MixERConfig, Table3Config, Recipe, TrainingOptions])
def test_every_key_of_a_configuration_is_there(options: type) -> None:
    keys = re.findall(r"^\| `(\w+)` \|", read(REFERENCE / "configuration.md"), re.MULTILINE)
    assert {item.name for item in dataclasses.fields(options)} <= set(keys)


def test_every_option_of_a_command_is_there() -> None:
    text = read(REFERENCE / "commands.md")
    for command in COMMANDS:
        own = text.split(f"\n## mixer-plugin {command}\n")[1].split("\n## ")[0]
        helped = io.StringIO()
        with contextlib.redirect_stdout(helped), pytest.raises(SystemExit):
            main([command, "--help"])
        for option in set(re.findall(r"(?<!\S)--[a-z][a-z-]+", helped.getvalue())) - {"--help"}:
            assert option in own, (command, option)


def names() -> dict[str, str]:
    """Each name's part of its page."""
    found = {}
    for text in API.values():
        _, *parts = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)
        for name, part in zip(parts[::2], parts[1::2], strict=True):
            if not part.lstrip().startswith("See ["):
                assert name not in found, name
                found[name] = part
    return found


def test_what_the_pages_import_is_described() -> None:
    described = {*names(), *(page.stem for page in API)}
    for page in DOCS.rglob("*.md"):
        for block in blocks(page, "python"):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "")[:12] == "mixer_plugin":
                    assert {alias.name for alias in node.names} <= described, page


SHOWN = ("```pycon", "In the example of: ", "Used in: ", "Returned by: ")


def test_every_name_is_shown_at_work() -> None:
    bare = [
        name
        for name, part in names().items()
        if "](../../../" in part and not any(sign in part for sign in SHOWN)  # no constant
    ]
    assert bare == []
