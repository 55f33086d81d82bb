"""What a run trains and tests on: which data set, split and protocol, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.images import network_cameras
from mixer_plugin.benchmarks.experiment.sources import Sources
from mixer_plugin.benchmarks.table3 import run
from mixer_plugin.errors import MixERError
from tests.unit.benchmarks.test_benchmark import values

SMALL = {"train_ids": 4, "val_ids": 1, "test_ids": 4, "height": 32, "width": 16}


def sources(protocol: str | None = None, **data) -> Sources:
    more = {} if protocol is None else {"protocol": protocol}
    return config_from_dict(values(data=data, controls={}, **more)).data


def generated(layout: str) -> dict:
    settings = {k: v for k, v in SMALL.items()}
    return {"layout": layout, "synthetic": settings}


@pytest.mark.parametrize(
    ("layout", "protocol"),
    [("sysu", "sysu/all/single"), ("regdb", "regdb/4"), ("llcm", "llcm/sampled")],
)
def test_the_usual_protocol_of_a_layout(layout: str, protocol: str) -> None:
    assert sources(**generated(layout)).protocol_of(3) == protocol


def test_another_data_set_brings_its_protocol_and_other_persons(tmp_path: Path) -> None:
    found = sources(**generated("llcm"), test=generated("market"))
    found.check()
    assert found.protocol_of(0) == "market1501"
    found.write(tmp_path, "cues", 0)
    train, test = found.read_train(tmp_path, "cues", 0), found.read_test(tmp_path, "cues", 0)
    assert {Path(p).parent.name for p in test.paths} == {"query", "bounding_box_test"}
    assert set(test.modality) == {0}
    assert set(train.modality) == {0, 1}
    other = '"seed": 1000003'
    assert other in (found.test_root(tmp_path, "cues", 0) / "synthetic.json").read_text()
    assert other not in (found.train_root(tmp_path, "cues", 0) / "synthetic.json").read_text()


def test_each_seed_has_a_split_of_regdb_unless_one_is_named(tmp_path: Path) -> None:
    found = sources(**generated("regdb"))
    found.write(tmp_path, "cues", 0)
    halves = [set(found.read_train(tmp_path, "cues", 0).ids.tolist())]
    named = sources("regdb/7", **generated("regdb"))
    halves.append(set(named.read_train(tmp_path, "cues", 0).ids.tolist()))
    root = found.train_root(tmp_path, "cues", 0)
    for half, trial in zip(halves, (1, 7), strict=True):
        lines = (root / f"idx/train_visible_{trial}.txt").read_text().splitlines()
        assert half == {int(line.split("/")[1]) for line in lines}
    assert [named.protocol_of(seed) for seed in (0, 5)] == ["regdb/7", "regdb/7"]
    for one in (found, named):
        test = set(one.read_test(tmp_path, "cues", 0).ids.tolist())
        assert not test & set(one.read_train(tmp_path, "cues", 0).ids.tolist())


def test_the_no_cue_world_has_no_cues_in_a_second_data_set_either(tmp_path: Path) -> None:
    found = sources(**generated("regdb"), test=generated("llcm"))
    found.write(tmp_path, "no-cue", 2)
    for root in (found.train_root(tmp_path, "no-cue", 2), found.test_root(tmp_path, "no-cue", 2)):
        assert '"visible_cue": 0.0' in (root / "synthetic.json").read_text()


@pytest.mark.parametrize(
    ("data", "protocol", "hint"),
    [
        (generated("market"), None, "visible images only.*data.test"),
        (generated("llcm"), "sysu/all/single", "'sysu/all/single' is not one of LLCM"),
        (generated("llcm") | {"test": generated("market")}, "llcm/full", "Use 'market1501'"),
    ],
)
def test_what_does_not_fit_is_said_before_training(data: dict, protocol: str, hint: str) -> None:
    with pytest.raises(MixERError, match=hint):
        sources(protocol, **data).check()


def test_draws_that_a_protocol_does_not_have_are_refused_before_training(tmp_path: Path) -> None:
    config = config_from_dict(values(data=generated("regdb"), controls={}, trials=3))
    with pytest.raises(MixERError, match="draws nothing, so it has one trial; got trials=3"):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ({"layout": "regbd", "synthetic": {}}, "Did you mean 'regdb'"),
        ({"layout": "regdb", "synthetic": {"test_visible_per_camera": 3}}, "would change nothing"),
        ({"synthetic": {}, "test": {"rot": "x"}}, "'rot' in data.test.*'root'"),
        ({"synthetic": {}, "test": {}}, "either synthetic"),
        ({"synthetic": {}, "tests": {}}, "Did you mean 'test'"),
    ],
)
def test_errors_in_the_file(data: dict, hint: str) -> None:
    with pytest.raises(MixERError, match=hint):
        sources(**data)


def test_a_folder_is_recognised_and_its_name_is_kept(tmp_path: Path) -> None:
    made = sources(**generated("llcm"))
    made.write(tmp_path, "cues", 0)
    root = made.train_root(tmp_path, "cues", 0)
    found = sources(root=str(root))
    found.check()
    assert found.protocol_of(0) == "llcm/sampled"
    assert found.test_root(tmp_path, "cues", 5) == root


def test_networks_see_modalities_as_the_ignite_family_numbers_cameras() -> None:
    modality = torch.tensor([0, 0, 1, 1])
    own = torch.tensor([1, 4, 3, 6])
    assert network_cameras(own, modality) is own
    # LLCM's cameras take both kinds; its camera 3 has visible images.
    assert network_cameras(torch.tensor([3, 1, 1, 5]), modality).tolist() == [1, 1, 3, 3]
