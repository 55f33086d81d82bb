"""What must hold before a version is released: ``make release-check``.

    python scripts/release_check.py [--out dist]

The version stands once, in ``mixer_plugin/__init__.py``; the changelog's newest entry has it and
a date, and ``CITATION.cff`` names both. The source distribution and the wheel are built, ``twine``
checks their metadata, and the wheel, alone in a new folder, prints its version. With
``PROJECT_URL`` set (the repository's address) the README's links on a package index are absolute.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_ENTRY = re.compile(r"^## (\S+) \((.+)\)$", re.MULTILINE)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def find_trouble(root: Path) -> list[str]:
    """What the files say that a release must not: a sentence each."""
    version = re.search(r'__version__ = "([^"]+)"', _read(root / "mixer_plugin" / "__init__.py"))
    entry = _ENTRY.search(_read(root / "CHANGELOG.md"))
    if version is None:
        return ['mixer_plugin/__init__.py has no line __version__ = "…".']
    if entry is None:
        return ["CHANGELOG.md has no entry of the form `## 1.2.3 (2026-01-31)`."]
    number, date = entry.groups()
    trouble = []
    if number != version[1]:
        trouble.append(f"CHANGELOG.md begins with {number}; mixer_plugin says {version[1]}.")
    if not _DATE.fullmatch(date):
        trouble.append(f"CHANGELOG.md says {date!r} where the day of the release belongs.")
    citation = _read(root / "CITATION.cff")
    wanted = (f"version: {version[1]}", f"date-released: {date}")
    missing = [line for line in wanted if line not in citation.splitlines()]
    return trouble + [f"CITATION.cff has no line `{line}`." for line in missing]


def check_distributions(root: Path, out: Path) -> list[str]:
    """Builds both distributions into ``out``; what is wrong with them.

    Raises:
        subprocess.CalledProcessError: A build or ``twine`` failed; its output was printed.
    """
    out.mkdir(parents=True, exist_ok=True)
    for file in [*out.glob("*.whl"), *out.glob("*.tar.gz")]:
        file.unlink()
    _run("-m", "build", "--no-isolation", "--outdir", str(out), str(root))
    (wheel,), (source,) = out.glob("*.whl"), out.glob("*.tar.gz")
    _run("-m", "twine", "check", "--strict", str(wheel), str(source))
    with tempfile.TemporaryDirectory() as folder:
        _run("-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, str(wheel))
        # As a user finds it: nothing but the installed files on the path.
        command = [sys.executable, "-m", "mixer_plugin.cli", "--version"]
        environment = os.environ | {"PYTHONPATH": folder}
        printed = subprocess.check_output(command, cwd=folder, env=environment, text=True).strip()
    named = f"mixer_plugin-{printed}-py3-none-any.whl"
    return [] if wheel.name == named else [f"The wheel is {wheel.name}, expected {named}."]


def main(arguments: list[str] | None = None) -> int:
    """Prints what is wrong, a line each; 1 if anything is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the built files")
    options = parser.parse_args(arguments)
    trouble = find_trouble(ROOT) or check_distributions(ROOT, options.out)
    for line in trouble:
        print(line, file=sys.stderr)
    if not trouble:
        print(f"ready: {', '.join(sorted(file.name for file in options.out.iterdir()))}")
    return int(bool(trouble))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main())
