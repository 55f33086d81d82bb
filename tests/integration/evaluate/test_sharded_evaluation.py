"""Evaluation under ``torchrun``: the same numbers, to the last digit, as one process alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch.distributed as dist

from mixer_plugin.matching import similarity
from tests.integration.evaluate import evaluate_worker
from tests.processes import ends, pair, run, torchrun

COMMAND = ("-m", "mixer_plugin.cli", "evaluate")

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch with gloo"
)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [3, pytest.param(4, marks=pytest.mark.endurance)])
def test_any_number_of_processes_gives_identical_json(processes, tmp_path, monkeypatch):
    worker = Path(__file__).with_name("evaluate_worker.py")
    done = torchrun(worker, tmp_path, processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setitem(similarity._TILE, "cpu", 48)
    alone = evaluate_worker.run("auto")
    assert '"mAP"' in alone
    for shard in ("rows", "gallery"):
        for rank in range(processes):
            made = (tmp_path / f"{shard}-{processes}-{rank}.json").read_text()
            assert made == alone, (shard, rank)


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

    alone = run(*COMMAND, *given, "--out", tmp_path / "1")
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.count("\n") == 2
    assert len(written("1")) == 2 * 14
    for processes, shard in ((2, "gallery"), (4, "rows")):
        out = ["--out", tmp_path / str(processes), "--shard", shard]
        done = torchrun(*COMMAND, *given, *out, processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout == alone.stdout
        assert written(str(processes)) == written("1")


@pytest.mark.slow
@pytest.mark.parametrize("lone", [None, 1])
def test_what_fails_ends_all_processes_with_one_message(lone, tmp_path):
    """In all of them, or in the second alone, which must not leave the first waiting."""
    evaluate_worker.make("random", 50).save(tmp_path / "one.npz")
    names = ["none.npz" if lone in (None, rank) else "one.npz" for rank in (0, 1)]
    words = [(*COMMAND, tmp_path / name, "--settings", "mix") for name in names]
    ended = ends(pair(*words), timeout=120)
    assert [(status, out) for status, out, _ in ended] == [(2, ""), (2, "")]
    said = ["mixer-plugin evaluate: " in err for *_, err in ended]
    assert said == [lone is None, lone is not None]
    assert "none.npz is not a file" in "".join(err for *_, err in ended)
