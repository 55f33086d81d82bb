"""Readers, a writer and killed writers of one store, in threads and processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mixer_plugin.errors import MixERRuntimeError
from mixer_plugin.search import GalleryStore
from tests import processes, store_worker
from tests.search_cases import make

SEED = 5


def resident():
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run_together(folder, seconds, threads, others):
    """One writer, readers in threads and in other processes; returns memory on the way."""
    store = GalleryStore.create(folder, segment=store_worker.SEGMENT)
    children = [
        processes.start("-m", "tests.store_worker", folder, SEED, seconds) for _ in range(others)
    ]
    done, changes, memory = threading.Event(), [], []
    readers = [store_worker.Reader(SEED) for _ in range(threads)]
    with store, ThreadPoolExecutor(threads + 1) as pool:
        writer = pool.submit(
            store_worker.write, store, SEED, told=changes.append, until=done.is_set
        )
        try:
            reading = [pool.submit(reader.read, store, seconds) for reader in readers]
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(min(0.5, max(0.0, end - time.monotonic())))
                if os.path.exists("/proc/self/statm"):
                    memory.append(resident())
            counts = [each.result() for each in reading]
            said = processes.ends(children)
        finally:
            done.set()
        writer.result()
        store_worker.check_all(store, SEED)
    assert min(counts) > 0
    assert [status for status, _, _ in said] == [0] * others, said
    assert all(int(out) > 0 for _, out, _ in said)
    assert len(changes) > seconds
    return memory


def test_answers_are_those_of_some_state(tmp_path):
    run_together(tmp_path, 2, 8, 0)


@pytest.mark.endurance
def test_answers_are_those_of_some_state_for_a_minute(tmp_path):
    memory = run_together(tmp_path, 60, 6, 2)
    third = len(memory) // 3
    assert np.median(memory[-third:]) - np.median(memory[third : 2 * third]) < 20e6


def kill_writers(folder, kills, rng):
    """Kills a writing process at random moments; after each, what it had told of is there."""
    GalleryStore.create(folder, segment=40).close()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store_worker"])
    lost = 0
    for _ in range(kills):
        mine, its = context.Pipe(duplex=False)
        child = context.Process(target=store_worker.write_and_tell, args=(folder, SEED, its))
        child.start()
        its.close()
        told = [mine.recv()]  # it is at work
        time.sleep(rng.uniform(0, 0.15))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        try:
            while True:
                told.append(mine.recv())
        except (EOFError, OSError):
            pass
        with GalleryStore(folder) as store:
            change = store.stats()["changes"]
            # The last call may have been done, but not told of.
            assert told[-1] <= change <= told[-1] + 1
            lost += change == told[-1]
            store_worker.check_all(store, SEED)
            assert store.check() == []
    return lost


@pytest.mark.slow
def test_killed_writers(tmp_path):
    kill_writers(tmp_path, 5, np.random.default_rng(1))


@pytest.mark.endurance
def test_writers_killed_at_a_hundred_moments(tmp_path):
    assert kill_writers(tmp_path, 100, np.random.default_rng()) > 0


@pytest.mark.slow
def test_two_processes_may_write(tmp_path):
    code = (
        "import sys; from mixer_plugin.search import GalleryStore; "
        "from tests.search_cases import make; store = GalleryStore(sys.argv[1]); "
        "[store.add(make(3, i, paths=False)) for i in range(20)]"
    )
    GalleryStore.create(tmp_path, segment=30).close()
    others = [processes.start("-c", code, tmp_path) for _ in range(2)]
    with GalleryStore(tmp_path) as store:
        for step in range(20):
            store.add(make(2, step, paths=False))
        assert [status for status, _, _ in processes.ends(others)] == [0, 0]
        assert len(store) == 2 * 60 + 40
        assert sorted(store.search(make(1, 1), 200).keys[0][:160]) == list(range(160))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_share_a_store(tmp_path):
    with GalleryStore.create(tmp_path) as store:
        store.add(make(3))
        child = os.fork()
        if child == 0:
            try:
                len(store)
            except MixERRuntimeError as error:
                os._exit(0 if "open it again in this process" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert len(store) == 3
