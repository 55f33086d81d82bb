"""Writes ``docs/reference``: commands, configuration keys and the API, from the code itself.

``--check`` writes nothing, and names the pages that are no longer what the code says.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import api
import commands
import configuration

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Written by scripts/reference from the code; `make reference` writes it anew. -->\n\n"


def pages() -> dict[Path, str]:
    """The text of each page, by its path."""
    made = {"commands.md": commands.page(), "configuration.md": configuration.page()}
    made |= {f"api/{name}.md": text for name, text in api.pages(ROOT).items()}
    return {FOLDER / name: NOTE + text for name, text in made.items()}


def main() -> int:
    """Writes the pages, or with ``--check`` compares them; 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page is old")
    check, made = parser.parse_args().check, pages()
    stray = [path for path in (FOLDER / "api").glob("*.md") if path not in made]
    old = [path for path, text in made.items() if not path.is_file() or path.read_text() != text]
    if check:
        for path in sorted([*old, *stray]):
            print(f"{path.relative_to(ROOT)} is not what the code says; run make reference.")
        return int(bool(old or stray))
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path], encoding="utf-8")
    for path in stray:
        path.unlink()
    print(f"{len(made)} pages, {len(old)} written, {len(stray)} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
