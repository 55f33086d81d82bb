"""The commands that measure loading and growth, in miniature: what they do, not how fast."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mixer_plugin.benchmarks.speed import (
    depth_cost,
    growth,
    loading_speed,
    reduction_cost,
    store_scale,
)
from mixer_plugin.benchmarks.training import fit as training

CLOCKS = {"wall", "cpu", "wall_median", "wall_minimum", "cpu_median", "cpu_minimum"}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_loading_is_compared_with_batches_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Any] = []
    fit = training.fit

    def watched(*arguments: Any, **options: Any) -> None:
        plans.append((arguments[3].images, arguments[4]))
        fit(*arguments, **options)

    monkeypatch.setattr(training, "fit", watched)
    out = tmp_path / "loading.json"
    sizes = "--height 32 --width 16 --ids 4 --p 2 --k 2 --steps 3 --turns 2 --workers 1 --threads 1"
    loading_speed.main([*sizes.split(), "--memory", "--recipe", "saai", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["cache"]["images"] == 4 * 18
    assert found["options"]["recipe"] == "saai"
    assert list(found["ways"]) == ["in line", "1 thread(s)", "1 thread(s), memory"]
    ready = found["ready"]
    assert ready["slowdown"] == ready["cpu_over_ready"] == 1
    for way in [ready, *found["ways"].values()]:
        assert 0 < way["waited_ms"] < way["step_ms"]
        assert 0 < way["waited_share"] < 1
        assert way["cpu_ms"] > 0
        assert way["slowdown"] == pytest.approx(way["step_ms"] / ready["step_ms"])
        assert 0 <= way["loading_cpu_ms"] < way["cpu_ms"]
    assert ready["loading_cpu_ms"] < found["ways"]["1 thread(s)"]["loading_cpu_ms"]
    assert len(plans) == 2 * 4  # turns and ways
    for images, plan in plans:
        assert images.shape == (4 * 18, 3, 32, 16)
        assert (plan.p, plan.k) == (2, 2)
        assert plan.iterations == loading_speed.BEGINNING + 3 + 2  # two batches are made ahead
        erase = plan.augmentation.steps[-1]
        assert erase.value == "random"  # SAAI's


def test_every_way_of_loading_gives_the_trainer_its_own_batches() -> None:
    labels, modality = torch.arange(4).repeat_interleave(4), torch.tensor([0, 1] * 8)
    pixels = torch.randint(0, 256, (16, 3, 12, 8), dtype=torch.uint8)
    sampler = loading_speed.IdentitySampler(labels, modality, p=2, k=2, iterations=6, seed=0)
    options = {"augmentation": loading_speed.load_config("six").recipe.augmentation, "seed": 3}
    times = loading_speed.Times()
    ways = (loading_speed.load_batches, loading_speed.in_line, loading_speed.ready)
    own, line, ready = (
        list(loading_speed.timed(way, times, lambda: None)(
            pixels, modality, sampler, range(1, 7), **options
        ))
        for way in ways
    )  # fmt: skip
    assert [batch.step for batch in ready] == list(range(1, 7))
    for mine, other in zip(own, line, strict=True):
        assert mine.step == other.step
        assert torch.equal(mine.images, other.images)
    for number, batch in enumerate(ready):
        assert torch.equal(batch.images, own[number % 4].images)
    assert len(times.waited) == len(times.step) == len(times.cpu) == len(times.own) == 18
    assert all(0 < waited < step for waited, step in zip(times.waited, times.step, strict=True))
    steady = times.steady(2)
    assert steady.step == times.step[loading_speed.BEGINNING : 16]
    assert len(steady.own) == 16 - loading_speed.BEGINNING


@pytest.mark.slow
def test_trainings_at_the_same_time(tmp_path: Path) -> None:
    out = tmp_path / "loading.json"
    sizes = "--height 32 --width 16 --ids 4 --p 2 --k 2 --steps 2 --turns 1 --workers 1 --threads 1"
    loading_speed.main([*sizes.split(), "--processes", "2", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["options"]["processes"] == 2
    assert list(found["ways"]) == ["in line", "1 thread(s)"]
    assert "loading_cpu_ms" in found["ready"]


def test_the_committed_cases_cover_what_they_say() -> None:
    cases = list(loading_speed.cases(_options(steps=5)))
    found = {(c.height, c.width, c.recipe, c.threads, c.processes) for c in cases}
    assert len(cases) == len(found) == 8
    assert {(h, w) for h, w, *_ in found} == {(48, 24), (128, 64)}
    assert {recipe for _, _, recipe, *_ in found} == {None, "saai"}
    assert {(threads, processes) for *_, threads, processes in found} == {(1, 1), (1, 2)}
    assert all(c.memory and c.workers == [1] and c.steps == 5 for c in cases)


def _options(**given: Any) -> Any:
    import argparse

    return argparse.Namespace(**given)


def test_growth_measures_the_numbers_that_it_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, int, int]] = []
    evaluated: list[tuple[int, int, int]] = []
    fit, evaluate = growth.fit, growth.evaluate

    def watched_fit(*arguments: Any, **options: Any) -> None:
        steps: list[int] = []
        fit(*arguments, **options, on_step=lambda step, loss: steps.append(step))
        trained.append((len(arguments[3].labels), arguments[3].classes, len(steps)))

    def watched_evaluate(*arguments: Any, **options: Any) -> Any:
        found = evaluate(*arguments, **options)
        mixed = next(row for row in found.rows if row.setting == "mix")
        asked = int(mixed.queries_valid + mixed.queries_dropped)
        evaluated.append((int(mixed.gallery_size), asked, len(found.rows)))
        return found

    monkeypatch.setattr(growth, "fit", watched_fit)
    monkeypatch.setattr(growth, "evaluate", watched_evaluate)
    sizes = "--ids 3 --height 16 --width 8 --p 2 --k 2 --gallery 200 --queries 24 --dimensions 8"
    growth.main([*sizes.split(), "--rounds", "2", "--threads", "1", "--out", str(tmp_path / "g")])

    result = json.loads((tmp_path / "g.json").read_text())
    assert result["threads"] == 1
    points = result["training"]
    assert [point["factor"] for point in points] == [1, 2, 4]
    assert [point["images"] for point in points] == [96, 192, 384]  # 32 of an identity
    for point in points:
        assert point["batch"] == 8
        assert point["steps"] == point["images"] // 8
        assert point["trained"] == point["steps"] * 8
    stated = [(point["images"], point["ids"], point["steps"]) for point in points]
    # The first one warms up, and each round begins with another size.
    assert trained == [stated[0], *stated, *stated[1:], stated[0]]

    galleries = result["evaluation"]
    assert [point["images"] for point in galleries] == [200, 800, 3200]
    # Every image is in the gallery of every query but the query itself; 6 settings, 2 rules, 3
    # calibrations.
    stated = [(point["images"], 24, 36) for point in galleries]
    assert evaluated == [stated[0], *stated, *stated[1:], stated[0]]

    for part, names in (("training", ["read", "epoch", "features"]), ("evaluation", ["evaluate"])):
        first = result[part][0]
        for point in result[part]:
            assert list(point["seconds"]) == names
            for name, clock in point["seconds"].items():
                assert set(clock) == CLOCKS
                assert len(clock["wall"]) == len(clock["cpu"]) == 2
                images = [growth.images_of(each, name) for each in (point, first)]
                medians = [each["seconds"][name]["wall_median"] for each in (point, first)]
                expected = (medians[0] / images[0]) / (medians[1] / images[1])
                assert point["per_image"][name]["wall_median"] == pytest.approx(expected)

    picture = (tmp_path / "g.svg").read_text(encoding="utf-8")
    assert picture.lstrip().startswith("<?xml")
    assert picture.rstrip().endswith("</svg>")


@pytest.mark.slow
def test_the_cost_of_heads_is_counted_by_depth_and_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cost.json"
    size = "--trunk small --size 64 32 --rounds 1 --threads 1 --p 2 --k 2"
    assert depth_cost.main([*size.split(), "--out", str(out)]) == 0
    found = json.loads(out.read_text())["heads"]
    printed = capsys.readouterr().out
    assert set(found) == set(depth_cost.HEADS)
    deeper = [found[f"per modality, {n}"] for n in ("1 stage", "2 stages", "3 stages")]
    for way in ("afterwards", "joint", "e2e"):
        added = [one["operations"][way] for one in deeper]
        assert added == sorted(added)
        thin = found["shared, 3 stages, half width"]["operations"][way]
        assert thin < found["shared, 3 stages"]["operations"][way] < added[-1]
    for one in found.values():
        counted = one["operations"]
        # A frozen network has no backward: its heads cost less than they do beside its training.
        assert counted["afterwards"] < counted["joint"] <= counted["e2e"]
        assert counted["bare"] < counted["joint"]
        assert f"{counted['e2e'] / counted['bare']:.2f}" in printed
    assert found["shared, 1 stage"]["head_parameters"] < deeper[0]["head_parameters"]


def test_a_store_is_measured_as_it_grows(tmp_path: Path) -> None:
    out = tmp_path / "scale"
    sizes = "--items 200 500 --batch 150 --dimensions 8 --queries 5 --segment 200 --threads 1"
    store_scale.main([*sizes.split(), "--folder", str(tmp_path), "--out", str(out)])
    found = json.loads(out.with_suffix(".json").read_text())
    assert [point["items"] for point in found["points"]] == [200, 500]
    for point in found["points"]:
        assert point["recall@10"] == 1  # Flat
        assert 0 < point["search_ms"]["p50"] <= point["search_ms"]["p99"]
        assert point["memory"] <= point["memory_peak"]
        assert point["segments"] > 0
    assert found["points"][0]["folder"] < found["points"][1]["folder"]
    assert out.with_suffix(".svg").stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scale.json", "scale.svg"]
    with pytest.raises(SystemExit):
        store_scale.main(["--items", "500", "200", "--out", str(out)])


def test_what_fewer_dimensions_cost(tmp_path: Path) -> None:
    sizes = "--width 96 --images 400 --evaluated 200 --dims 48 8"
    out = tmp_path / "wide"
    assert reduction_cost.main([*sizes.split(), "--threads", "1", "--out", str(out)]) == 0
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["fit"]["dim"] == 48
    assert found["fit"]["features_bytes"] == 2 * 400 * 96 * 4
    costs = [c for c in found["report"]["costs"] if c["setting"] == "cross" and not c["centered"]]
    assert {(c["erased"], c["precision"]) for c in costs} >= {(96, "int8"), (48, "float32")}
    lost = {c["erased"]: c["mAP_lost"] for c in costs if c["precision"] == "float32"}
    assert lost[96] == 0 < lost[48] < lost[8]
    assert "8 + 8, PCA" in out.with_suffix(".md").read_text()
