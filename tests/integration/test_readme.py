"""What the README shows runs as it stands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mixer_plugin.cli import main

README = Path(__file__).resolve().parents[2] / "README.md"


ROOT = README.parent
ATTACH, MEASURED = ROOT / "docs/attach.md", ROOT / "docs/measured.md"
# What the first lines of the README take from the reader's own script.
BEFORE = """
import torch
from mixer_plugin.baselines import create_baseline

model = create_baseline("saai-base", num_classes=4, trunk="small", image_size=(64, 32)).train()
images, ids = torch.randn(16, 3, 64, 32), torch.arange(4).repeat_interleave(4)
cams = torch.tensor([3, 1]).repeat(8)
loader = [(images, ids, cams)]
"""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run_script(code: str, folder: Path) -> str:
    (folder / "example.py").write_text(code, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(folder / "example.py")],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_attach_example_runs(tmp_path):
    (code,) = blocks(ATTACH, "python")
    assert "mixer-shuffled" in run_script(code, tmp_path)


@pytest.mark.slow
def test_the_first_lines_run_in_a_script_of_ones_own(tmp_path):
    first = blocks(README, "python")[0]
    assert len(first.strip().splitlines()) == 6
    assert "mix-cam-id" in run_script(BEFORE + first, tmp_path)


def test_features_of_ones_own_are_evaluated(tmp_path, monkeypatch, capsys):
    run_script(blocks(README, "python")[1], tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "mine.npz"]) == 0
    assert "Mix-Cam-ID" in capsys.readouterr().out.title().replace("Id", "ID")


def test_it_is_read_in_a_minute():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    # What it is, what it gains, how it is installed, and whether real data have shown it.
    first = "\n".join(lines[:45])
    for said in ("one call", "pip install", "(f)+MixER", "nothing here was trained on real data"):
        assert said in first


def test_commands_in_the_readme_exist():
    text = README.read_text(encoding="utf-8")
    helped = subprocess.run(
        [sys.executable, "-m", "mixer_plugin.cli", "--help"], capture_output=True, text=True
    ).stdout
    named = set(re.findall(r"mixer-plugin (\w+)", text))
    assert named == {
        *("table3", "evaluate", "extract", "check", "inspect", "init", "doctor", "bench")
    }
    assert all(name in helped for name in named)
    targets = set(re.findall(r"^make (\w+)", text, re.MULTILINE))
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    assert targets == {"demo", "test"}
    assert all(f"\n{target}:" in makefile for target in targets)


def test_the_pasted_summary_is_the_committed_result():
    text = README.read_text(encoding="utf-8")
    begin, end = "<!-- demo table: begin -->", "<!-- demo table: end -->"
    pasted = text[text.index(begin) : text.index(end)]
    result = README.parent / "benchmarks/results/demo"
    (block,) = re.findall(r"```\n(.*?)```", pasted, re.DOTALL)
    saved = (result / "summary.txt").read_text(encoding="utf-8")
    assert block in saved
    assert block.startswith("mAP, %")
    lines = saved.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


def test_the_measured_ratios_are_the_committed_ones():
    text = MEASURED.read_text(encoding="utf-8")
    results = README.parent / "benchmarks/results"
    speed = json.loads((results / "eval_speed.json").read_text(encoding="utf-8"))
    step = json.loads((results / "step_overhead.json").read_text(encoding="utf-8"))
    assert f"{speed['wall_median']['evaluation_ratio']:.2f} (wall)" in text
    assert f"{speed['cpu_median']['evaluation_ratio']:.2f} (processor time)" in text
    peers = json.loads((results / "evaluator_peers.json").read_text(encoding="utf-8"))
    ratios = [
        f"{peers['cpu_minimum'][name]['ratio']:.0f} ×"
        for name in ("torchreid cython", "fast-reid cython", "MPANet")
    ]
    assert f"| {', '.join(ratios)} |" in text
    large = json.loads((results / "eval_speed_100k.json").read_text(encoding="utf-8"))
    assert f"| {large['gigabytes_beside_features']:.1f} GB, {large['seconds']:.0f} s |" in text
    rerank = json.loads((results / "rerank_speed_torchreid.json").read_text(encoding="utf-8"))
    assert f"| {rerank['cpu_median_ratio']:.1f} ×, " in text
    loading = json.loads((results / "loading_speed.json").read_text(encoding="utf-8"))
    ways = [case["ways"]["1 thread(s)"] for case in loading["cases"]]
    share = [100 * way["loading_cpu_share"] for way in ways]
    waited = 100 * max(way["waited_share"] for way in ways)
    assert f"| at most {waited:.1f} %; {min(share):.0f} to {max(share):.0f} % |" in text
    growth = json.loads((results / "growth.json").read_text(encoding="utf-8"))
    grown = [
        ", ".join(f"{one['per_image'][key]['cpu_median']:.2f}" for one in growth[part])
        for part, key in (("training", "epoch"), ("evaluation", "evaluate"))
    ]
    assert f"| {grown[0]}; {grown[1]} |" in text
    networks = [one for one in step["networks"] if one["mode"] == "e2e"]
    assert [one["baseline"] for one in networks] == ["saai", "ddag", "mpanet"]
    over = [
        ", ".join(f"{one[name]['median']:.2f}" for one in networks)
        for name in ("mixer_over_bare", "overhead_ratio", "mixer_over_floor")
    ]
    assert f"| {over[0]} × |" in text
    assert f"| {over[1]}; {over[2]} |" in text
    short = README.read_text(encoding="utf-8")
    for figure in (
        f"| {speed['wall_median']['evaluation_ratio']:.2f} × |",
        f"| {', '.join(ratios[:2])} faster |",
        f"| {rerank['cpu_median_ratio']:.1f} × faster |",
        f"| {over[0]} × |",
        f"| {over[1]} |",
    ):
        assert figure in short


def test_figures_on_the_integration_pages_are_the_committed_ones():
    root = README.parent
    saved = (root / "benchmarks/results/six/table3.md").read_text(encoding="utf-8")
    for page in sorted((root / "docs/integrations").glob("*.md")):
        rows = re.findall(r"^\| .*\(\d/\d\) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
        own = saved[saved.index(f"### {page.stem}: paired") :] if rows else ""
        own = own[: own.index("**e2e+MixER")] if rows else ""
        assert [row for row in rows if row not in own] == []
        assert len(rows) == (3 if page.stem == "deen" else 0)


def test_the_growth_of_a_store_is_the_committed_one():
    page = (ROOT / "docs/explanations/sizing.md").read_text(encoding="utf-8")
    saved = json.loads((ROOT / "benchmarks/results/store_scale.json").read_text(encoding="utf-8"))
    assert [point["items"] for point in saved["points"]] == [10**n for n in (4, 5, 6, 7)]
    for point in saved["points"]:
        search, add = point["search_ms"], 1000 * point["add_seconds_per_image"]
        row = (
            f"| {point['items']:,} | {add:.2f} | {search['p50']:.0f} ({search['p99']:,.0f}) | "
            f"{point['filtered_ms']['p50']:.0f} | {point['add_one_ms']['p50']:.0f} | "
            f"{point['recall@10']:.3f} | {point['memory_peak'] / 2**30:.1f} GiB | "
            f"{point['folder'] / 1e9:.1f} GB |"
        )
        assert row in page, row
    last = saved["points"][-1]
    assert f"took {last['catch_up_seconds']:.0f} s" in page
    search = last["search_ms"]
    measured = MEASURED.read_text(encoding="utf-8")
    assert f"{search['p50']:.0f} ms ({search['p99']:,.0f})" in measured
