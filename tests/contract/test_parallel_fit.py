"""The trainer in two real processes: as one on the whole batch, stopped together, left alone."""

from __future__ import annotations

import json
import re

import pytest
import torch
import torch.distributed as dist

from mixer_plugin.benchmarks.training.checkpoint import steps_in
from tests.contract.parallel_fit_worker import ALIKE, APART, AS_ONE, CASES, EVERY, STOPPED, train
from tests.processes import ends, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not dist.is_available() or not dist.is_gloo_available(), reason="needs torch with gloo"
    ),
]


def one_thread(work):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work()
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What each of two processes saved, what this one made alone, and their folders."""
    folder = tmp_path_factory.mktemp("two")
    alone = tmp_path_factory.mktemp("one")
    words = ("-m", "tests.contract.parallel_fit_worker")
    ended = ends([start(*words, rank, 2, folder) for rank in (0, 1)], timeout=300)
    assert [status for status, *_ in ended] == [0, 9], "\n".join(err for *_, err in ended)
    # Afterwards: a third process on two cores would keep the two waiting for each other.
    names = (*AS_ONE, *APART)
    made = one_thread(lambda: {name: train(name, log=(alone, name)) for name in names})
    saved = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    return *saved, made, folder, alone


def difference(a, b):
    assert list(a) == list(b)
    return max(float((value.double() - b[key].double()).abs().max()) for key, value in a.items())


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", AS_ONE)
def test_two_processes_train_as_one(runs, name):
    first, second, alone, folder, beside = runs
    assert difference(first[name], second[name]) == 0
    assert difference(first[name], alone[name]) < 1e-6
    # Networks are in double precision, MixER's losses and what is logged in single.
    pairs = [records(where / f"{name}.log.jsonl") for where in (folder, beside)]
    assert [r["step"] for r in pairs[0]] == list(range(1, CASES[name].steps + 1))
    for two, one in zip(*pairs, strict=True):
        assert two == pytest.approx(one, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", APART)
def test_without_the_gather_they_train_otherwise(runs, name):
    first, second, alone, *_ = runs
    assert difference(first[name], second[name]) == 0
    assert difference(first[name], alone[name]) > 1e-3


@pytest.mark.parametrize("name", [*EVERY, *ALIKE])
def test_every_network_and_option_leaves_both_processes_with_the_same_weights(runs, name):
    first, second, *_ = runs
    assert first[name] == second[name]
    assert first[name][1]


def test_a_batch_that_gives_the_heads_no_gradient_is_among_them(runs):
    found = ["mixer/total" in record for record in records(runs[3] / "sgeil mixed.log.jsonl")]
    assert set(found) == {True, False}


def test_an_overflow_in_one_process_is_one_of_all(runs):
    scales = [record["scale/all"] for record in records(runs[3] / "fp16.log.jsonl")]
    assert scales[1] == scales[0] / 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("p", "2 processes cannot share a batch of 3 identities evenly"),
        ("parts", "each of 2 processes has 2 identities"),
        ("scales", r"Set training\.precision to bf16"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(runs, name, words):
    for one in runs[:2]:
        said, left = one["refused"][name]
        assert left == []
        assert re.search(words, said)


def test_what_a_process_does_or_fails_in_is_told_to_all(runs):
    first, second = (one["told"] for one in runs[:2])
    for name, results in {
        "first": ("done by 0", "done by 0"),
        "all": ("done by 0", "done by 1"),
        "cached": (False, True),
        "first fails": ("status 2", "status 2"),
        "second fails": ("status 2", "status 2"),
        "a mistake": ("status 1", "status 1"),
    }.items():
        assert (first[name][0], second[name][0]) == results, name
    said = {name: (first[name][1], second[name][1]) for name in first}
    assert said["first"] == said["all"] == said["cached"] == ("", "")
    assert said["first fails"] == ("mixer-plugin table3: no folder\n", "")
    assert said["second fails"] == ("", "mixer-plugin table3: no disk\n")
    assert said["a mistake"][0] == ""
    assert "Traceback" in said["a mistake"][1]
    assert "KeyError: 'mistake'" in said["a mistake"][1]


@pytest.mark.parametrize("name", STOPPED)
def test_a_signal_to_one_process_stops_all_at_one_step_and_they_resume_in_the_same_bits(runs, name):
    for one in runs[:2]:
        found = one[name]
        assert (found["status"], found["step"]) == (143, 3)
        assert found["made"] == CASES[name].steps - 3
        assert difference(found["rest"], found["whole"]) == 0


def test_one_process_goes_on_where_two_stopped(runs):
    name = "stopped exact"
    rest = one_thread(lambda: train(name, checkpoint=runs[3] / f"{name}-copy.pt"))
    assert difference(rest, runs[0][name]["whole"]) < 1e-6


def test_a_process_that_dies_ends_the_other_with_a_reason_and_a_checkpoint(runs):
    first, *_, folder, _ = runs
    path = folder / "dying.pt"
    assert first["left"].startswith(
        "LostProcessError: Step 5 of 6 was not finished. Process 0 of 2 waited"
    )
    assert "one has ended or did not come" in first["left"]
    assert f"{path} holds 4 steps" in first["left"]
    assert steps_in(path) == 4
    made = []
    rest = one_thread(lambda: train("dying", checkpoint=path, stepped=made.append))
    assert len(made) == 2
    assert difference(rest, one_thread(lambda: train("dying"))) < 1e-6
