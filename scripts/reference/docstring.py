"""Google docstrings as Markdown."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable

_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Examples?|Note):$", re.MULTILINE)
_ENTRY = re.compile(r"^(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*)(?: \(.*?\))?: ?", re.MULTILINE)
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?\.?([^`]+)`")


def plain(text: str, link: Callable[[str], str] = "`{}`".format) -> str:
    """Docstring markup as Markdown; ``link`` writes a reference to a name."""
    text = _ROLE.sub(lambda found: link(found[1]), text)
    return re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)


def sections(text: str) -> list[tuple[str, str]]:
    """(title, dedented text) of each section; the first has no title."""
    parts = _SECTION.split(text)
    rest = [_dedented(part) for part in parts[2::2]]
    found = [("", parts[0].strip())]
    for title, (body, after) in zip(parts[1::2], rest, strict=True):
        found.append((title, body))
        if after:
            found.append(("", after))
    return found


def _dedented(part: str) -> tuple[str, str]:
    """The indented lines of a section, and what stands behind them without an indent."""
    lines = part.strip("\n").split("\n")
    end = next((i for i, line in enumerate(lines) if line and line[0] != " "), len(lines))
    return textwrap.dedent("\n".join(lines[:end])).strip(), "\n".join(lines[end:]).strip()


def entries(body: str) -> list[tuple[str, str]]:
    """(name, text on one line) of each entry of a section such as Args."""
    parts = _ENTRY.split(body)
    texts = (" ".join(part.split()) for part in parts[2::2])
    return list(zip(parts[1::2], texts, strict=True))


def attributes(cls: type) -> dict[str, str]:
    """Text of each attribute that a class's docstring describes."""
    found = sections(inspect.getdoc(cls) or "")
    return dict(entry for title, body in found if title == "Attributes" for entry in entries(body))


def markdown(text: str, link: Callable[[str], str]) -> str:
    """A whole docstring."""
    blocks = []
    for title, body in sections(text):
        if not body:
            continue
        if title.startswith("Example"):
            blocks += ["**Example**", _example(body)]
        elif title in ("Args", "Attributes", "Raises") and entries(body):
            items = [f"* `{name}`: {plain(said, link)}" for name, said in entries(body)]
            blocks += [f"**{title}**", "\n".join(items)]
        elif title:
            blocks.append(f"**{title}**: {plain(' '.join(body.split()), link)}")
        else:
            blocks.append(_prose(body, link))
    return "\n\n".join(blocks)


def _example(body: str) -> str:
    """The text of an example; its lines of Python as a block."""
    blocks = [f"```pycon\n{part}\n```" if ">>>" in part else part for part in body.split("\n\n")]
    return "\n\n".join(blocks)


def _prose(body: str, link: Callable[[str], str]) -> str:
    """Paragraphs; an example among them is a block, and so is what is indented."""
    blocks = []
    for part in body.split("\n\n"):
        if part.lstrip().startswith(">>>"):
            blocks.append(f"```pycon\n{textwrap.dedent(part)}\n```")
        elif part.startswith("    "):
            blocks.append(f"```py\n{textwrap.dedent(part)}\n```")
        else:
            text = part[:-1] if part.endswith("::") else part
            blocks.append(plain(text, link))
    return "\n\n".join(blocks)


def cell(text: str) -> str:
    """A table's cell: on one line, its bars escaped."""
    return " ".join(text.replace("|", "\\|").split())
