"""Heads in a folder: their weights in safetensors, what they are and belong to in JSON."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import mixer_plugin
from mixer_plugin.adapters import Adapter, resolve_adapter
from mixer_plugin.adapters.stages import stage_parts
from mixer_plugin.attach import unwrap_mixer, wrap_with_mixer
from mixer_plugin.checkpoints import base_state_dict, load_mixer_state_dict, mixer_state_dict
from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import (
    MissingExtraError,
    MixERError,
    MixERValueError,
    MixERWarning,
    check_keys,
)
from mixer_plugin.forward.mixed import MixedModule, bare_model, mixer_of
from mixer_plugin.forward.refuse import refuse
from mixer_plugin.io.atomic_write import atomic_write, write_json
from mixer_plugin.io.folder import make_folder
from mixer_plugin.run_card import differences, mark_of

WEIGHTS, CONFIG = "mixer_heads.safetensors", "mixer_config.json"
FORMAT = 1
_KEYS = (
    *("format", "mixer_plugin", "mode", "seed", "pseudo_labels", "config", "attached_to"),
    *("adapter_line", "base", "weights"),
)


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Writes the heads of a wrapped model to a folder: two files, without the base's weights.

    ``mixer_heads.safetensors`` holds the ``mixer.…`` tensors. ``mixer_config.json`` holds options,
    mode and what the heads are attached to: stages, taps, widths, classes, a checksum of the base's
    weights, and the version of this package. Each file is written aside and renamed; the JSON comes
    last and has the checksum of the other.

    Args:
        model: wrapped by ``wrap_with_mixer``; also inside DDP or ``torch.compile``.
        folder: made if it is not there; earlier heads in it are replaced.

    Returns:
        The folder.

    Raises:
        MixERTypeError: if the model is not wrapped.
        MixERValueError: if the folder cannot be made.
        MissingExtraError: if safetensors is not installed.
        OSError: if a file cannot be written.
    """
    mixer, bare = mixer_of(model), bare_model(model)
    tensors = {k: v.detach().cpu().contiguous() for k, v in mixer_state_dict(model).items()}
    content = _safetensors().save(tensors, metadata={"format": "pt"})
    values = {
        "format": FORMAT,
        "mixer_plugin": mixer_plugin.__version__,
        "mode": mixer.mode,
        "seed": mixer.seed,
        "pseudo_labels": mixer.pseudo_labels,
        "config": mixer.config.to_dict(),
        "attached_to": _attached_to(bare, mixer.adapter, mixer.config, mixer.num_classes),
        "adapter_line": repr(mixer.adapter) if mixer.adapter.name == "generic" else None,
        "base": mark_of(base_state_dict(model)),
        "weights": hashlib.sha256(content).hexdigest(),
    }
    place = make_folder(Path(folder))
    with atomic_write(place / WEIGHTS) as file:
        file.write(content)
    write_json(place / CONFIG, values)
    return place


def from_pretrained(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    adapter: str | Adapter | type[Adapter] = "auto",
) -> nn.Module:
    """Attaches heads that :func:`save_pretrained` wrote, in place, and returns the same model.

    A bare model is wrapped with the mode and the options of the file. A wrapped one keeps its mode
    and the options of its losses; its ``related_…`` options and ``control`` must be the file's.
    Everything is checked first: a model that the heads do not fit stays as it was.

    Args:
        model: with the base's weights that the heads were trained on; with other weights a
            ``MixERWarning`` is given.
        folder: a local folder.
        adapter: of a model that is not wrapped, as of ``wrap_with_mixer``. A
            :class:`GenericAdapter` must be given again: the model's structure does not show it.

    Returns:
        The same model, wrapped.

    Raises:
        OSError: if a file cannot be opened.
        MixERValueError: if a file is damaged, of a later version, or of heads that were attached
            to another structure; says what differs.
        MissingExtraError: if safetensors is not installed.
        MixERError: as ``wrap_with_mixer``.
    """
    place = Path(folder)
    values = _read_config(place / CONFIG)
    tensors = _read_weights(place, values["weights"])
    config = MixERConfig.from_dict(values["config"])
    bare, there = bare_model(model), values["attached_to"]
    classes = there["num_classes"]
    wrapped = isinstance(bare, MixedModule)
    if wrapped:
        mixer = mixer_of(model)
        found, classes = mixer.adapter, mixer.num_classes
        own = _of_heads(mixer.config)
    else:
        refuse(model)
        if values["adapter_line"] and adapter == "auto":
            raise MixERValueError(
                f"The heads in {place} were attached by adapter={values['adapter_line']}. No "
                "structure tells that: pass adapter=."
            )
        found, own = resolve_adapter(model, adapter), _of_heads(config)
        found.validate(model)
    here = {**_attached_to(bare, found, config, classes), "options": own}
    unlike = differences({**there, "options": _of_heads(config)}, here)
    if unlike:
        line = values["adapter_line"]
        advice = f" They were attached by adapter={line}." if line else ""
        raise MixERValueError(
            f"The heads in {place} do not fit {type(bare).__name__} (there → here): "
            f"{'; '.join(unlike)}.{advice} Build and wrap the model as in the training."
        )
    if not wrapped:
        given: Any = {"num_classes": classes, "adapter": found, "config": config}
        wrap_with_mixer(model, values["mode"], seed=values["seed"], **given)
    try:
        load_mixer_state_dict(model, tensors)
    except MixERError:
        if not wrapped:
            unwrap_mixer(model)
        raise
    if values["pseudo_labels"]:
        mixer_of(model).set_num_classes(classes)  # makes classifiers anew
        load_mixer_state_dict(model, tensors)
    if mark_of(base_state_dict(model)) != values["base"]:
        warnings.warn(
            f"The base's weights are not those that the heads in {place} were saved with. Load the "
            "base's checkpoint (load_base_state_dict), or train the heads further.",
            MixERWarning,
            stacklevel=2,
        )
    return model


def _attached_to(
    model: nn.Module, adapter: Adapter, config: MixERConfig, classes: int
) -> dict[str, Any]:
    """What heads are attached to, as plain values."""
    taps = {**adapter.taps(model), **stage_parts(adapter, model, config)[1]}
    return {
        "adapter": adapter.name,
        "stages": list(adapter.stages(model)[-config.related_stages :]),
        "taps": {name: f"{tap.path}:{tap.side}" for name, tap in taps.items()},
        "widths": list(adapter.widths(model)),
        "num_classes": classes,
    }


def _of_heads(config: MixERConfig) -> dict[str, Any]:
    """The options that decide which heads there are."""
    values = config.to_dict().items()
    return {name: value for name, value in values if name.split("_")[0] in ("related", "control")}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise MixERValueError(
            f"{path} is damaged ({error}); expected the JSON that save_pretrained writes. Save the "
            "heads again."
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise MixERValueError(f"{path} is not a file of save_pretrained: it has no format number.")
    own = mixer_plugin.__version__
    if values["format"] != FORMAT or _numbers(values.get("mixer_plugin")) > _numbers(own):
        raise MixERValueError(
            f"{path} was written by mixer-plugin {values.get('mixer_plugin')} (format "
            f"{values['format']}), and this is {own} (format {FORMAT}). Install that version."
        )
    check_keys(str(path), values, _KEYS)
    missing = [key for key in _KEYS if key not in values]
    if missing:
        raise MixERValueError(f"{path} lacks {', '.join(missing)}. Save the heads again.")
    return values


def _numbers(version: Any) -> tuple[int, ...]:
    """``0.10.1`` as numbers that compare; what follows them does not count."""
    parts = str(version).split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _read_weights(place: Path, checksum: str) -> dict[str, Tensor]:
    content = (place / WEIGHTS).read_bytes()
    if hashlib.sha256(content).hexdigest() != checksum:
        raise MixERValueError(
            f"{place / WEIGHTS} is damaged, or not the one that {CONFIG} beside it was written "
            "with: their checksums differ. Copy both files again, or save the heads again."
        )
    return _safetensors().load(content)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingExtraError("safetensors", "export", "Heads in a folder") from error
    return safetensors.torch
