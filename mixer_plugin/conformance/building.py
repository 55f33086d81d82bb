"""Reads adapters from lines and files, and finds what makes networks in a checkout."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mixer_plugin import adapters
from mixer_plugin.adapters import Adapter, resolve_adapter
from mixer_plugin.errors import MixERValueError
from mixer_plugin.forward.build import CLASS_ARGUMENTS, parsed

ADAPTER_WORDS = (  # of a line that makes an adapter
    *("Cameras", "GeM", "GenericAdapter", "TwoStream"),
    *("class_token", "max_pool", "mean_pool", "patch_mean", "token_mean"),
)


def makers_in(folder: Path) -> list[str]:
    """``module:name`` of what may make a network in a checkout, found in the text of its files.

    These are classes that derive from something called ``Module`` and whose ``__init__`` takes a
    number of classes, and functions whose name begins with ``build_`` or ``make_model``; the ones
    nearest to the checkout's root come first.
    """
    found = []
    for path in sorted(folder.rglob("*.py"), key=lambda p: (len(p.parts), str(p))):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        try:
            tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        except (SyntaxError, ValueError):
            continue
        found += [f"{module}:{name}" for node in tree.body if (name := _name_of_maker(node))]
    return found


def _name_of_maker(node: ast.stmt) -> str | None:
    if isinstance(node, ast.ClassDef):
        takes_classes = any(
            isinstance(part, ast.FunctionDef)
            and part.name == "__init__"
            and any(a.arg in CLASS_ARGUMENTS for a in part.args.args)
            for part in node.body
        )
        is_module = any("Module" in ast.unparse(base) for base in node.bases)
        return node.name if takes_classes and is_module else None
    if isinstance(node, ast.FunctionDef) and node.name.startswith(("build_", "make_model")):
        return node.name
    return None


def read_adapter(text: str, model: nn.Module, folder: Path) -> Adapter:
    """The adapter that a text names.

    Args:
        text: a line ``GenericAdapter(…)`` of plain values, poolings and cameras of
            ``mixer_plugin.adapters``; ``FILE.py`` or ``FILE.py:NAME``, an adapter or a class of one
            in a file; or the name of a registered adapter.
        model: of ``auto`` and registered names.
        folder: that a relative path of a file starts from, else the current one.

    Raises:
        MixERValueError: for a line of other words, a file that is not there, or no adapter in it.
    """
    if "(" in text:
        tree = parsed(text)
        words = {name: getattr(adapters, name) for name in ADAPTER_WORDS}
        _check_words(tree, words, text)
        code = compile(ast.Expression(tree), "adapter", "eval")
        made = eval(code, {"__builtins__": {}}, words)
        if not isinstance(made, Adapter):
            raise MixERValueError(f"{text!r} makes no adapter; expected GenericAdapter(…).")
        return made
    path, _, name = text.partition(":")
    if path.endswith(".py"):
        return _from_file(path, name, folder)
    return resolve_adapter(model, text)


def _check_words(tree: ast.expr, words: Mapping[str, Any], text: str) -> None:
    plain = (ast.Call, ast.Constant, ast.Tuple, ast.List, ast.Set, ast.keyword, ast.Load)
    for node in ast.walk(tree):
        known = isinstance(node, ast.Name) and node.id in words
        sign = isinstance(node, (ast.UnaryOp, ast.USub))
        if not (known or sign or isinstance(node, plain)):
            raise MixERValueError(
                f"{ast.unparse(node)!r} in the line {text!r} is no plain value and none of "
                f"{', '.join(words)}. Put the adapter into a file and name that: FILE.py:NAME."
            )


def _from_file(path: str, name: str, folder: Path) -> Adapter:
    file = next((p for p in (Path(path), folder / path) if p.is_file()), None)
    if file is None:
        raise MixERValueError(f"No file {path!r}, neither here nor in {folder}.")
    # Known under its name, so that what is pickled of it is found again.
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    found = {n: a for n, v in vars(module).items() if (a := _as_adapter(v, module)) is not None}
    if name and name in found:
        return found[name]
    if not name and len(found) == 1:
        return next(iter(found.values()))
    options = ", ".join(found) or "none"
    raise MixERValueError(
        f"{file} has {'no adapter ' + repr(name) if name else str(len(found)) + ' adapters'}. "
        f"Adapters in it: {options}. Name one: {path}:NAME."
    )


def _as_adapter(value: Any, module: Any) -> Adapter | None:
    """An adapter, or one made of a class that the module defines itself and that takes nothing."""
    if isinstance(value, Adapter):
        return value
    own = isinstance(value, type) and value.__module__ == module.__name__
    if own and issubclass(value, Adapter):
        return value()
    return None
