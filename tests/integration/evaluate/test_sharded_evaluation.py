"""Evaluation under ``torchrun``: the same numbers, to the last digit, as one process alone."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from mixer_plugin.matching import similarity
from tests.integration.evaluate import evaluate_worker

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch with gloo"
)


def torchrun(processes: int, *arguments: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_gives_identical_json(processes, tmp_path, monkeypatch):
    torchrun(
        processes,
        str(Path(__file__).with_name("evaluate_worker.py")),
        str(tmp_path),
    )
    monkeypatch.setitem(similarity._TILE, "cpu", 48)
    alone = evaluate_worker.run("auto")
    assert '"mAP"' in alone
    for shard in ("rows", "gallery"):
        for rank in range(processes):
            made = (tmp_path / f"{shard}-{processes}-{rank}.json").read_text()
            assert made == alone, (shard, rank)


def cli(*arguments: str) -> list[str]:
    return ["-m", "mixer_plugin.cli", "evaluate", *arguments]


@pytest.mark.slow
def test_the_command_prints_the_same_with_any_number_of_processes(tmp_path):
    features = evaluate_worker.make("random", 120)
    features.save(tmp_path / "one.npz")
    dataclasses.replace(features, erased=features.erased.sign()).save(tmp_path / "two.npz")
    given = [str(tmp_path / "one.npz"), str(tmp_path / "two.npz"), "--format", "json"]
    given += ["--protocol", "sysu/all/single@ye", "--trials", "2", "--settings", "mix,uni"]
    given += ["--fair", "--diagnostics", "--audit", "5", "--against", given[0]]

    def written(folder: str) -> dict[str, bytes]:
        at = tmp_path / folder
        return {str(p.relative_to(at)): p.read_bytes() for p in at.rglob("*") if p.is_file()}

    alone = subprocess.run(
        [sys.executable, *cli(*given, "--out", str(tmp_path / "1"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.count("\n") == 2
    assert len(written("1")) == 2 * 10
    for processes, shard in ((2, "gallery"), (4, "rows")):
        out = ["--out", str(tmp_path / str(processes)), "--shard", shard]
        assert torchrun(processes, *cli(*given, *out)) == alone.stdout
        assert written(str(processes)) == written("1")


@pytest.mark.slow
@pytest.mark.parametrize("lone", [None, 1])
def test_what_fails_ends_all_processes_with_one_message(lone, tmp_path):
    """In all of them, or in the second alone, which must not leave the first waiting."""
    evaluate_worker.make("random", 50).save(tmp_path / "one.npz")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in (0, 1):
        name = "none.npz" if lone in (None, rank) else "one.npz"
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": port}
        place |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        started.append(
            subprocess.Popen(
                [sys.executable, *cli(str(tmp_path / name), "--settings", "mix")],
                env=os.environ | place,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [2, 2]
    assert [out for out, _ in ended] == ["", ""]
    said = ["mixer-plugin evaluate: " in err for _, err in ended]
    assert said == [lone is None, lone is not None]
    assert "none.npz is not a file" in "".join(err for _, err in ended)
