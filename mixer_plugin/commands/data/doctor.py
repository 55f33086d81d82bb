"""``mixer-plugin doctor``."""

from __future__ import annotations

import argparse

from mixer_plugin.io.text_file import printable


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.epilog = "Exit code: 0 no error was found; 1 there is one; 2 wrong arguments."
    command.add_argument("root", help="folder of the data set")
    command.add_argument(
        "--layout", help="sysu, regdb, llcm or market (default: recognised by what is there)"
    )
    command.add_argument("--workers", type=int, default=2, help="threads that open the images")
    command.add_argument("--no-images", action="store_true", help="do not open the images")


def run(options: argparse.Namespace) -> int:
    """Checks a data set and prints what was found."""
    from mixer_plugin.data.datasets.doctor import diagnose
    from mixer_plugin.data.datasets.findings import by_severity
    from mixer_plugin.data.loading.array_check import check_script_arrays

    findings = diagnose(
        options.root, options.layout, images=not options.no_images, workers=options.workers
    )
    compared = 0 if options.no_images else 16
    findings += check_script_arrays(options.root, options.layout, compared=compared)
    for finding in by_severity(findings):
        advice = f"\n         {finding.fix}" if finding.fix else ""
        print(printable(f"{finding.severity:8} {finding.what}{advice}"))
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{errors} errors, {sum(f.severity == 'warning' for f in findings)} warnings")
    return 1 if errors else 0
