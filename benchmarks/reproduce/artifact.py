"""What a table or figure of the paper is made of, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixer_plugin.benchmarks.experiment.tables import Table
from mixer_plugin.benchmarks.reproduce.networks import Bench, Network


@dataclass(frozen=True)
class Picture:
    """A figure to be written.

    Attributes:
        name: of its files.
        figure: of Matplotlib.
        caption: what it shows, in words that need no other text.
    """

    name: str
    figure: Any
    caption: str


@dataclass(frozen=True)
class Made:
    """The content of a table or figure.

    Attributes:
        tables: for people.
        pictures: to be written.
        rows: for programs: a mapping for each measured number.
    """

    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A table or figure.

    Attributes:
        title: what it is.
        networks: returns the trained networks that it needs.
        make: measures these and returns the content.
        datasets: those that it is tested on beside the networks' own.
    """

    title: str
    networks: Callable[[Bench], list[Network]]
    make: Callable[[Bench], Made]
    datasets: tuple[str, ...] = ()
