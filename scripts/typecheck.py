"""Type-checks the package as users import it, with ``mypy -p mixer_plugin``.

In the source tree ``mixer_plugin.adapters`` is the folder ``adapters``, which mypy cannot know: it
would report success for a part of the files. So this builds ``.typecheck/mixer_plugin``, with links
that lay the tree out as an installed package, and checks that no file was left out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("adapters", "baselines", "benchmarks")


def build_link_tree(root: Path) -> Path:
    """Lays a link to each file of the package below ``root/.typecheck``; returns that."""
    tree = root / ".typecheck"
    package = tree / "mixer_plugin"
    shutil.rmtree(package, ignore_errors=True)
    for source, target in [
        (root / "mixer_plugin", package),
        *((root / folder, package / folder) for folder in FOLDERS),
    ]:
        for path in source.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                link = target / path.relative_to(source)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)
    return tree


def count_modules(root: Path) -> int:
    """Number of Python files that the package consists of."""
    return sum(1 for folder in ("mixer_plugin", *FOLDERS) for _ in (root / folder).rglob("*.py"))


def main() -> int:
    """Runs mypy, passes its arguments on, and returns its exit status, or 1 for skipped files."""
    tree = build_link_tree(ROOT)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    # Folders without __init__.py, which a wheel would lack, are not to pass as namespace packages.
    command += ["--no-namespace-packages", "--cache-dir", str(ROOT / ".mypy_cache")]
    command += [*sys.argv[1:], "-p", "mixer_plugin"]
    # From inside the tree, so that the source folder of the same name is not found first.
    result = subprocess.run(
        command,
        cwd=tree,
        env={**os.environ, "MYPYPATH": str(tree)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(result.stdout, end="")
    checked = re.search(r"(?:checked|in) (\d+) source files?", result.stdout)
    expected = count_modules(ROOT)
    if checked is None or int(checked.group(1)) != expected:
        found = checked.group(1) if checked else "an unknown number of"
        print(
            f"mypy checked {found} files, the package has {expected}. Give every folder of "
            "modules an __init__.py.",
            file=sys.stderr,
        )
        return 1
    return result.returncode


if __name__ == "__main__":
    raise SystemExit(main())
