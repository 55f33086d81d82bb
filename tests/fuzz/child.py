"""One process that reads damaged files at a door, limited in memory and in time per file.

``python -m tests.fuzz.child DOOR[,DOOR…] SECONDS SEED FOUND``: mutates sound files until the time
of each door is over; what fails is kept in the folder FOUND. ``python -m tests.fuzz.child corpus``:
reads what was kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st

from mixer_plugin.errors import MixERError
from tests.fuzz.doors import DOORS, Reads

CORPUS = Path(__file__).parent / "corpus"
MOST_BYTES = 2**30  # beyond what the process held before it read
MOST_SECONDS = 20
TOKENS = [
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b",", b"nan", b"inf", b"-1", b"1e999", b"0x1"),
    *(b"99999999999999999999", b"&a [*a]", b"!!python/object/apply:os.getcwd []", b"? ", b"'"),
    *(b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"..\\..", b"\xb8\xb4.jpg", b"\t"),
]
PLACES = st.integers(0, 2**31)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
        st.tuples(st.just("write"), PLACES, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("insert"), PLACES, st.sampled_from(TOKENS) | st.binary(max_size=8)),
        st.tuples(st.just("delete"), PLACES, st.integers(1, 64)),
        st.tuples(st.just("cut"), PLACES, st.just(0)),
        st.tuples(st.just("repeat"), PLACES, st.integers(1, 64)),
    ),
    min_size=1,
    max_size=6,
)


class Failure(AssertionError):
    """A file was not refused as it should be."""


class Over(KeyboardInterrupt):
    """The time is over; hypothesis would go on with every other exception."""


class Hang(BaseException):
    """A file took too long; no ``except Exception`` keeps it."""


def edited(content: bytes, edits: list[tuple[str, int, object]]) -> bytes:
    """The content after some edits."""
    data = bytearray(content)
    for kind, place, what in edits:
        at = place % (len(data) + 1)
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << what
        elif kind == "write":
            data[at : at + len(what)] = what
        elif kind == "insert":
            data[at:at] = what
        elif kind == "delete":
            del data[at : at + what]
        elif kind == "cut":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = data[at : at + what] * 3
    return bytes(data)


def try_file(path: Path, read: Callable[[], object]) -> None:
    """Reads one file: a value, or an error that names it.

    Raises:
        Failure: for anything else.
    """
    signal.alarm(MOST_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except MixERError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                raise Failure(f"memory beyond {MOST_BYTES} bytes: {error}") from error
            cause = cause.__cause__
        names = (path.stem, "query" if path.name == "names.txt" else path.parent.name)
        if not any(name in str(error) for name in names):
            raise Failure(f"no file name: {error}") from error
    except Hang as error:
        raise Failure(f"more than {MOST_SECONDS} seconds") from error
    except Exception as error:
        raise Failure(f"{type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)


def place_of(failure: Failure) -> tuple[object, ...]:
    """What tells one fault from another: the deepest line of the product."""
    frames = traceback.extract_tb(failure.__cause__.__traceback__ if failure.__cause__ else None)
    ours = [(f.filename, f.lineno) for f in frames if "mixer_plugin" in f.filename]
    return type(failure.__cause__), *(ours[-1:] or [str(failure)[:40]])


def limit() -> None:
    """Bounds memory from here on, and makes a timeout an exception."""

    def late(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, late)
    status = Path("/proc/self/status").read_text().splitlines()
    held = next(line for line in status if line.startswith("VmSize"))
    most = int(held.split()[1]) * 1024 + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def fuzz(door: str, seconds: float, seed: int, found: Path) -> int:
    """Mutates files until the time is over; the number of different faults."""
    faults, held, tried = set(), set(), 0
    with tempfile.TemporaryDirectory() as folder:
        reads: Reads = DOORS[door](Path(folder))
        sound = {path: path.read_bytes() for path in reads}
        order = list(reads)
        for read in reads.values():
            read()  # a sound file gives a value
        limit()
        end = time.monotonic() + seconds

        def check(path: Path, edits: list[tuple[str, int, object]]) -> None:
            nonlocal tried
            if time.monotonic() > end:
                raise Over
            tried += 1
            content = edited(sound[path], edits)
            kept = found / door / f"{order.index(path)}-{hashlib.sha256(content).hexdigest()[:12]}"
            kept.write_bytes(content)  # stays if the process ends here
            path.write_bytes(content)
            try:
                try_file(path, reads[path])
            except Failure as failure:
                if place_of(failure) not in faults:
                    smallest[:] = [(kept, content, failure)]
                    raise
            finally:
                path.write_bytes(sound[path])
                if kept not in held:
                    kept.unlink()

        # Hypothesis ends with the simplest failure, unless the time is over before.
        smallest: list[tuple[Path, bytes, Failure]] = []
        over, turns = False, itertools.count(seed)
        while not over:
            turn = next(turns)
            smallest.clear()
            run = hypothesis.seed(turn)(hypothesis.given(st.sampled_from(order), EDITS)(check))
            run = hypothesis.settings(
                max_examples=5000,
                database=None,
                deadline=None,
                print_blob=False,
                phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
                report_multiple_bugs=False,
                suppress_health_check=list(hypothesis.HealthCheck),
            )(run)
            try:
                with contextlib.suppress(Failure):
                    run()
            except Over:
                over = True
            for kept, content, failure in smallest:
                faults.add(place_of(failure))
                held.add(kept)
                kept.write_bytes(content)
                print(f"{kept}: {failure}", flush=True)
                traceback.print_exception(failure.__cause__, limit=-3)
    print(f"{door}: {tried} files, {len(faults)} faults", flush=True)
    return len(faults)


def in_fork(work: Callable[[], int]) -> int:
    """The status of a process that is a copy of this one: a door's memory limit is its own."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        os._exit(min(work(), 1))
    finally:  # of an exception that is no fault
        traceback.print_exc()
        os._exit(2)


def read_corpus() -> int:
    """Reads every kept file; the number of those that fail."""
    failed = 0
    with tempfile.TemporaryDirectory() as root:
        for door in sorted(path.name for path in CORPUS.iterdir() if path.is_dir()):
            (Path(root) / door).mkdir()
            reads = DOORS[door](Path(root) / door)
            order = list(reads)
            for read in reads.values():
                read()
            for kept in sorted((CORPUS / door).iterdir()):
                path = order[int(kept.name.partition("-")[0])]
                sound = path.read_bytes()
                path.write_bytes(kept.read_bytes())
                print(f"{door}/{kept.name}", flush=True)  # the last line, if the process ends here
                try:
                    try_file(path, reads[path])
                except Failure as failure:
                    failed += 1
                    print(f"FAILS {failure}", flush=True)
                finally:
                    path.write_bytes(sound)
    return failed


if __name__ == "__main__":
    if sys.argv[1] == "corpus":
        limit()
        sys.exit(read_corpus() > 0)
    names, seconds, seed, folder = sys.argv[1:]
    faults = [
        in_fork(lambda name=name: fuzz(name, float(seconds), int(seed), Path(folder)))
        for name in names.split(",")
    ]
    sys.exit(any(faults))
