"""The run card: versions, machine and configuration of a result, stored beside it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mixer_plugin

_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "matplotlib")


def fingerprint(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a value, written as JSON."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """The differences of two configurations of plain values, as lines ``name: a → b``."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return [
            found
            for key in dict.fromkeys([*there, *here])
            for found in differences(
                there.get(key, "absent"), here.get(key, "absent"), f"{name}.{key}".lstrip(".")
            )
        ]
    same = fingerprint(there) == fingerprint(here)
    return [] if same else [f"{name}: {there!r} → {here!r}"]


def data_fingerprint(root: Path) -> str:
    """Fingerprint of a data set's folder, as 16 hexadecimal digits.

    It covers the names and sizes of all files, and the contents of those in folders named ``exp``.
    """
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest.update(os.fsencode(f"{path.relative_to(root)} {path.stat().st_size}\n"))
            if path.parent.name == "exp":
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str:
    """Commit of the source tree, with ``+`` for uncommitted changes; ``unknown`` outside one."""
    folder = Path(mixer_plugin.__file__).resolve().parent
    try:
        run = [
            subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run[0] + ("+" if run[1] else "")


def run_card(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Versions, commit, machine and configuration of this run, and what the caller adds."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    return {
        "mixer_plugin": mixer_plugin.__version__,
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "versions": {name: installed.get(name, "not installed") for name in _PACKAGES},
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "config": config,
        "config_fingerprint": fingerprint(config),
        **more,
    }


def mark_of(tensors: Mapping[str, Tensor | None], **plain: Any) -> str:
    """SHA-256 of tensors and plain values, as 64 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode())
    for name, value in sorted(tensors.items()):
        if value is None:
            continue
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
