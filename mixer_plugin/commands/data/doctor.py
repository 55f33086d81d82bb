"""``mixer-plugin doctor``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments, fitted, progress, show
from mixer_plugin.io.text_file import printable


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "/data/SYSU-MM01",
        "/data/RegDB --layout regdb --no-images --json",
        text="Exit code: 0 no error was found; 1 there is one; 2 wrong arguments.",
    )
    command.add_argument("root", help="folder of the data set")
    command.add_argument(
        "--layout", help="sysu, regdb, llcm or market (default: recognised by what is there)"
    )
    command.add_argument("--workers", type=int, default=2, help="threads that open the images")
    command.add_argument("--no-images", action="store_true", help="do not open the images")
    add_output_arguments(command, json=True, quiet=True)


def run(options: argparse.Namespace) -> int:
    """Checks a data set and prints what was found."""
    from mixer_plugin.data.datasets.doctor import diagnose
    from mixer_plugin.data.datasets.findings import by_severity
    from mixer_plugin.data.loading.array_check import check_script_arrays

    told = progress(options, "read")
    findings = diagnose(
        options.root,
        options.layout,
        images=not options.no_images,
        workers=options.workers,
        progress=told,
    )
    told.end()
    compared = 0 if options.no_images else 16
    findings += check_script_arrays(options.root, options.layout, compared=compared)
    found = by_severity(findings)
    lines = []
    for finding in found:
        said = [f"{finding.severity:8} {finding.what}", f"{'':8} {finding.fix}".rstrip()]
        lines += [fitted(printable(each), indent=9) for each in said if each]
    errors, warnings = (sum(f.severity == s for f in findings) for s in ("error", "warning"))
    lines.append(f"{errors} errors, {warnings} warnings")
    counts = {"root": options.root, "errors": errors, "warnings": warnings}
    show(options, "\n".join(lines), {**counts, "findings": [asdict(each) for each in found]})
    return 1 if errors else 0
