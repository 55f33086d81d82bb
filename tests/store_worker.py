"""A writer and readers of one store whose state after each call follows from the seed alone."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

from mixer_plugin import FeatureSet, scores
from mixer_plugin.search import GalleryStore
from tests.search_cases import make

POOL = 600
K = 10
SEGMENT = 150


def pool():
    """All images that ever come, by key, and ten queries."""
    return make(POOL, 7, paths=False), make(10, 8, paths=False)


def operations(seed):
    """Yields (kind, keys, state): what the n-th call does, and the keys then, in order of adding.

    Kinds: add, upsert, remove.
    """
    rng = np.random.default_rng(seed)
    alive = []
    while True:
        count = int(rng.integers(1, 20))
        kind = rng.choice(["add", "upsert", "remove"], p=[0.5, 0.15, 0.35])
        absent = sorted(set(range(POOL)) - set(alive))
        if kind == "add" and absent:
            keys = rng.choice(absent, min(count, len(absent)), replace=False).tolist()
        elif len(alive) > 100:
            keys = rng.choice(alive, count, replace=False).tolist()
            kind = "upsert" if kind == "upsert" else "remove"
        else:
            continue
        gone = set(keys)
        alive = [key for key in alive if key not in gone]
        if kind != "remove":
            alive = alive + keys
        yield str(kind), keys, alive


def apply(store, images, kind, keys):
    """Does what an operation says."""
    if kind == "remove":
        store.remove(keys)
    else:
        payloads = [{"key": key} for key in keys]
        store.add(images[keys], keys, times=keys, payloads=payloads, upsert=kind == "upsert")


def write(store, seed, *, after=0, told=lambda change: None, until=lambda: False):
    """Calls one operation after the other, from ``after`` on; ``told`` hears what is done."""
    images, _ = pool()
    for number, (kind, keys, _) in enumerate(operations(seed), start=1):
        if number <= after:
            continue
        if until():
            break
        apply(store, images, kind, keys)
        told(number)
        if number % 40 == 0:
            store.compact()


class Reader:
    """Searches, and compares with the state that the seed gives for the answer's change."""

    def __init__(self, seed):
        self.images, self.query = pool()
        self.matrix = scores(self.query, self.images).numpy()
        self.operations = operations(seed)
        self.change, self.alive = 0, []

    def state(self, change):
        """The keys after a change, which never goes back."""
        assert change >= self.change
        while self.change < change:
            self.alive = next(self.operations)[2]
            self.change += 1
        return self.alive

    def search(self, store, row, kind):
        """One search of one query; raises where it differs from the literal answer."""
        images, options = self.images, {}
        keep = np.ones(POOL, bool)
        if kind == "filter":
            options["filter"] = "camera in (1, 3) and not time < 100 and payload.key < 500"
            keep = np.isin(images.cams.numpy(), (1, 3))
            keep[:100] = keep[500:] = False
        if kind == "group":
            options["group_by"] = "id"
        before = store.stats()["changes"]
        hits = store.search(self.query[[row]], K, **options)
        after = store.stats()["changes"]
        assert before <= hits.change <= after
        keys = np.array([key for key in self.state(hits.change) if keep[key]], np.int64)
        order = np.lexsort((np.arange(len(keys)), -self.matrix[row, keys]))
        best = keys[order]
        if kind == "group":
            _, first = np.unique(images.ids.numpy()[best], return_index=True)
            best = best[np.sort(first)]
        best = best[:K]
        found = [key for key in hits.keys[0] if key is not None]
        assert len(found) == len(best) == len(set(found))
        assert set(found) <= set(keys.tolist())
        mine = hits.scores[0, : len(best)].numpy()
        np.testing.assert_allclose(mine, self.matrix[row, best], atol=2e-6)
        np.testing.assert_allclose(mine, self.matrix[row, found], atol=2e-6)
        payloads = [payload["key"] for payload in hits.payloads[0] if payload is not None]
        assert payloads == found

    def read(self, store, seconds):
        """Searches for some seconds; returns how often."""
        rng, end, count = np.random.default_rng(), time.monotonic() + seconds, 0
        while time.monotonic() < end:
            kind = rng.choice(["plain", "filter", "group"])
            self.search(store, int(rng.integers(len(self.query))), kind)
            count += 1
        return count


def check_all(store, seed):
    """Every image of the store, against the state that the seed gives for its change."""
    reader = Reader(seed)
    alive = reader.state(store.stats()["changes"])
    assert len(store) == len(alive)
    hits = store.search(reader.query, POOL)
    assert all({key for key in line if key is not None} == set(alive) for line in hits.keys)
    assert [image["time"] for image in store.get(alive)] == alive
    for row in range(3):
        reader.search(store, row, "plain")


def write_and_tell(folder, seed, pipe):
    """A process that writes until it is killed, and says after each call that it is done."""
    with GalleryStore(folder) as store:
        write(store, seed, after=store.stats()["changes"], told=pipe.send)


def main():
    """``read FOLDER SEED SECONDS``."""
    folder, seed, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    with GalleryStore(folder) as store:
        print(Reader(seed).read(store, seconds))


if __name__ == "__main__":
    assert isinstance(pool()[0], FeatureSet)
    main()
