"""Threads share a gallery in an engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.search.engines import EngineGallery, QdrantEngine
from tests.search_cases import check, make, ranked

GALLERY, QUERY = make(150), make(4, 1)


def work(made, number):
    """Adds, finds and removes images of its own; searches of the others' base stay exact."""
    own = replace(make(4, 30 + number), paths=None)
    for count in range(4):
        keys = [1000 * (number + 1) + 4 * count + i for i in range(4)]
        made.add(own, keys, times=[float(number)] * 4)
        mine = made.search(own, 1, filter=f"time == {number}")
        assert mine.keys[:, 0].tolist() == keys
        assert [image["key"] for image in made.get(keys)] == keys
        made.remove(keys)
        assert keys[0] not in made
        one = QUERY[[number]]
        base = made.search(one, 9, filter="not time >= 0")
        check(base, ranked(one, GALLERY), 9, atol=2e-6)
    return number


def together(made):
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(work, made, number) for number in range(4)]
        assert [job.result() for job in jobs] == [0, 1, 2, 3]
    assert made.keys() == [*range(150)]
    assert made.images(limit=3) == made.get([0, 1, 2])


def test_threads_add_search_and_remove_at_once(new_engine):
    together(EngineGallery.create(new_engine(), GALLERY))


def test_threads_share_a_folder_of_qdrant_that_another_client_finds_taken(tmp_path):
    pytest.importorskip("qdrant_client", reason="needs the extra 'qdrant'")
    engine = QdrantEngine.connect(str(tmp_path / "vectors"), "gate")
    made = EngineGallery.create(engine, GALLERY)
    together(made)
    with pytest.raises(MixERRuntimeError, match=r"vectors did not do what was asked .*already acc"):
        QdrantEngine.connect(str(tmp_path / "vectors"), "gate")
    made.close()
    with pytest.raises(MixERRuntimeError, match=r"vectors did not do what was asked .*closed"):
        made.search(QUERY)
    engine = QdrantEngine.connect(str(tmp_path / "vectors"), "gate")
    with closing(EngineGallery.open(engine)) as again:
        check(again.search(QUERY, 9), ranked(QUERY, GALLERY), 9, atol=2e-6)


def test_of_threads_that_add_the_same_key_one_succeeds(new_engine):
    made = EngineGallery.create(new_engine(), GALLERY)

    def add(row):
        try:
            return made.add(GALLERY[[row]], [500])
        except MixERValueError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        done = [*pool.map(add, range(8))]
    assert done.count([500]) == 1
    assert sum("Key 500 is in the collection already" in each for each in done) == 7
