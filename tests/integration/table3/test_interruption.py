"""Training that is interrupted and resumed ends in the bits of training that was not."""

from __future__ import annotations

import json
import random
import signal
import sys
import time

import numpy as np
import pytest
import torch
import yaml

from mixer_plugin.benchmarks.experiment.cells import plan_jobs
from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.run_cell import run_job
from mixer_plugin.benchmarks.experiment.run_folder import claim
from mixer_plugin.benchmarks.table3 import run as run_table
from mixer_plugin.benchmarks.training.checkpoint import remove_checkpoint
from mixer_plugin.benchmarks.training.signals import Interrupted, noted_signals
from mixer_plugin.errors import MixERError
from tests.integration.table3.interruption_worker import STEPS, VARIANTS, train
from tests.miniature import miniature
from tests.processes import ends, start
from tests.processes import run as run_python

WORKER = "tests.integration.table3.interruption_worker"


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def points(count=20):
    """Steps, and whether the signal comes within the step or after it."""
    draw = random.Random(0)
    return [(draw.randrange(STEPS), draw.random() < 0.5) for _ in range(count)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {name: train(name, folder / f"{name}.pt") for name in VARIANTS}


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_point_of_training_resumes_to_the_same_bits(variant, uninterrupted, tmp_path):
    for step, within in points():
        path = tmp_path / f"{step}-{within}.pt"
        made = []

        def interrupt(step=step, within=within, made=made):
            if within and len(made) == step:
                signal.raise_signal(signal.SIGTERM)

        def told(done, loss, step=step, within=within, made=made):
            made.append(done)
            if not within and done == step:
                signal.raise_signal(signal.SIGTERM)

        last = not within and step == STEPS - 1  # nothing is left that could be interrupted
        if last:
            train(variant, path, told, interrupt)
        else:
            with pytest.raises(Interrupted) as stopped:
                train(variant, path, told, interrupt)
            assert stopped.value.status == 143
        resumed = []
        state = train(variant, path, lambda done, loss, seen=resumed: seen.append(done))
        assert same(uninterrupted[variant], state), (step, within)
        # Within a step: that one is finished. After one: so is the next, and neither is repeated.
        assert resumed == list(range(step + (1 if within or last else 2), STEPS))
        remove_checkpoint(path)


def run(variant, folder, stop=None, number=signal.SIGTERM, again=False):
    """A process that gets a signal after a step; its exit status and the steps it told."""
    process = start("-m", WORKER, variant, folder / "c.pt", folder / "r.pt")
    told = []
    assert process.stdout is not None
    for line in process.stdout:
        told.append(int(line))
        if told[-1] == stop:
            process.send_signal(number)
            if again:
                time.sleep(0.02)
                process.send_signal(number)
    return process.wait(timeout=60), told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "number", "status"),
    [("bf16", signal.SIGTERM, 143), ("ema", signal.SIGINT, 130)],
)
def test_a_process_that_gets_a_signal_saves_and_resumes(variant, number, status, tmp_path):
    stop = random.Random(variant).randrange(1, STEPS - 2)
    code, first = run(variant, tmp_path, stop, number)
    assert code == status
    assert not (tmp_path / "r.pt").exists()
    code, second = run(variant, tmp_path)
    assert code == 0
    assert second == list(range(second[0], STEPS))
    assert second[0] == first[-1] + 2  # the step that the signal found running is saved untold
    whole = train(variant, tmp_path / "whole.pt", wrapped=True)
    assert same(whole, torch.load(tmp_path / "r.pt"))


def test_a_second_signal_ends_at_once():
    code = (
        "import signal\n"
        "from mixer_plugin.benchmarks.training.signals import noted_signals\n"
        "with noted_signals() as came:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    assert came() == 15\n"
        "    print('noted', flush=True)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    print('not reached', flush=True)\n"
    )
    done = run_python("-c", code)
    assert done.stdout == "noted\n"
    assert done.returncode == -signal.SIGINT
    assert "Traceback" not in done.stderr


def test_handlers_are_put_back_and_an_ignored_signal_stays_ignored():
    before = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noted_signals() as came:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != before[0]
            assert came() is None
        assert signal.getsignal(signal.SIGTERM) == before[0]
    finally:
        signal.signal(signal.SIGINT, before[1])


CONFIG = miniature(
    recipe={"p": 3, "k": 2, "iterations": 100, "warmup": 2},
    training={"log_every": 1, "checkpoint_every": 1000},
    trials=2,
    workers=1,
)


@pytest.mark.slow
def test_sigterm_of_a_table_saves_the_running_cell_and_repeats_no_finished_one(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    out = tmp_path / "out"
    words = ("table3", "--config", tmp_path / "c.yaml", "--out", out)
    process = start("-m", "mixer_plugin.cli", *words)
    second = out / "cells/saai-base-cues-seed0/e2e.log.jsonl"
    deadline = time.time() + 60
    while not (second.exists() and second.read_text().count("\n") > 20) and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    ((status, _, stderr),) = ends([process], timeout=60)
    assert status == 143, stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    finished, running = second.with_name("f.json"), second.with_name("e2e.resume.pt")
    saved = torch.load(running, weights_only=True)["step"]
    assert 20 < saved < 100
    stamp = finished.stat().st_mtime_ns
    assert json.loads(finished.read_text())["weights"] == "random"

    events = []
    config = config_from_dict(CONFIG)
    for job in plan_jobs(config):
        run_job(job, out, events.append)
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps[0] > saved
    assert {event["cell"] for event in events if event["event"] == "done"} == {"e2e"}
    assert finished.stat().st_mtime_ns == stamp
    assert not running.exists()
    numbers = [json.loads(line)["step"] for line in second.read_text().splitlines()]
    assert numbers == list(range(1, 101))

    (job,) = [job for job in plan_jobs(config) if [c.name for c in job.cells] == ["e2e"]]
    run_job(job, tmp_path / "whole")
    pair = [
        np.load(folder / "cells/saai-base-cues-seed0/e2e.features.npz")
        for folder in (out, tmp_path / "whole")
    ]
    assert all(np.array_equal(pair[0][k], pair[1][k]) for k in ("erased", "related"))


def test_a_folder_of_another_configuration_says_what_differs(tmp_path):
    claim(tmp_path, {"recipe": {"lr": 0.1}}, resume=False)
    with pytest.raises(MixERError, match=r"there → here: recipe\.lr: 0\.1 → 0\.2"):
        claim(tmp_path, {"recipe": {"lr": 0.2}}, resume=True)


def test_missing_weights_and_packages_stop_a_table_before_it_claims_its_folder(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for training, words in (
        ({"weights": str(tmp_path / "no.pth")}, "No trunk weights at"),
        ({"log": "tensorboard"}, "tensorboard, which is not installed"),
    ):
        with pytest.raises(MixERError, match=words):
            run_table(config_from_dict({**CONFIG, "training": training}), tmp_path / "out")
        assert not (tmp_path / "out").exists()
