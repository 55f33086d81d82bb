"""How a network takes images of both modalities, and how the rows' modality is known."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters.base import Call
from mixer_plugin.errors import MixERValueError
from mixer_plugin.releases import SYSU

SWITCHES = ("modal", "mode", "modality", "test_mode")
Runner = Callable[[nn.Module, Tensor, Tensor], Any]


@dataclass(frozen=True)
class Cameras:
    """Reads the rows' modality off camera numbers: ``GenericAdapter(…, modality=Cameras())``.

    Attributes:
        argument: name of the forward argument that holds [B] camera numbers.
        infrared: numbers of the infrared cameras; SYSU-MM01's by default.
        visible: the camera that stands for any visible one when images are evaluated.

    Example:
        >>> from torch import nn
        >>> from mixer_plugin.adapters import Call
        >>> call = Call(nn.Identity(), ("images",), {"cam_ids": [1, 3, 6]})
        >>> Cameras()(call).tolist()
        [0, 1, 1]
    """

    argument: str = "cam_ids"
    infrared: tuple[int, ...] = SYSU.infrared
    visible: int = 1

    def __call__(self, call: Call) -> Tensor:
        """[B] int64, 0 visible, 1 infrared; ``MixERValueError`` where the argument is missing."""
        cams = call.argument(self.argument)
        if cams is None:
            raise MixERValueError(
                f"{type(call.model).__name__}.forward got no {self.argument}; the rows' modality "
                f"is read from it (infrared cameras: {self.infrared}). Pass {self.argument}=."
            )
        cams = torch.as_tensor(cams)
        return torch.isin(cams, torch.tensor(self.infrared, device=cams.device)).long()

    def of(self, modality: Tensor) -> Tensor:
        """[B] int64 modality → [B] int64 camera numbers that stand for it."""
        return torch.where(modality == 1, self.infrared[0], self.visible)

    def __repr__(self) -> str:
        """As it is written in code."""
        return _as_written(self)


@dataclass(frozen=True)
class TwoStream:
    """A forward ``(visible, infrared, …, switch)``, as AGW's: ``inputs="two-stream"``.

    The switch says which images run: 0 both, visible rows first; 1 visible; 2 infrared. Without
    one, a forward whose images default to None, such as ``(x1=None, x2=None)``, runs what it gets.

    Attributes:
        visible: name of the argument of visible images; None: the forward's first.
        infrared: of infrared images; None: the second.
        switch: name of the switch; None: the first of ``modal``, ``mode``, ``modality`` and
            ``test_mode`` that the forward has.

    Example:
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     def forward(self, rgb, ir, modal=0): ...
        >>> TwoStream().names(Net())
        ('rgb', 'ir', 'modal')
    """

    visible: str | None = None
    infrared: str | None = None
    switch: str | None = None

    def names(self, model: nn.Module) -> tuple[str, str, str | None]:
        """The arguments of a model's forward: visible, infrared, and the switch if it has one.

        Raises:
            MixERValueError: if the forward does not take them.
        """
        signature, known = forward_parameters(model)
        images = [name for name in known if name not in SWITCHES][:2]
        found = (
            self.visible or (images[0] if images else None),
            self.infrared or (images[1] if len(images) > 1 else None),
            self.switch or next((name for name in SWITCHES if name in known), None),
        )
        missing = [
            kind
            for kind, name in zip(("visible", "infrared", "switch"), found, strict=True)
            if name is None or name not in known
        ]
        if missing == ["switch"] and self.switch is None:
            defaults = [known[name].default for name in found[:2]]  # type: ignore[index]
            missing = [] if defaults == [None, None] else missing
        if missing:
            raise MixERValueError(
                f'inputs="two-stream" expects a forward such as (x1, x2, modal=0); found no '
                f"argument for {', '.join(missing)} in {type(model).__name__}.forward{signature}. "
                "Name them: inputs=TwoStream(visible=…, infrared=…, switch=…); or pass a function "
                "inputs=run(model, images, modality) and modality=, a function of the call."
            )
        return found  # type: ignore[return-value]

    def rows(self, call: Call) -> Tensor:
        """[B] int64 modality of a call's rows: visible ones first."""
        *names, switch = self.names(call.model)
        chosen = 0 if switch is None else int(call.argument(switch) or 0)
        counts = [
            images.shape[0]
            if chosen in (0, m + 1) and (images := call.argument(name)) is not None
            else 0
            for m, name in enumerate(names)
        ]
        return torch.cat([torch.full((n,), m, dtype=torch.int64) for m, n in enumerate(counts)])

    def arguments(self, model: nn.Module, images: Any, modality: int) -> dict[str, Any]:
        """How the forward is called for images of one modality (0 visible, 1 infrared)."""
        *names, switch = self.names(model)
        if switch is None:
            return {names[modality]: images}
        return {**dict.fromkeys(names, images), switch: modality + 1}

    def run(self, model: nn.Module, images: Tensor, modality: int) -> Any:
        """The model's output for images of one modality (0 visible, 1 infrared)."""
        return model(**self.arguments(model, images, modality))

    def __repr__(self) -> str:
        """As it is written in code."""
        return _as_written(self)


def forward_parameters(model: nn.Module) -> tuple[inspect.Signature, dict[str, inspect.Parameter]]:
    """Signature of the base's own forward, and its named parameters without ``self``."""
    base: Any = getattr(type(model), "mixer_base", type(model))
    signature = inspect.signature(base.forward)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [p for p in list(signature.parameters.values())[1:] if p.kind not in kinds]
    return signature, {p.name: p for p in named}


def may_be_images(value: Any) -> bool:
    """Whether an argument of a forward is or holds something else than labels, flags and None."""
    if isinstance(value, Tensor):
        return value.dim() > 2
    if isinstance(value, (list, tuple)):
        return any(may_be_images(each) for each in value)
    return not (value is None or isinstance(value, (bool, int, float, str)))


def named_rows(call: Call, name: str) -> Tensor:
    """[B] modality from a forward argument that holds it row by row.

    Raises:
        MixERValueError: if the argument is missing, or is one value for the whole call.
    """
    value = call.argument(name)
    if value is None or torch.as_tensor(value).dim() == 0:
        given = "no argument" if value is None else f"one value ({value}) as"
        raise MixERValueError(
            f"The forward got {given} {name!r}; the adapter reads the modality of each row from "
            "it. Pass a tensor [B] (0 visible, 1 infrared). Where it is a switch, as in "
            "model(visible, infrared, modal=0), leave modality out and say so: "
            'GenericAdapter(…, inputs="two-stream").'
        )
    return torch.as_tensor(value)


def _as_written(value: Any) -> str:
    """A frozen dataclass with the fields that are not at their defaults."""
    fields = type(value).__dataclass_fields__.values()
    changed = [(f.name, getattr(value, f.name)) for f in fields]
    shown = [f"{n}={v!r}" for (n, v), f in zip(changed, fields, strict=True) if v != f.default]
    return f"{type(value).__name__}({', '.join(shown)})"
