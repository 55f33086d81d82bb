"""The known adapters, by name, and the choice of one for a model."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.metadata
import pkgutil
from typing import TypeVar

from torch import nn

from mixer_plugin.adapters.base import Adapter
from mixer_plugin.errors import MixERTypeError, MixERValueError, check_name

ENTRY_POINTS = "mixer_plugin.adapters"
A = TypeVar("A", bound=type[Adapter])
_registry: dict[str, type[Adapter]] = {}


def register_adapter(adapter: A) -> A:
    """Class decorator that makes an adapter known by its ``name``.

    Installed packages register theirs through the entry-point group ``mixer_plugin.adapters``.

    Raises:
        MixERTypeError: if it is no subclass of ``Adapter``.
        MixERValueError: if it has no name, or another class holds that name.

    Example:
        >>> from mixer_plugin.adapters import GenericAdapter, list_adapters
        >>> @register_adapter
        ... class Mine(GenericAdapter):
        ...     name = "mine"
        >>> "mine" in list_adapters()
        True
    """
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        raise MixERTypeError(f"register_adapter expects a subclass of Adapter, got {adapter!r}.")
    if not adapter.name:
        raise MixERValueError(f"{adapter.__name__} has no name. Set the class attribute `name`.")
    known = _registry.get(adapter.name)
    if known is not None and known.__qualname__ != adapter.__qualname__:
        raise MixERValueError(
            f"The adapter name {adapter.name!r} is taken by {known.__qualname__}. Choose another."
        )
    _registry[adapter.name] = adapter
    return adapter


def _adapters() -> dict[str, type[Adapter]]:
    """Every file beside this one registers what it holds; then installed packages' entry points."""
    package = importlib.import_module(__package__ or "mixer_plugin.adapters")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.name not in _registry:
            register_adapter(entry.load())
    return _registry


def list_adapters(pattern: str = "*") -> list[str]:
    """Names of the known adapters that match a shell pattern, sorted.

    Example:
        >>> list_adapters("s*")
        ['saai', 'sgeil']
    """
    return sorted(fnmatch.filter(_adapters(), pattern))


def resolve_adapter(model: nn.Module, adapter: str | Adapter | type[Adapter] = "auto") -> Adapter:
    """Finds the adapter of a model: an instance, a class, a name, or ``auto`` by structure.

    Raises:
        MixERValueError: for an unknown name (closest suggested), or if none or several recognise
            the model.
        MixERTypeError: for anything else.

    Example:
        >>> from mixer_plugin.baselines import create_baseline
        >>> resolve_adapter(create_baseline("ddag", num_classes=4, trunk="small")).name
        'ddag'
    """
    if isinstance(adapter, Adapter):
        return adapter
    if isinstance(adapter, type) and issubclass(adapter, Adapter):
        return adapter()
    if not isinstance(adapter, str):
        raise MixERTypeError(
            f"adapter is {adapter!r}; expected 'auto', a name, or an Adapter instance."
        )
    known = _adapters()
    if adapter != "auto":
        check_name("adapter", adapter, known)
        return known[adapter]()
    fitting = [name for name, cls in sorted(known.items()) if cls().matches(model)]
    if len(fitting) == 1:
        return known[fitting[0]]()
    children = ", ".join(name for name, _ in model.named_children())
    sought = [f"{name} ({cls.stage})" for name, cls in sorted(known.items()) if cls.stage]
    if fitting:
        raise MixERValueError(
            f"Several adapters recognise {type(model).__name__}: {', '.join(fitting)}. "
            "Name one: adapter=…"
        )
    raise MixERValueError(
        f"No adapter recognises {type(model).__name__} (sub-modules: {children}). Looked for: "
        f"{'; '.join(sought)}. Name one with adapter=…, or attach to any network in one line, with "
        "the paths of its last stage and its embedding: from mixer_plugin.adapters import "
        'GenericAdapter; wrap_with_mixer(model, adapter=GenericAdapter(stage="layer4", '
        'embedding="avgpool"), num_classes=…).'
    )
