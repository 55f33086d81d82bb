"""Makes a network of what a text names: ``module:function``, or a call of it."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from mixer_plugin.errors import MissingExtraError, MixERTypeError, MixERValueError

CLASS_ARGUMENTS = ("num_classes", "class_num", "n_class", "num_class", "nb_classes", "classes")


def build_network(target: str, classes: int | None = None) -> nn.Module:
    """Imports and calls what makes a network.

    Args:
        target: ``package.module:function``; or with a call's arguments, which are plain values,
            ``module:function("a", b=2)``. ``torchvision:NAME`` is ``torchvision.models:NAME``,
            which fetches no weights.
        classes: training identities, which a function named without a call is given where it takes
            them; None: such a function is called without arguments.

    Raises:
        MixERValueError: for a target of another form, a module that is not there, or a name that
            the module does not have.
        MixERTypeError: if what it makes is no ``nn.Module``.
        MissingExtraError: torchvision is named and not installed.
    """
    module_name, _, call = target.partition(":")
    name, bracket, _ = call.partition("(")
    if not module_name or not name.isidentifier():
        raise MixERValueError(
            f"{target!r} names no function that makes a network; expected module:function, "
            'module:function(395, option="value") or torchvision:NAME.'
        )
    arguments, named = _arguments(call) if bracket else ([], {})
    module = _module(module_name, target)
    make = getattr(module, name, None)
    if not callable(make):
        options = [n for n, value in vars(module).items() if inspect.isroutine(value)]
        raise MixERValueError(
            f"{module_name} has no function or class {name!r}. It has: {', '.join(options)}."
        )
    model = _called(make, classes) if not bracket and classes else make(*arguments, **named)
    if not isinstance(model, nn.Module):
        raise MixERTypeError(f"{target} made a {type(model).__name__}; expected an nn.Module.")
    return model


def _module(name: str, target: str) -> Any:
    try:
        return importlib.import_module("torchvision.models" if name == "torchvision" else name)
    except ModuleNotFoundError as error:
        if error.name == "torchvision":
            raise MissingExtraError("torchvision", "bench", f"Building {target}") from error
        raise MixERValueError(f"{target}: {error}. Is it on PYTHONPATH?") from error


def _called(make: Callable[..., Any], classes: int) -> Any:
    parameters = list(inspect.signature(make).parameters.values())
    named = next((p.name for p in parameters if p.name in CLASS_ARGUMENTS), None)
    if named is not None:
        return make(**{named: classes})
    first = parameters[0] if parameters else None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return make(classes) if first is not None and first.kind in positional else make()


def _arguments(call: str) -> tuple[list[Any], dict[str, Any]]:
    """The literal arguments of a call's text."""
    tree = parsed(call)
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise MixERValueError(f"{call!r} is no call; expected function(395, option='value').")
    try:
        given = [ast.literal_eval(value) for value in tree.args]
        return given, {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords}
    except ValueError as error:
        raise MixERValueError(
            f"The arguments of {call!r} are no plain values. Write a function that makes the "
            "network, and name that: module:function."
        ) from error


def parsed(text: str) -> ast.expr:
    """The expression that a text is; ``MixERValueError`` where it is no Python."""
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise MixERValueError(f"{text!r} is not Python: {error.msg}.") from error
