"""Checks who imports whom: the contracts of ``pyproject.toml``, with import-linter.

Like mypy, it has to see the tree as an installed package.
"""

from __future__ import annotations

import os
import subprocess
import sys

from typecheck import ROOT, build_link_tree


def main() -> int:
    """Runs import-linter and returns its exit status."""
    tree = build_link_tree(ROOT)
    program = (
        "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
    )
    command = [sys.executable, "-c", program, "--no-cache", str(ROOT / "pyproject.toml")]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run([*command, *sys.argv[1:]], cwd=tree, env=environment).returncode


if __name__ == "__main__":
    raise SystemExit(main())
