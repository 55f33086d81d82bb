"""The class of a wrapped model, and the way from a wrapper to the model."""

from __future__ import annotations

import copyreg
import functools
import warnings
from typing import Any

import torch
from torch import nn

from mixer_plugin.adapters import Call
from mixer_plugin.errors import MixERRuntimeError, MixERTypeError, MixERWarning

ORDER = "Order: wrap_with_mixer → optimizer → DistributedDataParallel → torch.compile."
RESET = (
    "The heads are still clones of the stage as it was before: call reset_heads(model) to clone "
    "them from the weights as they are now."
)
WRAPPERS = (
    "DataParallel",
    "DistributedDataParallel",
    "OptimizedModule",
    "FullyShardedDataParallel",
    "AveragedModel",
    "DeepSpeedEngine",
    "_FabricModule",
)
PLAIN = "Use the model without the plug-in: unwrap_mixer(copy.deepcopy(model))."


class MixedModule:
    """First base of a wrapped model's class: owns ``forward``, ``train`` and pickling."""

    mixer: Any  # a MixER, which imports this room
    mixer_base: type[nn.Module]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the base's; a training forward that goes past MixER is noticed."""
        heard = self.mixer.record
        output = super().__call__(*args, **kwargs)  # type: ignore[misc]
        seen = self.mixer.record is not heard or torch.compiler.is_compiling() or recomputing()
        if self.mixer.training and not seen and self._is_read(args, kwargs):
            self.mixer.check.tell(
                "The model's forward was replaced after wrap_with_mixer by one that does not call "
                "the one before: MixER reads nothing and trains nothing. Call the forward that was "
                "there (old = model.forward), or replace it before the class is instantiated."
            )
        return output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base's forward, read by MixER in training or when asked."""
        if not isinstance(args, tuple):  # what torch.fx puts in the place of *args
            raise MixERTypeError(f"torch.fx cannot trace a wrapped model. {PLAIN}")
        forward = super().forward  # type: ignore[misc]
        if not self.mixer.listening or not self._is_read(args, kwargs):
            return forward(*args, **kwargs)
        if torch.jit.is_tracing():  # type: ignore[no-untyped-call]
            raise MixERTypeError(
                "torch.jit.trace would keep the heads of one batch. Call model.eval() first."
            )
        call = Call(self, args, kwargs)  # type: ignore[arg-type]
        return self.mixer.listen(call, lambda: forward(*args, **kwargs))

    def _is_read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return self.mixer.adapter.reads(Call(self, args, kwargs))  # type: ignore[arg-type]

    def __prepare_scriptable__(self) -> Any:
        """What ``torch.jit.script`` asks first."""
        raise MixERTypeError(f"torch.jit.script cannot compile a wrapped model. {PLAIN}")

    def train(self, mode: bool = True) -> Any:
        """As the base's; a frozen base stays in eval mode."""
        super().train(mode)  # type: ignore[misc]
        if self.mixer.config.frozen_base:
            freeze(self)  # type: ignore[arg-type]
        return self

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """As the base's; a checkpoint without the heads gets an explanation."""
        bare = not any(".mixer." in f".{key}" for key in state_dict)
        try:
            result = super().load_state_dict(state_dict, *args, **kwargs)  # type: ignore[misc]
        except RuntimeError as error:
            if not bare:
                raise
            raise MixERRuntimeError(
                f"{error}\nThe checkpoint has no mixer.* keys: it was saved without the plug-in. "
                "Load it with load_base_state_dict(model, checkpoint), or before wrap_with_mixer."
            ) from error
        if bare and self.mixer.untouched_clones():
            warnings.warn(f"The checkpoint has no heads. {RESET}", MixERWarning, stacklevel=2)
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles and copies as the base class plus a note to make the wrapped class again."""
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__
        return _rebuild, (self.mixer_base,), state


@functools.cache
def mixed_class(base: Any) -> type[nn.Module]:
    """One class per base class, so that two wrapped models of a kind are of one type."""
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (MixedModule, base), {**names, "mixer_base": base})


def _rebuild(base: type[nn.Module]) -> nn.Module:
    cls = mixed_class(base)  # type: ignore[arg-type]
    return copyreg.__newobj__(cls)  # type: ignore[attr-defined]


def recomputing() -> bool:
    """Whether autograd is running: activation checkpointing runs a forward again in there."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def freeze(model: nn.Module) -> None:
    """Puts the base, without its heads, in eval mode."""
    heads = set(model.mixer.modules())  # type: ignore[union-attr]
    for module in model.modules():
        if module not in heads:
            module.training = False


def bare_model(model: nn.Module) -> nn.Module:
    """The model inside what parallelises, compiles, averages or prepares it (``WRAPPERS``)."""
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif type(model).__name__ in WRAPPERS and isinstance(model.module, nn.Module):
            model = model.module
        else:
            return model


def mixer_of(model: nn.Module) -> Any:
    """The ``mixer`` of a wrapped model, also inside DDP or ``torch.compile``.

    Raises:
        MixERTypeError: if the model is not wrapped.
    """
    bare = bare_model(model)
    if not isinstance(bare, MixedModule):
        raise MixERTypeError(
            f"{type(bare).__name__} is not wrapped. Call wrap_with_mixer(model) first. {ORDER}"
        )
    return bare.mixer
