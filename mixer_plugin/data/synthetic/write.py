"""Writes synthetic data sets: over processes, beside the target, resumable."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.datasets.image_checks import require_pillow
from mixer_plugin.data.synthetic.chunks import Chunk, write_chunks
from mixer_plugin.data.synthetic.config import VERSION, SyntheticConfig, digest
from mixer_plugin.data.synthetic.layouts import Listing, list_files
from mixer_plugin.errors import MissingExtraError, MixERValueError, check_least
from mixer_plugin.io.atomic_write import write_json

_CARD = "synthetic.json"
_FINISHED = "finished.txt"
_CHUNK_PIXELS = 2**22  # what is lost when a run is interrupted, and held in memory by a process
_CHUNK_IMAGES = 512


@dataclass(frozen=True, kw_only=True)
class WrittenSet:
    """A data set that ``write_layout`` wrote.

    Attributes:
        root: Folder of the data set.
        images: Number of images; a layout with copies has more image files.
        reused: True if the folder already held exactly this data set and nothing was written.
        continued: Images that an interrupted run had finished before.
    """

    root: Path
    images: int
    reused: bool
    continued: int = 0


def write_layout(
    root: str | os.PathLike[str],
    config: SyntheticConfig,
    layout: str,
    *,
    quality: int | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> WrittenSet:
    """Writes a data set in a released layout.

    * ``sysu``: ``cam{1..6}/{pid:04d}/{number:04d}.jpg``, ``exp/{train,val,test,available}_id.txt``
      (ids on one line, comma separated) and ``exp/rand_perm_cam.mat`` (ten draws of the gallery).
    * ``regdb``: bitmaps ``{Visible,Thermal}/{pid}/…bmp`` and ``idx/{train,test}_{visible,thermal}_
      {1..10}.txt`` (``path label``): ten random halves of the identities.
    * ``llcm``: ``{vis,nir}/{pid:04d}/…jpg`` of nine cameras, ``idx/{train,test}_{vis,nir}.txt``,
      ``idx/test_id.txt``, and copies of the test images in ``test_{vis,nir}/cam{1..9}/{pid:04d}/``.
    * ``market``: ``bounding_box_train``, ``query``, ``bounding_box_test`` with distractors
      (identity 0000) and junk (-1); visible images only.

    ``synthetic.json`` says what the set is. Everything is written to ``ROOT.partial``, which is
    renamed at the end: a root that exists is complete. An interrupted call leaves ``ROOT.partial``,
    and the same call continues there. A second process that writes the same root waits for the
    first one.

    Args:
        root: Folder to create. One that already holds exactly this data set is reused.
        config: The data set; ``layout_config`` gives a layout's usual numbers of images.
        layout: ``sysu``, ``regdb``, ``llcm`` or ``market``.
        quality: JPEG quality, 1 to 95 (default 95); bitmaps have none.
        workers: Processes that render and encode, at most: this one alone where it is as fast.
            Others are started afresh, so that a script needs its ``if __name__ == "__main__":``.
        progress: Called with (images written, images in all) after every chunk.

    Returns:
        Where the data set is, its size, and what was there before.

    Raises:
        MixERValueError: ``root`` or ``ROOT.partial`` holds something else, the configuration does
            not fit the layout, or an argument is out of range.
        MixERRuntimeError: A worker process died.
        MissingExtraError: Pillow or, for ``sysu``, SciPy is not installed.
    """
    _require(layout)
    check_least("workers", workers)
    listing = list_files(config, layout)
    content = _content(config, layout, quality, len(listing.rows))
    root = Path(root).absolute()
    if root.is_symlink():  # the link stays
        root = root.resolve()
    total = len(listing.rows)
    if _holds(root, content):
        return WrittenSet(root=root, images=total, reused=True)
    aside = root.with_name(f"{root.name}.partial")
    with _alone(aside):
        if _holds(root, content):  # another process wrote it while this one waited
            with contextlib.suppress(OSError):
                aside.rmdir()  # an empty one, made by this call
            return WrittenSet(root=root, images=total, reused=True)
        finished = _begin(aside, content, total)
        before = int(finished.sum())
        with (aside / _FINISHED).open("a") as record:

            def note(chunk: Chunk) -> None:
                record.write(f"{chunk.start} {chunk.stop}\n")
                record.flush()
                finished[chunk.start : chunk.stop] = True
                if progress is not None:
                    progress(int(finished.sum()), total)

            step = min(_CHUNK_IMAGES, max(1, _CHUNK_PIXELS // (config.height * config.width)))
            spans = [(start, min(start + step, total)) for start in range(0, total, step)]
            chunks = [
                Chunk(start, stop, listing.rows[start:stop], listing.paths[start:stop])
                for start, stop in spans
                if not finished[start:stop].all()
            ]
            write_chunks(aside, config, chunks, content.get("quality"), workers, note)
        _write_splits(aside, listing)
        if root.is_dir():
            root.rmdir()  # _holds saw that it is empty
        aside.rename(root)
        (root / _FINISHED).unlink()
    return WrittenSet(root=root, images=total, reused=False, continued=before)


def _require(layout: str) -> None:
    require_pillow("Writing synthetic images")
    if layout == "sysu":
        try:
            import scipy.io  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("scipy", "demo", "Writing rand_perm_cam.mat") from error


def _content(
    config: SyntheticConfig, layout: str, quality: int | None, images: int
) -> dict[str, Any]:
    """The content of ``synthetic.json``; two sets are the same if it is equal."""
    content: dict[str, Any] = {
        "generator": "mixer-plugin",
        "config": config.to_dict(),
        "version": VERSION,
        "digest": digest(config),
    }
    if layout != "sysu":
        content["layout"] = layout
    if layout == "regdb":
        if quality is not None:
            raise MixERValueError("RegDB's images are bitmaps: leave quality out.")
    else:
        content["quality"] = 95 if quality is None else quality
        if not 1 <= content["quality"] <= 95:
            raise MixERValueError(f"quality must be in [1, 95] (JPEG), got {quality}.")
    return {**content, "images": images}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes and locks the folder; waits while another process has the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        # A file system without locks: two processes write the same bytes to the same files, and
        # the slower one fails at the end.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _begin(aside: Path, content: dict[str, Any], total: int) -> NDArray[np.bool_]:
    """Which images an interrupted run has finished: [n]."""
    finished = np.zeros(total, dtype=np.bool_)
    if not _holds(aside, content, unfinished=True):
        write_json(aside / _CARD, content, indent=2)
    with contextlib.suppress(FileNotFoundError):
        for line in (aside / _FINISHED).read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # the last line may be cut off
                start, stop = map(int, line.split())
                finished[start:stop] = True
    return finished


def _write_splits(root: Path, listing: Listing) -> None:
    for name, text in listing.texts.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    if listing.permutation is not None:
        import scipy.io

        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"rand_perm_cam": listing.permutation})
        (root / "exp" / "rand_perm_cam.mat").write_bytes(buffer.getvalue())


def _holds(root: Path, content: dict[str, Any], *, unfinished: bool = False) -> bool:
    """Whether ``root`` holds this data set, or a part of it; raises if it holds anything else."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise MixERValueError(f"{root} is a file; expected a folder to create.")
    if not any(root.iterdir()):
        return False
    try:
        found = json.loads((root / _CARD).read_text())
    except (OSError, ValueError):
        found = None
    if found == content:
        return True
    kind, holds = "a", "holds"
    if unfinished:
        kind, holds = "an unfinished", "is the unfinished part of"
    if not isinstance(found, dict):
        raise MixERValueError(
            f"{root} is not empty and holds no readable {_CARD}: it is not {kind} synthetic data "
            f"set. {'Remove it, or give' if unfinished else 'Give'} another folder."
        )
    raise MixERValueError(
        f"{root} {holds} another synthetic data set: it differs in {_difference(found, content)}. "
        "Give another folder, or remove this one."
    )


def _difference(found: dict[str, Any], content: dict[str, Any]) -> str:
    then, now = _settings(found), _settings(content)
    changed = sorted(
        f"{key} (there {then.get(key)!r}, asked {now.get(key)!r})"
        for key in {*now, *then} - {"config", "digest"}
        if now.get(key) != then.get(key)
    )
    return ", ".join(changed) or "the strengths of the factors (digest)"


def _settings(card: dict[str, Any]) -> dict[str, Any]:
    config = card.get("config")
    return {"layout": "sysu", **card, **(config if isinstance(config, dict) else {})}
