"""YAML files of ``key: value`` lines."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mixer_plugin.errors import MixERTypeError, MixERValueError

_MOST = 10_000  # values of a file, each alias counted as often as it stands for something
# What PyYAML raises for text that is wrong, also after its own errors: `!!int x`, 2024-13-45.
_WRONG = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def read_yaml_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``key: value`` lines of a file; a file without any holds nothing.

    Raises:
        MixERValueError: for a file that is no UTF-8 text, not valid YAML or no mapping, for a key
            that stands twice, and for what YAML 1.1 reads otherwise than it looks: 010 is 8.
        OSError: if it cannot be read.
    """
    held = Path(path).read_bytes()
    try:
        text = held.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MixERValueError(f"{path} is not UTF-8 text ({error.reason}). Save it so.") from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        _count(node, {})
        values = loader.construct_document(node)
    except RecursionError:
        raise MixERValueError(f"{path} is not valid YAML here: it is nested too deeply.") from None
    except _WRONG as error:
        raise MixERValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise MixERValueError(
            f"{path} holds a {type(values).__name__}; expected `key: value` lines."
        )
    return values


def read_values(words: Iterable[str]) -> dict[str, Any]:
    """The values of ``NAME=VALUE`` words of a command line, each read as a YAML scalar.

    Raises:
        MixERValueError: for a word without ``=``, a name given twice, or a value that is no scalar.
    """
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals) or name in values:
            again = "a second time" if name in values else "without a value"
            raise MixERValueError(
                f"{name!r} is given {again}; expected NAME=VALUE, each name once."
            )
        try:
            values[name] = yaml.safe_load(text)
        except _WRONG:
            values[name] = text
        if isinstance(values[name], (dict, list)):
            raise MixERValueError(f"{word!r}: expected one value, got {values[name]!r}.")
    return values


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the values that a file holds begin with its name."""
    try:
        yield
    except (MixERValueError, MixERTypeError) as error:
        if not str(error).startswith(str(path)):
            error.args = (f"{path}: {error}",)
        raise


def _count(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Values below a node; refuses what would be read as something else than was written."""
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise yaml.YAMLError(f"a value that holds itself{node.start_mark}")
        return sizes[id(node)]
    sizes[id(node)] = 0
    size, inner = 1, []
    if isinstance(node, yaml.MappingNode):
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for (_, key), count in Counter(keys).items():
            if count > 1:
                raise yaml.YAMLError(f"the key {key!r} stands twice{node.start_mark}")
        inner = [each for pair in node.value for each in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif node.tag.endswith((":int", ":float")) and re.search(r"^[-+]?0[\d_]+$|:", node.value):
        raise yaml.YAMLError(
            f"{node.value} is a number of base 8 or 60 there; write it in base 10{node.start_mark}"
        )
    for each in inner:
        size += _count(each, sizes)
    if size > _MOST:
        raise yaml.YAMLError(f"more than {_MOST} values, aliases included{node.start_mark}")
    sizes[id(node)] = size
    return size
