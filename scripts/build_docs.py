"""Builds the documentation site from ``docs/`` into ``build/site``, offline, with Zensical.

Pages link to files of the repository with relative paths, so that they are readable on its host.
A site ends at its own folder. So the pages are first copied to ``build/docs``, together with every
file that they link to: pages as pages, pictures as they are, sources as a page with their text.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = "repository"  # the folder of the site for files from outside docs/
PICTURES = (".svg", ".png")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)(?=[)#])")


def map_links(text: str, change: Callable[[str], str]) -> str:
    """The Markdown text with ``change`` of every relative path that it links to outside of code."""
    parts = _FENCE.split(text)
    parts[::2] = [_LINK.sub(lambda found: change(found[1]), part) for part in parts[::2]]
    return "".join(parts)


def stage(root: Path, target: Path) -> None:
    """Copies the pages of ``root/docs``, and all that they link to, into the folder ``target``.

    Raises:
        FileNotFoundError: for a link to a file that is not there; names page and link.
    """
    shutil.rmtree(target, ignore_errors=True)
    docs = root / "docs"
    left = sorted(path for path in docs.rglob("*") if path.is_file())
    places: dict[Path, Path] = {}
    while left:
        path = left.pop(0)
        place = _place(path, root, target)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in PICTURES:
            shutil.copyfile(path, place)
        elif path.suffix == ".md":

            def moved(link: str, page: Path = path, own: Path = place) -> str:
                linked = (page.parent / link).resolve()
                if not linked.is_file():
                    raise FileNotFoundError(f"{page} links to {link}, which is no file.")
                if linked not in places and docs not in linked.parents:
                    places[linked] = _place(linked, root, target)
                    left.append(linked)
                return os.path.relpath(places.get(linked, _place(linked, root, target)), own.parent)

            place.write_text(map_links(path.read_text(encoding="utf-8"), moved), encoding="utf-8")
        else:
            place.write_text(_source_page(path, root), encoding="utf-8")


def _place(path: Path, root: Path, target: Path) -> Path:
    """Where a file lies in the site's folder of pages."""
    docs = root / "docs"
    inside = docs in path.parents
    place = target / path.relative_to(docs) if inside else target / OUTSIDE / path.relative_to(root)
    if path.suffix == ".md" or path.suffix in PICTURES:
        return place
    return place.with_name(f"{path.name}.md")


def _source_page(path: Path, root: Path) -> str:
    """A page with the text of a source file; searches do not find it."""
    name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
    return (
        f"---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n"
        f"`````{path.suffix.lstrip('.')}\n{text}`````\n"
    )


def main() -> int:
    """Stages and builds; returns the status of Zensical, which is not 0 if it warns."""
    if importlib.util.find_spec("zensical") is None:
        print("Zensical is missing: pip install '.[docs]', or make docs.", file=sys.stderr)
        return 2
    stage(ROOT, ROOT / "build" / "docs")
    shutil.rmtree(ROOT / "build" / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(
        [*command, "--config-file", str(ROOT / "mkdocs.yml")], cwd=ROOT, check=False
    ).returncode


if __name__ == "__main__":
    raise SystemExit(main())
