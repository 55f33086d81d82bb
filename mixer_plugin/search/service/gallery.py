"""What a service needs of a gallery."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from mixer_plugin.features import FeatureSet
from mixer_plugin.search.keys import Key


class Found(Protocol):
    """What a search returns: see ``StoreHits``.

    Attributes:
        change: After how many changes the answer is exact; None: nobody counts them.
    """

    @property
    def change(self) -> int | None: ...  # noqa: D102
    def rows(self, query: FeatureSet) -> list[dict[str, Any]]: ...  # noqa: D102


class Gallery(Protocol):
    """Images of both modalities: ``GalleryStore``, ``EngineGallery``, or what does the same.

    Threads call it at once. What it cannot do raises ``MixERValueError`` or ``MixERTypeError``,
    which the service answers with 422; what may work later raises ``MixERRuntimeError``, answered
    with 503. A call that raises the first two has changed nothing.

    Attributes:
        rule: Name of the rule.
    """

    @property
    def rule(self) -> str: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __contains__(self, key: object) -> bool: ...
    def keys(  # noqa: D102
        self, filter: str | None = None, *, limit: int | None = None
    ) -> Sequence[Key]: ...
    def images(  # noqa: D102
        self, filter: str | None = None, *, limit: int | None = None
    ) -> list[dict[str, Any]]: ...
    def get(self, keys: Iterable[Key]) -> list[dict[str, Any]]: ...  # noqa: D102
    def features(self, keys: Iterable[Key]) -> FeatureSet: ...  # noqa: D102
    def add(  # noqa: D102
        self,
        features: FeatureSet,
        keys: Iterable[Key] | None = None,
        *,
        times: Iterable[float | None] | None = None,
        payloads: Iterable[dict[str, Any] | None] | None = None,
        upsert: bool = False,
    ) -> Sequence[Key]: ...
    def remove(self, keys: Iterable[Key]) -> None: ...  # noqa: D102
    def search(  # noqa: D102
        self,
        query: FeatureSet,
        k: int = 10,
        *,
        filter: str | None = None,
        exclude: Sequence[Sequence[Key]] | None = None,
        setting: str = "mix",
        threshold: float | None = None,
        group_by: str | None = None,
    ) -> Found: ...
