"""``mixer-plugin``: the commands of the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mixer_plugin.commands.parsers import COMMANDS, parser
from mixer_plugin.errors import MixERValueError, closest
from mixer_plugin.io.console import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status, see :func:`run_command`."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = next((word for word in given if word in COMMANDS), "")

    def work() -> int:
        if given and not command and not given[0].startswith("-"):
            raise MixERValueError(f"There is no command {given[0]!r}.{closest(given[0], COMMANDS)}")
        options = parser(command).parse_args(given)
        for name, value in vars(options).items():
            if value == "":  # as a path, it would be the folder that one happens to be in
                raise MixERValueError(f"{name} is empty; give a value, or leave it out.")
        return options.run(options)

    return run_command(f"mixer-plugin {command}".rstrip(), work)


if __name__ == "__main__":
    sys.exit(main())
