"""Lets code written for older versions import and run here, with no network and no writing.

Only for a process of its own: it changes PyTorch, NumPy and the import system for good.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Imported at the top of public modules, and by none of what is run here.
OPTIONAL = (
    *("apex", "wandb", "turtle", "cv2", "tensorboardX", "yacs", "ignite", "sklearn", "thop"),
    "torchsort",
)
_WRITING = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree")


class NotInstalled(BaseException):
    """A package is needed after all; what tries ways of calling does not catch it."""


class _Absent:
    """Stands for anything of a package that is not installed; calling it is an error."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> _Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{self._name}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotInstalled(
            f"{self._name} is not installed here, and the model called it. Install its package."
        )


class _StandIn(types.ModuleType):
    """A package that is not installed: importing from it works, using it does not."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{self.__name__}.{name}")


class _StandInFinder:
    """Gives a stand-in for every optional package, and its sub-packages, that is missing."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] not in OPTIONAL:
            return None
        return importlib.util.spec_from_loader(name, _StandInLoader())  # type: ignore[arg-type]


class _StandInLoader:
    @staticmethod
    def create_module(spec: Any) -> types.ModuleType:
        module = _StandIn(spec.name)
        module.__path__ = []  # a package: sub-modules may be imported from it
        return module

    @staticmethod
    def exec_module(module: types.ModuleType) -> None:
        """Nothing to run."""


def install(checkout: str | os.PathLike[str]) -> None:
    """Makes a checkout's modules importable in this process, and keeps them from doing harm.

    * its folder comes first on ``sys.path``, and no bytecode is written;
    * packages that are missing and that the networks do not need get stand-ins;
    * names that newer versions dropped are back (``np.in1d``, ``Image.ANTIALIAS``,
      ``torchvision.models.utils`` and what ``torchvision.models.resnet`` took from it);
    * downloads of pretrained weights give a random ResNet-50; ``.cuda()`` does nothing on a machine
      without a GPU;
    * a network connection, or a write into the folder, raises ``PermissionError``.

    Args:
        checkout: folder that holds the modules to import.
    """
    root = Path(checkout).resolve()
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(root))
    sys.meta_path.append(_StandInFinder)
    _restore_dropped_names()
    _no_downloads()
    if not torch.cuda.is_available():
        for cls in (torch.Tensor, torch.nn.Module):
            cls.cuda = _stay  # type: ignore[method-assign]
    sys.addaudithook(_guard(root))


def _stay(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self


def _restore_dropped_names() -> None:
    if not hasattr(np, "in1d"):
        np.in1d = np.isin  # type: ignore[attr-defined]
    if importlib.util.find_spec("PIL") is not None:
        from PIL import Image

        if not hasattr(Image, "ANTIALIAS"):
            Image.ANTIALIAS = Image.LANCZOS  # type: ignore[attr-defined]


def _no_downloads() -> None:
    from mixer_plugin.baselines.common.trunks import Trunk

    def random_weights(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        head = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
        return {**Trunk("resnet50").state_dict(), **head}

    import torch.utils.model_zoo

    torch.hub.load_state_dict_from_url = random_weights
    torch.utils.model_zoo.load_url = random_weights
    gone = types.ModuleType("torchvision.models.utils")
    gone.load_state_dict_from_url = random_weights  # type: ignore[attr-defined]
    sys.modules["torchvision.models.utils"] = gone
    if importlib.util.find_spec("torchvision") is not None:
        from torchvision.models import resnet

        resnet.load_state_dict_from_url = random_weights


def _guard(root: Path) -> Callable[[str, tuple[Any, ...]], None]:
    def inside(path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        return Path(os.fsdecode(path)).resolve().is_relative_to(root)

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo"):
            raise PermissionError(f"The checkout's code asked for the network: {args[1:]}.")
        writes = event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if (writes or event in _WRITING) and inside(args[0]):
            raise PermissionError(f"The checkout's code would write into itself: {args[0]}.")

    return audit
