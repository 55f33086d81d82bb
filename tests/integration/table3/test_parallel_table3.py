"""``torchrun -m mixer_plugin.cli table3``: real processes, which die, are stopped and go on."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml

from mixer_plugin.benchmarks.experiment.cells import plan_jobs
from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.run_cell import run_job
from mixer_plugin.benchmarks.training.checkpoint import steps_in
from tests.miniature import miniature
from tests.processes import ends, pair, torchrun

COMMAND = ("-m", "mixer_plugin.cli")
STEPS, EVERY = 12, 3
CONFIG = miniature(
    recipe={"p": 4, "k": 2, "iterations": STEPS, "warmup": 2, "augmentation": {"pad": 2}},
    training={"checkpoint_every": EVERY, "log_every": 1},
    trials=1,
)
CELLS = "cells/saai-base-cues-seed0"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not dist.is_available() or not dist.is_gloo_available(), reason="needs torch with gloo"
    ),
]


def dying(mark):
    """The command in processes of which the second kills itself in the fifth step of e2e."""
    return ["-m", "tests.integration.table3.parallel_table3_worker", 1, STEPS + 5, mark]


def features(out):
    found = {}
    for path in sorted((out / CELLS).glob("*.features.npz")):
        with np.load(path) as file:
            found[path.name] = {name: file[name] for name in ("erased", "related")}
    return found


def logged(out, cell):
    lines = (out / CELLS / f"{cell}.log.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    words = ["table3", "--config", folder / "c.yaml", "--out", folder / "out"]
    first, second = ends(pair(*[(*COMMAND, *words)] * 2))
    assert first[0] == 0, first[2]
    assert second == (0, "", "")
    return folder, *first[1:]


@pytest.fixture(scope="module")
def left(whole, tmp_path_factory):
    """What a run leaves in which a process dies."""
    folder = tmp_path_factory.mktemp("left")
    words = ["table3", "--config", whole[0] / "c.yaml", "--out", folder / "out"]
    return folder / "out", ends(pair(*[(*dying(folder / "mark"), *words)] * 2))


def test_the_processes_train_every_cell_together_and_the_first_one_tells(whole):
    folder, stdout, stderr = whole
    assert stdout.count("miniature: saai-base, mean of seeds 0.") == 1
    events = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    finished = [event for event in events if event["event"] == "done"]
    assert [(event["cell"], event["processes"]) for event in finished] == [("f", 2), ("e2e", 2)]
    out = folder / "out"
    assert (out / "summary.txt").read_text() == stdout
    assert (out / "run_card.json").exists()
    assert logged(out, "e2e") == list(range(1, STEPS + 1))
    assert not list(out.rglob("*.resume.pt"))
    card = json.loads((out / CELLS / "e2e.json").read_text())
    assert card["images_seen"] == STEPS * 4 * 2 * 2


def test_a_process_that_dies_is_replaced_and_the_run_ends_in_the_same_bits(whole, tmp_path):
    folder, stdout, _ = whole
    words = ["table3", "--config", folder / "c.yaml", "--out", tmp_path / "out"]
    done = torchrun("--max-restarts=1", *dying(tmp_path / "mark"), *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mark").exists()
    assert done.stderr.count('"event": "done"') == 2
    assert done.stdout == stdout
    expected, found = features(folder / "out"), features(tmp_path / "out")
    assert len(expected) == 2
    for name, arrays in expected.items():
        assert all(np.array_equal(value, found[name][key]) for key, value in arrays.items()), name
    assert logged(tmp_path / "out", "e2e") == list(range(1, STEPS + 1))


def test_a_process_that_dies_ends_the_others_with_a_reason_and_a_checkpoint(left):
    out, ((status, stdout, stderr), second) = left
    assert (status, stdout) == (2, "")
    assert second[0] == -signal.SIGKILL
    saved = steps_in(out / CELLS / "e2e.resume.pt")
    assert saved == 3
    line = stderr.splitlines()[-1]
    assert line.startswith("mixer-plugin table3: ")
    assert "Traceback" not in stderr
    assert f"Step 5 of {STEPS} was not finished. Process 0 of 2 waited" in line
    assert "Look for the first error among the other processes" in line
    assert f"e2e.resume.pt holds {saved} steps" in line
    assert "--resume" in line
    assert (out / CELLS / "f.json").exists()


def test_a_signal_to_one_process_stops_all_and_one_alone_finishes(whole, left):
    out, _ = left
    finished = (out / CELLS / "f.json").stat().st_mtime_ns
    words = ["table3", "--config", whole[0] / "c.yaml", "--out", out, "--resume"]
    processes = pair(*[(*COMMAND, *words)] * 2)
    deadline = time.time() + 60
    while (logged(out, "e2e") or [0])[-1] < 6 and time.time() < deadline:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    (status, stdout, stderr), second = ends(processes)
    assert status == 143, stderr
    assert second == (143, "", "")
    assert stdout == ""
    assert "Terminated. Finished cells and checkpoints are in" in stderr
    saved = steps_in(out / CELLS / "e2e.resume.pt")
    assert 6 <= saved < STEPS
    # The log, too, ends where the first process stopped.
    assert logged(out, "e2e") == list(range(1, saved + 1))

    events = []
    for job in plan_jobs(config_from_dict(CONFIG)):
        run_job(job, out, events.append)
    assert [event["cell"] for event in events if event["event"] == "done"] == ["e2e"]
    assert logged(out, "e2e") == list(range(1, STEPS + 1))
    assert (out / CELLS / "f.json").stat().st_mtime_ns == finished
    assert json.loads((out / CELLS / "e2e.json").read_text())["processes"] == 1
    state = torch.load(out / CELLS / "e2e.pt", weights_only=True)["state"]
    assert all(torch.isfinite(value).all() for value in state.values())
