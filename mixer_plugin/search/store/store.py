"""``GalleryStore``: a gallery in a folder that is searched while others add to it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from mixer_plugin.errors import MixERValueError, MixERWarning, check_least
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.folder import make_folder
from mixer_plugin.search.faiss_index import check_parameters
from mixer_plugin.search.filter_grammar import Expression, parse_filter
from mixer_plugin.search.gpu import import_faiss
from mixer_plugin.search.keys import Key, distinct_keys, key_list
from mixer_plugin.search.request import make_request
from mixer_plugin.search.store.additions import check_addition
from mixer_plugin.search.store.database import FILE, Database, StoreSettings, read_counters
from mixer_plugin.search.store.hits import StoreHits, image_fields
from mixer_plugin.search.store.rows import damaged_keys, images_of_rows, rows_of_keys
from mixer_plugin.search.store.searching import rows_kept, search_state
from mixer_plugin.search.store.segments import list_segments
from mixer_plugin.search.store.state import EMPTY, State, caught_up
from mixer_plugin.search.store.stored_features import stored_features
from mixer_plugin.search.store.upkeep import compact_segments, repair_segments, seal_when_full
from mixer_plugin.search.store.writing import add_images, known_rows, remove_images
from mixer_plugin.search.vectors import searchable


class GalleryStore:
    """A gallery of both modalities in a folder, changed and searched by threads and processes.

    Scores and rules are those of ``MixedModalIndex``. What a call has added or removed when it
    returns is on disk and survives the end of the process at any moment; a call that raises or is
    killed has changed nothing. A search sees the state after some call, never half of one, and
    does not wait for others that add; every process that has the folder open finds the images at
    its next search.

    With ``Flat`` the result is exact, up to rounding of float32 sums, and needs no FAISS; equal
    scores come in the order of adding. With another factory string the images of a full segment
    go to a FAISS index; those after the last one, and those of a filter that keeps few, are still
    compared one by one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a store.

        Args:
            path: Its folder; on a disk of this machine, since SQLite locks files.

        Raises:
            MixERValueError: No store is there, or it is of another version.
            MissingExtraError: Its factory is not ``Flat``, and FAISS is not installed.
        """
        self.path = Path(path)
        if not (self.path / FILE).is_file():
            raise MixERValueError(
                f"{self.path} holds no store; make one with GalleryStore.create or "
                "`mixer-plugin store add`."
            )
        self._database = Database(self.path)
        self.settings = self._database.settings()
        if self.settings.factory != "Flat":
            import_faiss()
        self._state = EMPTY
        self._catching_up = threading.Lock()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        rule: str = "mixer",
        factory: str = "Flat",
        *,
        calibration: str | None = None,
        parameters: str = "",
        segment: int = 65_536,
    ) -> GalleryStore:
        """Makes an empty store and opens it.

        Args:
            path: Its folder, made where it is missing; on a disk of this machine.
            rule: As of ``MixedModalIndex``; statistics are likewise those of the first set added.
            factory: FAISS factory string, such as ``IVF1024,PQ64`` or ``IVF4096,SQ8``. It is
                trained on the first segment of each modality.
            calibration: None or ``center``.
            parameters: FAISS search parameters, such as ``nprobe=16``.
            segment: Number of new images that are put into a segment, a file of their vectors, as
                soon as there are so many.

        Raises:
            MixERValueError: There is a store, or a setting is unknown.
            MissingExtraError: The factory needs FAISS, which is not installed.
        """
        searchable(rule, calibration)
        check_parameters(parameters)
        check_least("segment", segment)
        if factory != "Flat":
            import_faiss()
        settings = StoreSettings(
            rule=rule,
            factory=factory,
            calibration=calibration,
            parameters=parameters,
            segment=segment,
        )
        Database.create(make_folder(Path(path)), settings)
        return cls(path)

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Whether a folder holds a store."""
        return (Path(path) / FILE).is_file() and Database(Path(path)).is_made()

    def __enter__(self) -> GalleryStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of images that can be found."""
        with self._database.reading() as connection:
            return read_counters(connection).images

    @property
    def rule(self) -> str:
        """Name of the rule."""
        return self.settings.rule

    def __repr__(self) -> str:
        return f"GalleryStore({str(self.path)!r}, rule {self.settings.rule})"

    def add(
        self,
        features: FeatureSet,
        keys: Iterable[Key] | None = None,
        *,
        times: Iterable[float | None] | None = None,
        payloads: Iterable[dict[str, Any] | None] | None = None,
        upsert: bool = False,
    ) -> list[Key]:
        """Adds images; on disk when it returns, nothing is added when it raises.

        Args:
            features: N images; below 0, an identity is unknown.
            keys: N whole numbers or texts, by which images are removed and known later. None:
                their paths; without paths numbers from 0 on, none given out twice.
            times: N times in seconds since 1970, None where unknown.
            payloads: N dictionaries of what JSON has, None where there is none.
            upsert: Whether an image takes the place of the one that has its key; it counts as
                added now.

        Returns:
            The N keys.

        Raises:
            MixERValueError: A key is in the store already (without ``upsert``) or given twice,
                lengths differ, or the features do not fit, as of ``MixedModalIndex.add``.
            MixERTypeError: A key, time or payload is of another kind.
        """
        addition = check_addition(features, keys, times, payloads)
        if not len(features):
            return []
        with self._database.writing() as connection:
            added = add_images(connection, self.settings, features.to("cpu"), addition, upsert)
        self._warn(seal_when_full(self._database, self.path, self.settings))
        return added

    def remove(self, keys: Iterable[Key]) -> None:
        """Removes images; on disk when it returns, nothing is removed when it raises.

        Raises:
            MixERValueError: A key is not in the store or given twice.
            MixERTypeError: A key is of another kind.
        """
        given = distinct_keys(keys)
        with self._database.writing() as connection:
            remove_images(connection, given)

    def __contains__(self, key: object) -> bool:
        (known,) = key_list([key])  # type: ignore[list-item]
        with self._database.reading() as connection:
            return bool(rows_of_keys(connection, [known]))

    def keys(
        self, filter: str | Expression | None = None, *, limit: int | None = None
    ) -> list[Key]:
        """The keys of the images that a filter keeps, in the order of adding.

        Arguments and errors as of ``images``.
        """
        return [image["key"] for image in self.images(filter, limit=limit)]

    def images(
        self, filter: str | Expression | None = None, *, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """What is known of the images that a filter keeps, as of ``get``, in the order of adding.

        Args:
            filter: None: all images.
            limit: How many at most, the first ones; None: all.

        Raises:
            MixERTypeError: The filter is neither a text nor an expression.
            MixERValueError: The filter cannot be read (the message points at the place), or
                ``limit`` is below 1.
        """
        expression = None if filter is None else parse_filter(filter)
        if limit is not None:
            check_least("limit", limit)
        with self._reading() as (connection, state):
            rows = rows_kept(state, connection, expression)[:limit]
            images = images_of_rows(connection, rows)
        return [image_fields(images[row]) for row in rows]

    def get(self, keys: Iterable[Key]) -> list[dict[str, Any]]:
        """What is known of images: key, id, camera, modality, time, path and payload.

        Raises:
            MixERValueError: A key is not in the store or given twice.
            MixERTypeError: A key is of another kind.
        """
        given = distinct_keys(keys)
        with self._database.reading() as connection:
            found = known_rows(connection, given, "nothing was read")
            images = images_of_rows(connection, found)
        return [image_fields(images[row]) for row in found]

    def features(self, keys: Iterable[Key]) -> FeatureSet:
        """Features of images, in the order of ``keys``; they can be searched for as queries.

        Each feature, float32, has length 1. What the rule does not use with an image's modality is
        not kept, and is zero here: such as the erased features under the rule ``related``.

        Raises:
            MixERValueError: A key is not in the store or given twice, its vector is damaged, or
                there is no key.
            MixERTypeError: A key is of another kind.
        """
        given = distinct_keys(keys)
        if not given:
            raise MixERValueError("There is no key; give at least one.")
        with self._database.reading() as connection:
            return stored_features(connection, self.settings, given)

    def search(
        self,
        query: FeatureSet,
        k: int = 10,
        *,
        filter: str | Expression | None = None,
        exclude: Sequence[Sequence[Key]] | None = None,
        setting: str = "mix",
        threshold: float | None = None,
        group_by: str | None = None,
    ) -> StoreHits:
        """The k best images of each query, of both modalities in one list.

        Args:
            query: Q images of one modality or both.
            k: Length of the lists.
            filter: Which images may be found, such as ``camera in (1, 2)``; see
                ``mixer_plugin.search.filter_grammar``. It is applied before ranking.
            exclude: For each query the keys that must not come back, such as its own; keys that
                the store does not have are ignored.
            setting: As of ``MixedModalIndex.search``.
            threshold: The least score of a hit.
            group_by: ``id`` or ``payload.NAME``: only the best image of each person, or of each
                value. Images of unknown persons, or without a value, stand alone.

        Returns:
            The hits; short lists are padded.

        Raises:
            MixERTypeError: An argument is of another kind.
            MixERValueError: The query does not fit the gallery, ``k`` is below 1, the filter
                cannot be read (the message points at the place), ``exclude`` has another length
                than the query, or the setting or group is unknown.
        """
        request = make_request(len(query), k, filter, exclude, setting, threshold, group_by)
        with self._reading() as (connection, state):
            return search_state(state, connection, self.settings, query, request)

    def compact(self) -> None:
        """Drops what was removed and puts the images of each modality in one segment.

        Others search meanwhile; those that add wait. It takes as long as reading all vectors, and
        up to twice the folder's size on disk until it is done.
        """
        self._warn(compact_segments(self._database, self.path, self.settings))

    def check(self) -> list[Key]:
        """Reads every vector; returns the keys of the images whose vectors are damaged."""
        with self._database.reading() as connection:
            return damaged_keys(connection)

    def stats(self) -> dict[str, Any]:
        """Counts and settings of the store, as JSON has them.

        ``images``: images that can be found; ``changes``: calls that added or removed any;
        ``segments``: number of segments; ``segment_images``: images in their files, which may
        include removed ones; ``unsealed``: images added since the last segment; ``bytes``: size of
        the folder; and the settings that ``create`` was given.
        """
        with self._database.reading() as connection:
            counters = read_counters(connection)
            segments = list_segments(connection)
            count = "SELECT count(*) FROM images WHERE row > ?"
            (unsealed,) = connection.execute(count, (counters.sealed,)).fetchone()
        sizes = []
        for file in self.path.iterdir():
            with contextlib.suppress(FileNotFoundError):  # a writer has dropped it
                sizes.append(file.stat().st_size)
        return {
            "images": counters.images,
            "changes": counters.change,
            "segments": len(segments),
            "segment_images": sum(each.images for each in segments),
            "unsealed": unsealed,
            "bytes": sum(sizes),
            **vars(self.settings),
        }

    def close(self) -> None:
        """Closes the store; what a call has added or removed is on disk already."""
        self._database.close()
        self._state = EMPTY

    @contextlib.contextmanager
    def _reading(self) -> Iterator[tuple[sqlite3.Connection, State]]:
        """A transaction and the state that it sees."""
        with self._database.reading() as connection:
            # Who waits here has no transaction yet: the state is never ahead of what it will see.
            with self._catching_up:
                before = self._state
                state = self._state = caught_up(before, connection, self.path)
            lost = state.lost[len(before.lost) :] if state is not before else ()
            images = images_of_rows(connection, lost)
            self._warn(
                f"The vector of {image.key!r} is damaged, and searches do not find it; add the "
                "image again with upsert=True, or remove it."
                for image in images.values()
            )
            yield connection, state
        if state.damaged and state.damaged != before.damaged:
            self._warn(repair_segments(self._database, self.path, self.settings, state.damaged))

    def _warn(self, texts: Iterable[str]) -> None:
        for text in texts:
            warnings.warn(f"{self.path}: {text}", MixERWarning, stacklevel=4)
