"""The configurations that come with the package."""

from __future__ import annotations

from importlib import resources

_SUFFIX = ".yaml"


def packaged_configs(folder: str = "") -> dict[str, str]:
    """Name, as ``--config`` takes it, → text of the file.

    Args:
        folder: empty for those that table3 runs, ``paper/`` for its ones of the paper's
            experiments, ``studies/`` for the studies.
    """
    root = resources.files("mixer_plugin.benchmarks").joinpath("configs", *folder.split("/")[:-1])
    files = sorted((file.name, file) for file in root.iterdir() if file.name.endswith(_SUFFIX))
    return {
        folder + name.removesuffix(_SUFFIX): file.read_text(encoding="utf-8")
        for name, file in files
    }
