"""``mixer-plugin check``: tests the plug-in on a checkout of a codebase."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import MixERValueError, check_name, closest
from mixer_plugin.io.yaml_file import read_values

UNABLE = 3  # exit code: the checkout could not be imported, built or trained


def run_check(
    name: str,
    checkout: str | Path,
    *,
    dataset: str = "sysu",
    build: str | None = None,
    wrappers: bool = False,
    mixer: Sequence[str] = (),
) -> int:
    """Tries the invariants on a checkout's own network, in a process of its own.

    Nothing is written into the checkout, and nothing is fetched: the process works in a folder that
    is removed, refuses both, and the checkout's files are compared before and after.

    Args:
        name: adapter of the codebase.
        checkout: folder of the user's checkout.
        dataset: data-set variant of the network.
        build: ``module:function`` in the checkout that makes the network from a number of classes;
            default: the public network's own place.
        wrappers: also takes a step in each of what loops put around a model, and compares it.
        mixer: options of ``MixERConfig`` that it is wrapped with, as ``NAME=VALUE``.

    Returns:
        0 if every invariant held and every wrapper was equal or refused, 10 + the number of the
        first that broke (7 for a wrapper), 3 if the network could not be built and trained.

    Raises:
        MixERValueError: for an unknown codebase, data set or option, a folder that does not exist,
            or if the checkout was changed.
    """
    from mixer_plugin.conformance.codebases import CODEBASES

    MixERConfig.from_dict(read_values(mixer))
    check_name("codebase", name, CODEBASES)
    datasets = CODEBASES[name].datasets
    if dataset not in datasets:
        raise MixERValueError(
            f"The public code of {name!r} has no variant for {dataset!r}."
            f"{closest(dataset, datasets)}"
        )
    root = Path(checkout).resolve()
    if not root.is_dir():
        raise MixERValueError(
            f"{root} is no folder; expected a checkout of {CODEBASES[name].source}."
        )
    before = _files(root)
    command = [sys.executable, "-m", "mixer_plugin.conformance.worker", name, str(root)]
    command += ["--dataset", dataset, *(["--build", build] if build else [])]
    command += ["--wrappers"] if wrappers else []
    command += ["--mixer", *mixer] if mixer else []
    # The worker runs elsewhere: a source tree that is not installed has to be on its path.
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        code = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    if _files(root) != before:
        raise MixERValueError(
            f"Files in {root} changed during the check. Was something else at it?"
        )
    return code


def _files(root: Path) -> dict[str, tuple[int, int]]:
    found = (path for path in root.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}
