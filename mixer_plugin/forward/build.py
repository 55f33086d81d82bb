"""Makes a network of what a text names: ``module:function``, or a call of it."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
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
        MixERValueError: for a target of another form, a module that is not there, a name that the
            module does not have, or arguments that the function does not take.
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
    arguments: Sequence[Any]
    named: Mapping[str, Any]
    arguments, named = _arguments(call) if bracket else ([], {})
    module = _module(module_name, target)
    make = getattr(module, name, None)
    if not callable(make):
        options = [n for n, value in vars(module).items() if inspect.isroutine(value)]
        raise MixERValueError(
            f"{module_name} has no function or class {name!r}. It has: {', '.join(options)}."
        )
    if not bracket and classes:
        arguments, named = _with_classes(make, classes)
    _check_arguments(make, target, arguments, named)
    model = make(*arguments, **named)
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


def _with_classes(
    make: Callable[..., Any], classes: int
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The number of classes, as the argument that takes it; nothing where there is none."""
    signature = _signature(make)
    parameters = [] if signature is None else list(signature.parameters.values())
    named = next((p.name for p in parameters if p.name in CLASS_ARGUMENTS), None)
    if named is not None:
        return (), {named: classes}
    first = parameters[0] if parameters else None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return ((classes,) if first is not None and first.kind in positional else ()), {}


def _signature(make: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(make)
    except ValueError:  # of a function that is not written in Python
        return None


def _check_arguments(
    make: Callable[..., Any], target: str, arguments: Sequence[Any], named: Mapping[str, Any]
) -> None:
    signature = _signature(make)
    if signature is None:
        return
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:
        raise MixERValueError(
            f"{target}: {error}. Give plain values, module:function(395, option='value'), or write "
            "a function that makes the network into a file of your own, and name that."
        ) from error


def numbers_of(target: str) -> list[int]:
    """The whole numbers among the arguments of a target that is a call."""
    _, _, call = target.partition(":")
    given, named = _arguments(call) if "(" in call else ([], {})
    return [x for x in (*given, *named.values()) if type(x) is int]


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
