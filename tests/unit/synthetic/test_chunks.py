"""Chunks in several processes: what an interruption keeps."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixer_plugin.data.synthetic import SyntheticConfig, chunks


def test_ctrl_c_while_the_second_process_starts_keeps_what_the_first_one_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, kept, ended = [chunks.Chunk(i, i + 1, np.zeros(1), ()) for i in range(2)], [], []

    class Pool:
        def __init__(self, *given: Any) -> None: ...

        def submit(self, *call: Any) -> Future[None]:
            if made[1] in call:
                raise KeyboardInterrupt
            done: Future[None] = Future()
            done.set_result(None)
            return done

        def shutdown(self, *, cancel_futures: bool) -> None:
            ended.append(cancel_futures)

    monkeypatch.setattr(chunks, "WorkerPool", Pool)
    monkeypatch.setattr(chunks, "_PIXELS_PER_PROCESS", 1)
    with pytest.raises(KeyboardInterrupt):
        chunks.write_chunks(tmp_path, SyntheticConfig(), made, None, 2, kept.append)
    assert kept == made[:1]
    assert set(ended) == {True}
