"""e2e cells whose heads are made and trained anew on the finished network."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from mixer_plugin.benchmarks.experiment.cells import cells_of, plan_jobs
from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.run_cell import run_job
from mixer_plugin.benchmarks.experiment.trained_network import load_trained
from mixer_plugin.features import FeatureSet
from tests.miniature import miniature

FIRST, HEADS = 10, 30


def config(**heads):
    return config_from_dict(
        miniature(
            recipe={"p": 3, "k": 2, "iterations": FIRST, "warmup": 2, "augmentation": {"pad": 2}},
            heads={"when": "after", "recipe": {"iterations": HEADS}, **heads},
            training={"checkpoint_every": 5},
        )
    )


def job(*names, **heads):
    cells = cells_of(config(**heads))
    own = tuple(cells[name] for name in names)
    return dataclasses.replace(plan_jobs(config(**heads))[0], cells=own)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_job(job("e2e", "e2e-ens", "erased-triplet"), folder)
    return folder / "cells" / job().name


def base_of(path):
    return {k: v for k, v in load_trained(path)[0].state_dict().items() if "mixer." not in k}


def test_heads_are_new_and_the_base_stays(out, tmp_path):
    run_job(job("e2e", finish=False), tmp_path)
    joint = tmp_path / "cells" / job().name
    finished, before = (
        FeatureSet.load(out / "e2e.features.npz"),
        FeatureSet.load(joint / "e2e.features.npz"),
    )
    assert torch.equal(finished.erased, before.erased)
    assert not torch.equal(finished.related, before.related)
    summary = json.loads((out / "e2e.json").read_text())
    assert (summary["steps"], summary["images_seen"]) == (FIRST + HEADS, (FIRST + HEADS) * 12)
    assert json.loads((out / "erased-triplet.json").read_text())["steps"] == FIRST
    assert load_trained(out / "e2e.pt")[0].mixer.config.frozen_base
    assert not list(out.glob("*.resume.pt"))


def test_the_base_is_the_same_with_a_shared_head(out):
    ours, shared = base_of(out / "e2e.pt"), base_of(out / "e2e-ens.pt")
    assert all(torch.equal(value, shared[key]) for key, value in ours.items())


def test_interrupted_among_the_heads_it_ends_in_the_same_bits(out, tmp_path):
    class Stop(Exception):
        pass

    def stop(event):
        if event["event"] == "step" and event["step"] > FIRST:
            raise Stop

    with pytest.raises(Stop):
        run_job(job("e2e"), tmp_path, stop)
    folder = tmp_path / "cells" / job().name
    assert {path.name for path in folder.glob("*.resume.pt")} == {
        "e2e.resume.pt",
        "e2e.heads.resume.pt",
    }
    seen = []
    run_job(job("e2e"), tmp_path, seen.append)
    assert not any(event["event"] == "step" and event["step"] <= FIRST for event in seen)
    resumed = load_trained(folder / "e2e.pt")[0].state_dict()
    whole = load_trained(out / "e2e.pt")[0].state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
