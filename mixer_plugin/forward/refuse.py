"""Which models cannot be wrapped, and what to do instead."""

from __future__ import annotations

import torch
from torch import nn

from mixer_plugin.errors import MixERRuntimeError, MixERTypeError, MixERValueError
from mixer_plugin.forward.mixed import ORDER, WRAPPERS, MixedModule


def refuse(model: nn.Module) -> None:
    """Refuses what a wrap would break, or what would hide the forward from it.

    Raises:
        MixERError: names what was given and the way out; nothing was changed.
    """
    if not isinstance(model, nn.Module):
        held = getattr(model, "__dict__", {})
        inside = [f"model.{name}" for name, part in held.items() if isinstance(part, nn.Module)]
        advice = f" Wrap the network that it holds ({', '.join(inside)})." if inside else ""
        raise MixERTypeError(
            f"model is {type(model).__name__}; expected a torch.nn.Module.{advice}"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise MixERTypeError(
            "The model is scripted or traced: its forward is fixed. Wrap the Python module that it "
            "was made from."
        )
    if type(model).forward is nn.Sequential.forward:
        raise MixERTypeError(
            "The model is an nn.Sequential, which would run the heads as one more step. Wrap a "
            "module that holds it (self.body = …) and calls it in its forward."
        )
    if isinstance(model, MixedModule):
        raise MixERRuntimeError(
            "The model is already wrapped. Call unwrap_mixer(model) first, or set model.mixer.mode."
        )
    libraries = ("torch", "lightning", "lightning_fabric", "deepspeed")
    for cls in type(model).__mro__:
        if cls.__name__ in WRAPPERS and cls.__module__.split(".")[0] in libraries:
            raise MixERTypeError(
                f"The model is inside {cls.__name__}. Wrap the bare model. {ORDER}"
            )
    if isinstance(model, torch.fx.GraphModule):
        raise MixERTypeError(
            "The model is a graph of torch.fx, whose stages do not run as modules any more. Wrap "
            "the module that it was traced from."
        )
    if any(type(p).__name__ == "DTensor" for p in model.parameters()):
        raise MixERTypeError(
            "Parameters of the model are sharded (DTensor) already. Wrap the model first, then "
            "call fully_shard, then make the optimizer."
        )
    if "forward" in vars(model):
        raise MixERTypeError(
            "model.forward was set on the object (by a launcher of mixed precision, or by a "
            "patch), and hides the forward that MixER reads. Wrap the model first, then patch or "
            f"prepare it. {ORDER}"
        )
    lazy = [name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)]
    if lazy:
        raise MixERTypeError(
            f"{len(lazy)} parameters have no shape yet ({lazy[0]}, …). Run one forward of the "
            "model first, which gives lazy modules their shapes."
        )
    if hasattr(model, "mixer"):
        raise MixERValueError(
            f"{type(model).__name__} has an attribute `mixer` "
            f"({type(model.mixer).__name__}) already. Rename it before wrapping."
        )
