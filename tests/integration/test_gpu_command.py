"""The command for a GPU in miniature on a CPU: every part, and what it found."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mixer_plugin.benchmarks.gpu import agreement
from mixer_plugin.benchmarks.gpu.parts import PARTS
from mixer_plugin.benchmarks.gpu.run import lacking
from tests import processes

COMMAND = ("-m", "mixer_plugin.benchmarks.gpu", "--device", "cpu", "--quick")
FURTHER = ("mpanet", "deen", "sgeil", "idkl")  # the same part of other baselines


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    further = [f"steps-{baseline}" for baseline in FURTHER]
    return run([part.name for part in PARTS if part.name not in further], tmp_path_factory)


def run(names: list[str], folders: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command found in some of its parts, and its table."""
    out = folders.mktemp("gpu")
    words = ("--minutes", "120", "--out", out, "--only", *names)
    ended = processes.run(*COMMAND, *words, timeout=7200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads((out / "gpu.json").read_text(encoding="utf-8"))
    assert {"date", "device", "torch", "commit"} <= set(found)
    text = (out / "summary.txt").read_text(encoding="utf-8")
    assert ended.stdout.endswith(text)
    assert max(map(len, text.splitlines())) <= 80
    assert list(found["parts"]) == names
    rows = [line.split()[0] for line in text.splitlines() if line[:1].strip()]
    assert rows[-len(names) :] == names
    return {**found["parts"], "text": text}


def found_in(report: dict[str, Any], name: str) -> Any:
    (part,) = [part for part in PARTS if part.name == name]
    if reason := lacking(part):
        assert report[name] == {"state": "left out", "reason": reason}
        pytest.skip(reason)
    assert report[name]["state"] == "done", report[name]["tail"]
    return report[name]["found"]


def test_the_tests_are_those_of_a_gpu(report: dict[str, Any]) -> None:
    found = found_in(report, "tests")
    assert (found["passed"] > 100) if torch.cuda.is_available() else (found["skipped"] > 100)
    assert (found["failed"], found["failures"]) == (0, {})


@pytest.mark.endurance
@pytest.mark.parametrize("baseline", FURTHER)
def test_steps_of_the_other_baselines(
    tmp_path_factory: pytest.TempPathFactory, baseline: str
) -> None:
    test_steps_cost_more_with_mixer(run([f"steps-{baseline}"], tmp_path_factory), baseline)


@pytest.mark.parametrize("baseline", ["saai", "ddag"])
def test_steps_cost_more_with_mixer(report: dict[str, Any], baseline: str) -> None:
    networks = found_in(report, f"steps-{baseline}")["networks"]
    assert [(one["baseline"], one["mode"]) for one in networks] == [
        (baseline, "e2e"),
        (baseline, "f"),
    ]
    for one in networks:
        assert (one["case"]["precision"], one["case"]["channels_last"]) == ("bf16", True)
        assert one["flop_floor"] > 1
        assert one["flops"]["mixer"] > one["flops"]["bare"]
        seconds = {kind: own["wall_median"] for kind, own in one["seconds"].items()}
        rates = one["images_per_s"]
        assert rates == {kind: one["images"] / own for kind, own in seconds.items()}
        assert (one["memory"] is None) == (baseline != "saai")
    if baseline == "saai":
        assert all(one["memory"][kind] > 0 for one in networks for kind in ("bare", "mixer"))


def test_evaluation_and_reranking(report: dict[str, Any]) -> None:
    found = found_in(report, "evaluation")
    assert (found["queries"], found["items"]) == (60, 200)
    assert found["wall_median"]["trials_ratio"] > 1
    large = found_in(report, "evaluation-1m")
    assert (large["queries"], large["items"]) == (60, 400)
    assert large["ratio"] == large["seconds"] / large["product_seconds"] > 1
    assert large["gigabytes_beside_features"] >= 0
    assert len(large["mAP"]) == 7
    assert all(0 < value <= 1 for value in large["mAP"].values())
    for name, images in (("reranking", 60), ("reranking-50k", 90)):
        found = found_in(report, name)
        assert found["images"] == images
        assert min(found["wall"]["ours"]) > 0
        assert found["peak_gb"]["ours"] > 0


def test_the_losses_agree(report: dict[str, Any]) -> None:
    found = found_in(report, "agreement")
    assert list(found["cells"]) == ["baseline", "e2e"]
    for cell in found["cells"].values():
        assert cell["agrees"]
        assert len(cell["cpu"]) == len(cell["device"]) == 3
        assert len(set(cell["cpu"])) == 3  # it trains
        assert cell["differences"][0] <= agreement.FIRST
        assert max(cell["differences"]) <= agreement.LATER
    e2e = found["cells"]["e2e"]
    assert e2e["cpu"][0] > found["cells"]["baseline"]["cpu"][0]  # MixER's losses are in it
    assert max(e2e["differences"]) > 0  # two orders of memory: not one run against itself


def test_the_trainer_and_its_loading(report: dict[str, Any]) -> None:
    found = found_in(report, "trainer")
    images = found["epoch_steps"] * found["batch"]
    assert images == found["images"] == 2 * 32
    assert list(found["cells"]) == ["baseline", "f", "e2e"]
    for own in (found["loading"], *found["cells"].values()):
        (seconds,) = own["epoch_seconds"]  # of two epochs: the first is not timed
        assert own["images_per_s"] == images / seconds > 0
    for cell in found["cells"].values():
        assert len(cell["losses"]) == 2
        assert all(0 < loss < 100 for loss in cell["losses"])
        assert cell["peak_bytes"] >= 0  # a CPU's process may use again what it had
    assert found["cells"]["baseline"]["peak_bytes"] > 0
    assert found["loading"]["images_per_s"] > found["cells"]["e2e"]["images_per_s"]


def test_loading_probing_and_growth(report: dict[str, Any]) -> None:
    loading = found_in(report, "loading")
    assert list(loading["ways"]) == ["in line", "1 thread(s)"]
    assert all(0 < way["waited_ms"] < way["step_ms"] for way in loading["ways"].values())
    (network,) = found_in(report, "probing")["networks"]
    assert network["operations"] > 1
    assert network["faster"] > 0
    growth = found_in(report, "growth")
    assert growth["evaluation"][0]["images"] == 200
    assert growth["training"][0]["per_image"]["epoch"]["wall_median"] == 1


@pytest.mark.skipif(find_spec("faiss") is None, reason="needs FAISS (the extra 'faiss')")
def test_search(report: dict[str, Any]) -> None:
    found = found_in(report, "search")
    assert found["ratios"]["median"]["search"] > 0
    assert found["width"] == 8


def test_a_part_without_time_leaves_its_reason(tmp_path: Path) -> None:
    words = ("--only", "evaluation", "search", "--minutes", "1e-9", "--out", tmp_path)
    ended = processes.run(*COMMAND, *words)
    assert ended.returncode == 1, ended.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["parts"]
    assert list(parts) == ["evaluation", "search"]
    assert parts["evaluation"]["state"] == "out of time"
    assert parts["evaluation"]["found"] is None
    reason = "Ended after 0 s, its share of the time."
    assert parts["evaluation"]["reason"] == reason
    assert " ".join(ended.stdout.split()).count("evaluation out of time") == 1
    assert reason[:20] in ended.stdout


class _AsTF32(torch.autograd.Function):
    """Ten bits of mantissa, rounded, as a GPU takes the factors of a product with TF32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        bits = x.contiguous().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def test_a_device_that_rounds_as_tf32_does_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = agreement.training_parser("", p=2, k=2, ids=3)
    parser.add_argument("--steps", type=int)
    words = "--size 32 16 --steps 1"
    options = parser.parse_args(words.split())
    where = {"device": "cpu", "channels_last": False}
    here = agreement.losses(options, "baseline", where)
    again = agreement.losses(options, "baseline", where)
    assert agreement.judged(here, again)["agrees"]
    plain = nn.Conv2d._conv_forward
    monkeypatch.setattr(
        nn.Conv2d,
        "_conv_forward",
        lambda self, x, w, b: plain(self, _AsTF32.apply(x), _AsTF32.apply(w), b),
    )
    there = agreement.losses(options, "baseline", where)
    assert not agreement.judged(here, there)["agrees"]
