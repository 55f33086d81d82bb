"""``mixer-plugin check``: tests the plug-in on a checkout of a codebase."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from mixer_plugin.adapters import list_adapters
from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import MixERValueError, MixERWarning, check_least, check_name, closest
from mixer_plugin.io.yaml_file import read_values

UNABLE = 3  # exit code: the checkout could not be imported, built or trained
NO_LINE = 4  # exit code of `inspect`: no adapter of one line attaches to the network


def run_check(
    name: str,
    checkout: str | Path,
    *,
    dataset: str = "sysu",
    build: str | None = None,
    wrappers: bool = False,
    mixer: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    json: bool = False,
) -> int:
    """Tries the invariants on a checkout's own network, in a process of its own.

    Nothing is written into the checkout, and nothing is fetched: the process refuses to write there
    and to open a connection, and works in a folder that is removed afterwards. The checkout's files
    are compared before and after.

    Args:
        name: adapter of a public codebase; or, with ``build``, of any network: the name of a
            registered adapter, a line ``GenericAdapter(…)``, or ``FILE.py:NAME``.
        checkout: folder of the user's checkout.
        dataset: data-set variant of the network.
        build: ``module:function`` in the checkout that makes the network from a number of classes,
            or ``module:function(…)``, called just so; default: the public network's own place.
        wrappers: also takes a step in each of what loops put around a model, and compares it.
        mixer: options of ``MixERConfig`` that it is wrapped with, as ``NAME=VALUE``.
        size: (height, width) of the images; default: the adapter's ``trial``, or small ones.
        json: prints one JSON document on stdout, and what people read on stderr.

    Returns:
        0 if every invariant held and every wrapper was equal or refused, 10 + the number of the
        first that broke (7 for a wrapper), 3 if the network could not be built and trained.

    Raises:
        MixERValueError: for an unknown codebase, data set or option, or a folder that does not
            exist.

    Warns:
        MixERWarning: if files of the checkout have changed meanwhile; it names them.
    """
    from mixer_plugin.conformance.codebases import CODEBASES

    MixERConfig.from_dict(read_values(mixer))
    if build is None:
        check_name("codebase", name, CODEBASES)
    elif "(" not in name and not name.partition(":")[0].endswith(".py"):
        check_name("adapter", name, list_adapters())
    if name in CODEBASES and dataset not in CODEBASES[name].datasets:
        raise MixERValueError(
            f"The public code of {name!r} has no variant for {dataset!r}."
            f"{closest(dataset, CODEBASES[name].datasets)}"
        )
    source = CODEBASES[name].source if name in CODEBASES else "the network"
    root = Path(checkout).resolve()
    if not root.is_dir():
        raise MixERValueError(f"{root} is no folder; expected a checkout of {source}.")
    options = ["--dataset", dataset, *(["--build", build] if build else [])]
    options += ["--size", *map(str, size)] if size else []
    options += ["--wrappers"] if wrappers else []
    options += ["--mixer", *mixer] if mixer else []
    options += ["--json"] if json else []
    return run_apart("mixer_plugin.conformance.worker", [_place(name), str(root), *options], root)


def run_inspect(
    target: str,
    *,
    build: str | None = None,
    size: tuple[int, int] | None = None,
    classes: int = 6,
    json: bool = False,
) -> int:
    """Looks at a network in a process of its own, and prints the adapter that attaches to it.

    Args:
        target: folder of a checkout; or ``module:function`` that makes the network, imported from
            the current folder or the environment.
        build: of a checkout: ``module:function``, called with the number of classes, or
            ``module:function(…)``, called just so.
        size: (height, width) of the images; default: the first usual size that the network takes.
        classes: identities that it is built for.
        json: as of :func:`run_check`.

    Returns:
        0 if a line was found, tried and printed; 4 if none works; 3 if the network could not be
        imported, built or called.

    Raises:
        MixERValueError: for a folder that does not exist or without ``build``, or a size or number
            that is not positive.

    Warns:
        MixERWarning: if files of the checkout have changed meanwhile; it names them.
    """
    from mixer_plugin.conformance.building import makers_in

    for name, value in (("classes", classes), *(("size", n) for n in size or ())):
        check_least(name, value)
    root = Path(target).resolve()
    checkout = root if root.is_dir() else None
    if checkout is None:
        if ":" not in target:
            raise MixERValueError(
                f"{target!r} is no folder and no module:function; expected a checkout with "
                "--build module:function, or module:function."
            )
        if build is not None:
            raise MixERValueError(f"{target!r} makes a network already; leave out --build {build}.")
        root, build = Path.cwd(), target
    if build is None:
        found = makers_in(root)[:8]
        shown = "".join(f"\n  --build {maker}" for maker in found)
        raise MixERValueError(
            f"Which network of {root}? Name what makes it with --build module:function, or a call "
            f"of it.{' Candidates:' + shown if found else ''}"
        )
    options = ["--classes", str(classes), *(["--size", *map(str, size)] if size else [])]
    options += ["--json"] if json else []
    module = "mixer_plugin.conformance.inspection.worker"
    return run_apart(module, [str(root), build, *options], checkout)


def run_apart(module: str, arguments: Sequence[str], checkout: Path | None) -> int:
    """Runs a module in a process of its own, in a folder that is removed; returns its exit code.

    Warns:
        MixERWarning: if files of the checkout have changed meanwhile; it names them.
    """
    before = _files(checkout)
    command = [sys.executable, "-m", module, *arguments]
    # The worker runs elsewhere: a source tree that is not installed has to be on its path.
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        code = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    names = sorted({os.path.relpath(path, checkout) for path, *_ in before ^ _files(checkout)})
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warnings.warn(
            f"Files in {checkout} have changed meanwhile: {', '.join(names[:3])}{more}. This "
            "command's process may not write there: the network's code has started another one, "
            "or something else is at work there.",
            MixERWarning,
            stacklevel=3,
        )
    return code


def _place(name: str) -> str:
    """The name of an adapter, a file's path made absolute: the process runs in another folder."""
    path, colon, rest = name.partition(":")
    here = "(" not in name and path.endswith(".py") and Path(path).is_file()
    return f"{Path(path).resolve()}{colon}{rest}" if here else name


def _files(root: Path | None) -> set[tuple[str, int, int]]:
    """Path, size in bytes and time of the last change in ns of each file of a checkout."""
    found: set[tuple[str, int, int]] = set()
    for folder, folders, names in os.walk(root) if root else ():
        folders[:] = [name for name in folders if name != ".git"]
        for path in (os.path.join(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                stat = os.stat(path)
                found.add((path, stat.st_size, stat.st_mtime_ns))
    return found
