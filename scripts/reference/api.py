"""The pages of the API: every public name with its signature, docstring, source and example."""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from docstring import markdown

# Modules without __all__, or besides it: the names of theirs that the pages of docs/ use.
BESIDES = {
    "mixer_plugin": {
        "mixer_plugin.attach": ("restore",),
        "mixer_plugin.checkpoints": ("load_checkpoint",),
        "mixer_plugin.errors": ("MixERWarning",),
        "mixer_plugin.extraction": ("Reading", "evaluate_checkpoint", "extract_to_file"),
    },
    "adapters": {"mixer_plugin.adapters.base": ("first_block",)},
    "distributed": {
        "mixer_plugin.distributed.gather": ("gather_rows",),
        "mixer_plugin.distributed.sync_batchnorm": ("synchronise_norms",),
    },
    "evaluation": {
        "mixer_plugin.evaluation.analysis.comparison": ("compare",),
        "mixer_plugin.evaluation.analysis.curves": ("gallery_curve", "mixing_curve", "plot_curve"),
        "mixer_plugin.evaluation.analysis.fairness": ("fair_report", "fair_systems", "judge"),
        "mixer_plugin.evaluation.analysis.label_noise": ("wrong_labels",),
        "mixer_plugin.evaluation.analysis.modality_bias": (
            *("camera_pairs", "modality_bias", "modality_pairs"),
        ),
    },
    "losses": {
        "mixer_plugin.losses": (
            *("center_cluster", "confusion", "fusion", "identity", "modality_identity_labels"),
            *("orthogonal",),
        )
    },
    "search": {
        "mixer_plugin.search.engines": ("EngineGallery", "MilvusEngine", "QdrantEngine"),
        "mixer_plugin.search.reduction": ("Reduction", "fit_reduction", "fit_reductions"),
    },
    "training": {"mixer_plugin.training.lightning": ("MixedGalleryEvaluation",)},
}
SHOWN_USES = 3  # pages
MAPPED = ("adapters", "baselines", "benchmarks")  # folders beside mixer_plugin/


def packages(root: Path) -> list[str]:
    """Names below ``mixer_plugin`` that say by ``__all__`` what is public, and those of BESIDES."""
    tops = [*(root / "mixer_plugin").iterdir(), *(root / name for name in MAPPED)]
    files = {path.stem: path / "__init__.py" if path.is_dir() else path for path in tops}
    found = {
        name
        for name, path in files.items()
        if name != "__init__" and path.is_file() and "\n__all__ = " in path.read_text("utf-8")
    }
    return ["mixer_plugin", *sorted(found | set(BESIDES) - {"mixer_plugin"})]


def public(package: str) -> dict[str, Any]:
    """Public names of a page's package, and what they are."""
    module = import_package(package)
    names = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    for path, more in BESIDES.get(package, {}).items():
        names |= {name: getattr(importlib.import_module(path), name) for name in more}
    return {name: names[name] for name in sorted(names, key=str.lower) if name[0] != "_"}


def import_package(package: str) -> ModuleType:
    """The package that a page is about."""
    top = package == "mixer_plugin"
    return importlib.import_module(package if top else f"mixer_plugin.{package}")


def pages(root: Path) -> dict[str, str]:
    """The text of each page, by its name, and of the page ``README`` that lists them."""
    members = {package: public(package) for package in packages(root)}
    owner: dict[str, str] = {}  # name → the page that describes it
    for package in [*list(members)[1:], "mixer_plugin"]:
        owner |= {name: package for name in members[package]}
    uses = used_in(root)
    makers = made_by(members)
    made = {
        package: _page(root, package, names, owner, uses, makers)
        for package, names in members.items()
    }
    return {**made, "README": _index(members)}


def used_in(root: Path) -> dict[str, list[str]]:
    """Names of ``mixer_plugin`` that the Python of a page of docs/ imports, and these pages."""
    found: dict[str, list[str]] = {}
    files = (root / "docs").rglob("*.md")
    for page in sorted(files, key=lambda path: ("integrations" in path.parts, path)):
        for _, name in imported(page.read_text(encoding="utf-8")):
            places = found.setdefault(name, [])
            if (path := page.relative_to(root / "docs").as_posix()) not in places:
                places.append(path)
    return found


def made_by(members: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Names of classes, and of the public functions and methods that return one."""
    found: dict[str, list[str]] = {}
    for name, value in (item for names in members.values() for item in names.items()):
        parts = {name: value}
        if inspect.isclass(value):
            parts = {f"{name}.{key}": one for key, one in vars(value).items() if key[0] != "_"}
        for path, one in parts.items():
            returned = str(getattr(one, "__annotations__", {}).get("return", ""))
            if returned != name and path not in found.setdefault(returned, []):
                found[returned].append(path)
    return found


def imported(text: str) -> Iterator[tuple[str, str]]:
    """(module, name) of what a page's Python imports from ``mixer_plugin``, or uses of a module."""
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mixer_plugin"):
                names = [alias.name for alias in node.names]
                yield from ((node.module or "", name) for name in names)
                for part in ast.walk(tree):  # losses.identity
                    if isinstance(part, ast.Attribute) and ast.unparse(part.value) in names:
                        yield ast.unparse(part.value), part.attr


def _index(members: dict[str, dict[str, Any]]) -> str:
    lines = ["# API", "", "Everything public, by the package it is imported from.", ""]
    lines += ["| package | names |", "|---|---|"]
    for package, names in members.items():
        links = ", ".join(f"[`{name}`]({package}.md#{name.lower()})" for name in names)
        lines.append(f"| [{_dotted(package)}]({package}.md) | {links} |")
    return "\n".join([*lines, ""])


def _dotted(package: str) -> str:
    return package if package == "mixer_plugin" else f"mixer_plugin.{package}"


def _page(
    root: Path,
    package: str,
    names: dict[str, Any],
    owner: dict[str, str],
    uses: dict[str, list[str]],
    makers: dict[str, list[str]],
) -> str:
    link = partial(_link, package, owner)
    doc = inspect.getdoc(import_package(package)) or ""
    parts = [f"# {_dotted(package)}", markdown(doc, link)]
    for name, value in names.items():
        parts.append(f"## {name}")
        if owner[name] != package:
            parts.append(f"See [{_dotted(owner[name])}]({owner[name]}.md#{name.lower()}).")
        else:
            parts += _described(root, name, value, link)
            if others := [link(other) for other in _with_example_of(name, names)]:
                parts.append(f"In the example of: {', '.join(others)}.")
            if pages := uses.get(name):
                shown = [f"[{use.removesuffix('.md')}](../../{use})" for use in pages[:SHOWN_USES]]
                parts.append(f"Used in: {', '.join(shown)}.")
            if inspect.isclass(value):
                if paths := makers.get(name):
                    parts.append(f"Returned by: {', '.join(link(path) for path in paths)}.")
                parts += _members(name, value, link)
    return "\n\n".join(parts) + "\n"


def _with_example_of(name: str, names: dict[str, Any]) -> list[str]:
    """Other names of a page whose examples use this one."""
    use = re.compile(rf"^ *(?:>>>|\.\.\.) .*\b{name}\b", re.MULTILINE)
    docs = {other: inspect.getdoc(value) or "" for other, value in names.items() if other != name}
    return [other for other, doc in docs.items() if use.search(doc)]


def _link(package: str, owner: dict[str, str], name: str) -> str:
    """A reference as a link, where a page describes the name or the class that has it."""
    first, last = name.split(".")[0], name.split(".")[-1]
    shown, place = (name, first) if first in owner else (last, last)
    if place not in owner:
        return f"`{last}`"
    page = "" if owner[place] == package else f"{owner[place]}.md"
    return f"[`{shown}`]({page}#{place.lower()})"


def _described(root: Path, name: str, value: Any, link: Callable[[str], str]) -> Iterator[str]:
    if not callable(value):
        yield f"`{', '.join(map(str, value))}`"
        return
    home = importlib.import_module(value.__module__).__file__ or ""
    path = Path(home).resolve().relative_to(root).as_posix()
    yield f"`from {_shortest(name, value)} import {name}` · [source](../../../{path})"
    if shown := signature(name, value):
        yield f"```py\n{shown}\n```"
    yield markdown(inspect.getdoc(value) or "", link)


def _members(name: str, value: type, link: Callable[[str], str]) -> Iterator[str]:
    """What a class has besides its constructor."""
    bases = [shown for base in value.__bases__ if (shown := link(base.__name__))[0] == "["]
    if bases:
        yield f"Extends {', '.join(bases)}."
    for method, own in sorted(_methods(value, link).items()):
        yield f"### {name}.{method}"
        if isinstance(own, property):
            yield "Property."
        else:
            yield f"```py\n{signature(method, getattr(value, method))}\n```"
        yield markdown(inspect.getdoc(getattr(value, method)) or "", link)


def _shortest(name: str, value: Any) -> str:
    """The module to import a name from: the outermost that has it."""
    parts = value.__module__.split(".")
    paths = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return next(
        path
        for path in paths
        if name in getattr(importlib.import_module(path), "__all__", ()) or path == ".".join(parts)
    )


def _methods(cls: type, link: Callable[[str], str]) -> dict[str, Any]:
    """Public methods and properties of a class, and what it has from bases that no page names."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        ours = base.__module__.startswith("mixer_plugin")
        if base is cls or (ours and link(base.__name__)[0] != "["):
            found |= vars(base)
    fields = (
        {item.name for item in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else ()
    )
    return {
        name: value
        for name, value in found.items()
        if name[0] != "_"
        and name not in fields
        and (inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod)))
    }


def signature(name: str, value: Any) -> str:
    """A signature as it stands in the source; of an enumeration its members; else nothing."""
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        return "\n".join(f"{name}.{item.name} = {item.value}" for item in value)
    if inspect.isclass(value) and issubclass(value, BaseException):
        return ""
    found = inspect.signature(value)
    shown, kind = [], None
    for one in found.parameters.values():
        if one.kind is one.KEYWORD_ONLY and kind not in (one.KEYWORD_ONLY, one.VAR_POSITIONAL):
            shown.append("*")
        kind = one.kind
        if one.name not in ("self", "cls"):
            shown.append(_parameter(one))
    returns = "" if found.return_annotation is found.empty else f" -> {found.return_annotation}"
    returns = "" if inspect.isclass(value) else returns
    line = f"{name}({', '.join(shown)}){returns}"
    if len(line) <= 88:
        return line
    return "\n".join([f"{name}(", *(f"    {one}," for one in shown), f"){returns}"])


def _parameter(one: inspect.Parameter) -> str:
    stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
    text = stars + one.name
    if one.annotation is not one.empty:
        text += f": {one.annotation}"
    if one.default is one.empty:
        return text
    name = getattr(one.default, "__name__", repr(one.default))
    return f"{text} = {'…' if name.startswith('<') else name}"
