"""What a run will take, before it trains; and the packaged configurations of the paper."""

from __future__ import annotations

import dataclasses
from importlib import resources

import pytest
import torch

from mixer_plugin import MixERConfig
from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.benchmarks import dry_run as module
from mixer_plugin.benchmarks.dry_run import Counted, Sample, dry_run, step_seconds
from mixer_plugin.benchmarks.experiment.cells import plan_jobs
from mixer_plugin.benchmarks.experiment.config import HeadTraining, config_from_dict, load_config
from mixer_plugin.benchmarks.experiment.workers import missing_cells
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.cli import main
from mixer_plugin.data import SyntheticConfig, write_layout
from mixer_plugin.errors import MixERError
from mixer_plugin.io.yaml_file import read_yaml_file

PAPER = sorted(
    file.name.removesuffix(".yaml")
    for file in resources.files("mixer_plugin.benchmarks").joinpath("configs/paper").iterdir()
)
SMALL = {"train_ids": 4, "val_ids": 1, "test_ids": 3, "height": 32, "width": 16}


def tiny(**changes):
    return config_from_dict(
        {
            "name": "tiny",
            "data": {"synthetic": dict(SMALL)},
            "image_size": [32, 16],
            "baselines": {"saai-base": {"trunk": "small"}},
            "seeds": [0, 1],
            "recipe": {"p": 2, "k": 1, "iterations": 50},
            "heads": {"when": "after", "recipe": {"iterations": 20}},
            **changes,
        }
    )


def test_steps_images_hours_and_disk_are_sums(tmp_path):
    config = tiny(workers=2)
    missing = missing_cells(plan_jobs(config), tmp_path)
    images = Counted(
        labels=torch.arange(96) // 24, modality=torch.arange(96) % 2, classes=4, tested=72
    )
    known = {
        "baseline": Sample(seconds=(1.0,), image=0.5, parameters=2**28, columns=4, memory=2**30),
        "f": Sample(seconds=(3.0,), image=0.5, parameters=2**28, columns=8, memory=2**31),
        "e2e": Sample(seconds=(2.0, 4.0), image=0.5, parameters=2**28, columns=8, memory=None),
    }
    samples = {f"saai-base, {name}": sample for name, sample in known.items()}
    text = "\n".join(module._lines(config, tmp_path / "o", missing, samples, images))
    assert max(map(len, text.splitlines())) <= 80
    rows = {line.split("  ")[0]: line.split()[-5:] for line in text.splitlines() if "," in line}
    assert rows["saai-base, baseline"][:3] == ["2", "100", "400"]
    assert rows["saai-base, f"][:3] == ["2", "40", "160"]
    assert rows["saai-base, e2e"][:3] == ["2", "140", "560"]
    seconds = 2 * (50 * 1 + 20 * 3 + 50 * 2 + 20 * 4 + 3 * 72 * 0.5)
    assert f"{seconds / 3600 / 2:,.2g} hours in 2 processes" in text
    assert "Memory: 2.0 GiB" in " ".join(text.split())
    # 6 networks, and two running ones with Adam's moments and the file that is written aside.
    assert f"networks and checkpoints {6 * 1 + 2 * 4 * 1:.1f}" in " ".join(text.split())


def test_steps_are_timed_in_their_own_training():
    ends = [9.0, 10.0, 11.5, 12.5, *(100.0, 100.1, 100.3)]  # building and loading come between
    assert step_seconds(ends, [4, 3]) == pytest.approx([1.0, 0.15])


@pytest.mark.slow
def test_it_times_every_cell_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    text = dry_run(tiny(), out)
    assert not out.exists()
    assert [line.split("  ")[0] for line in text.splitlines() if line.startswith("saai")] == [
        "saai-base, baseline",
        "saai-base, f",
        "saai-base, e2e",
    ]
    assert "128 images of 4 identities" in text
    root = tmp_path / "set"
    write_layout(root, SyntheticConfig(**SMALL), "sysu")
    own = load_config("paper/sysu-deen")
    data = dataclasses.replace(own.data, train=dataclasses.replace(own.data.train, root=str(root)))
    training = dataclasses.replace(own.training, device="cpu", weights=None, precision="fp32")
    small = {"data": data, "training": training, "image_size": (32, 16), "trials": 1}
    text = dry_run(
        dataclasses.replace(
            own,
            baselines={"deen": {"trunk": "small"}},
            seeds=(0,),
            recipe=dataclasses.replace(own.recipe, identities=2),
            heads=HeadTraining(when="after", recipe=Recipe(p=2, k=1, iterations=50)),
            **small,
        ),
        out,
    )
    assert "deen, e2e" in text
    with pytest.raises(MixERError, match="p = 5 identities per batch, but there are only 4"):
        dry_run(tiny(recipe={"p": 5, "k": 1, "iterations": 50}), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"weights": "nowhere.pth"}}, "No trunk weights at nowhere.pth"),
        ({"data": {"root": "nowhere"}}, "nowhere"),
        ({"training": {"accumulate": 3}}, "training.accumulate is 3"),
    ],
)
def test_what_would_stop_the_run_stops_it_too(changes, said, tmp_path):
    with pytest.raises(MixERError, match=said):
        dry_run(tiny(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PAPER)
def test_a_configuration_of_the_paper_is_the_papers(name):
    dataset, network = name.split("-", 1)
    config = load_config(f"paper/{name}")
    assert config.name == name
    assert list(config.baselines) == [network]
    assert config.mixer == MixERConfig.paper()
    assert config.training.precision == "bf16"
    assert config.training.weights == "imagenet"
    (first, *_) = plan_jobs(config)
    assert first.data.protocol_of(0).split("/")[0] == dataset
    facts = config.recipe.facts(network)
    if network == "saai-base":  # sec. 4 of the paper
        plan = config.recipe.plan(network, torch.arange(40) // 4, torch.arange(40) % 2)
        assert (plan.p, plan.k, plan.iterations // plan.steps) == (10, 8, 180)
        assert facts["optimizer"]["lr"] == 4e-4
        assert facts["schedule"]["milestones"] == [80, 120]
        assert first.network.image_size == (288, 144)
    else:
        assert facts == load_recipe(network, dataset)
    if dataset == "regdb":
        assert {config.data.protocol_of(seed) for seed in config.seeds} == {
            f"regdb/{split}" for split in range(1, 11)
        }


def test_init_writes_it_with_ones_own_folder(tmp_path, capsys):
    out = tmp_path / "own.yaml"
    given = ["--dataset", "sysu", "--network", "saai", "--out", str(out)]
    assert main(["init", *given, "--root", "/data/a: b", "--weights", "r50.pth"]) == 0
    assert f"--config {out} --dry-run" in capsys.readouterr().out
    config, packaged = load_config(out), load_config("paper/sysu-saai")
    assert config.data.train.root == "/data/a: b"
    assert config.training.weights == "r50.pth"
    assert dataclasses.replace(config, data=packaged.data, training=packaged.training) == packaged
    before = out.read_bytes()
    assert main(["init", *given]) == 2
    assert "exists; give another --out" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(["init", "--dataset", "regdb", "--network", "sgeil"]) == 2
    assert "network with a recipe for regdb 'sgeil'" in capsys.readouterr().err
    assert read_yaml_file(out)["protocol"] == "sysu/all/single"
