"""docs/reference says what the code says, and shows each public name at work."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

from tests.integration.site.pages import DOCS, ROOT, blocks, read

REFERENCE = DOCS / "reference"
API = {page: read(page) for page in (REFERENCE / "api").glob("*.md") if page.stem != "README"}


def test_the_pages_are_fresh() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "reference"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


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
