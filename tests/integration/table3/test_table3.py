"""The main job in miniature, through the command line, with interruptions and bad input."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sys
import time
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import yaml

from mixer_plugin.cli import main
from tests.miniature import miniature
from tests.processes import ends, start
from tests.processes import run as run_python
from tests.unit.report.report_cases import assert_stands_alone, data_of

CONFIG = miniature(
    seeds=[0, 1],
    heads={"when": "after", "recipe": {"iterations": 8}},
    controls={"f-ens": [0], "no-cue": [0], "erased-triplet": [1], "e2e-ens": [1]},
    training={"log_every": 4},
    trials=3,
    workers=2,
)


def write_config(folder: Path, **changes) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return path


def run(*words):
    return run_python("-m", "mixer_plugin.cli", *words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table3")
    out = folder / "out"
    result = run("table3", "--config", write_config(folder), "--out", out, "--paper")
    assert result.returncode == 0, result.stderr
    return folder, out, result


@pytest.mark.slow
def test_one_command_prints_and_saves_the_table(finished):
    _, out, result = finished
    for row in ("baseline", "(f)+MixER", "e2e+MixER", "e2e as eq. 16 reads", "control: "):
        assert f"\n{row}" in result.stdout
    assert "(f)+MixER over baseline: Cross 0 exactly" in result.stdout
    lines = result.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert (out / "summary.txt").read_text() == result.stdout
    tables = (out / "table3.md").read_text()
    for words in (
        "saai-base (f)+MixER",
        "paper: SAAI+MixER",
        "e2e, eq. 16",
        "**(f)+MixER, at least**",
        "(f), related shuffled − baseline",
    ):
        assert words in tables
    for name in ("table3.md", "table3.csv", "table3.tex", "table3.json", "run_card.json"):
        assert (out / name).stat().st_size > 0
    for name in ("gains-saai-base.svg", "queries-saai-base.svg"):
        assert (out / name).read_bytes().startswith(b"<?xml")
    card = json.loads((out / "run_card.json").read_text())
    assert card["config"]["seeds"] == [0, 1]
    assert len(card["cells"]) == 14
    assert {"cues-seed0", "cues-seed1", "no-cue-seed0"} == set(card["data"])
    assert all(line.startswith("{") for line in result.stderr.splitlines()[:-1] if line)
    events = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert sum(event["event"] == "done" for event in events) == len(card["cells"])


@pytest.mark.slow
def test_report_prints_what_is_finished(finished, tmp_path, capsys):
    folder, out, _ = finished
    words = ["report", "--config", str(folder / "config.yaml"), "--paper", "--out"]
    assert main([*words, str(out)]) == 0
    assert capsys.readouterr().out == (out / "table3.md").read_text() + "\n"
    part = shutil.copytree(out, tmp_path / "part", ignore=shutil.ignore_patterns("data"))
    for cell in (part / "cells").rglob("e2e*.json"):
        cell.unlink()
    assert main([*words, str(part), "--format", "csv"]) == 0
    assert ",e2e," not in capsys.readouterr().out
    assert main([*words, str(part)]) == 0
    text = capsys.readouterr().out
    assert "NOTE: 5 of 14 cells are not finished." in text
    assert "| saai-base (f)+MixER |" in text
    assert main([*words, str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main([*words[:3], "--out", str(out)]) == 2
    assert "paper: True → False" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_of_a_run_says_what_its_tables_say(finished, tmp_path, capsys, monkeypatch):
    _, out, result = finished
    assert f"Report: {out / 'report.html'}. " in result.stderr.splitlines()[-1]
    text = (out / "report.html").read_text()
    assert_stands_alone(text)
    data = data_of(text)
    table = list(csv.DictReader((out / "table3.csv").read_text().splitlines()))
    for system in data["systems"]:
        for row in system["rows"]:
            same = [
                line
                for line in table
                if (line["seed"], line["world"]) == ("0", "cues")
                and float(line["mAP"]) == row["mAP"]
                and (line["setting"], line["rule"]) == (row["setting"], row["rule"])
            ]
            assert same, row
    assert [s["name"] for s in data["systems"]][:3] == ["baseline", "(f)+MixER", "e2e+MixER"]
    assert sum(image["picture"] is not None for image in data["images"].values()) > 20
    content = json.loads((out / "table3.json").read_text())["saai-base"]["differences"]
    html = unescape(text)
    for each in content:
        # The gain stands there once, though it is the first of the tests too.
        if each["metric"] == "mAP" and each["label"] not in ("(f) − baseline", "e2e − baseline"):
            assert re.search(
                rf"{re.escape(each['label'])}</th>\s*<td>{each['setting']}</td>\s*"
                rf'<td class="number" data-value="{re.escape(str(each["mean"]))}"',
                html,
            ), each
    for sentence in ("(f)+MixER over baseline: Cross 0 exactly", "eq. 16 reads", "paper: SAAI"):
        assert sentence in html
    assert len(re.findall('aria-label="Training loss, saai-base', html)) >= 9
    part, again = shutil.copytree(out, tmp_path / "part"), tmp_path / "again.html"
    for cell in (part / "cells").rglob("*.json"):
        if cell.stem != "baseline":
            cell.unlink()
    monkeypatch.setitem(sys.modules, "umap", None)
    assert main(["report", str(part), "--html", str(again)]) == 0
    assert "NOTE: 11 of 14 cells are not finished." in again.read_text()
    (system,) = data_of(again.read_text())["systems"]
    assert system["name"] == "baseline"
    capsys.readouterr()
    assert main(["report", str(out), str(part), "--html", str(again)]) == 2
    assert "is the folder of a run" in capsys.readouterr().err
    (part / "config.json").write_text('{"name": "other"}')
    assert main(["report", str(part), "--html", str(again)]) == 2
    assert "is no configuration of table3" in capsys.readouterr().err


@pytest.mark.slow
def test_f_leaves_the_baseline_exactly_as_it_was(finished):
    _, out, _ = finished
    differences = json.loads((out / "table3.json").read_text())["saai-base"]["differences"]
    (cross,) = [
        d
        for d in differences
        if (d["label"], d["setting"], d["metric"]) == ("(f)+MixER − baseline", "cross", "mAP")
    ]
    assert cross["seeds"] == {"0": 0.0, "1": 0.0}
    for seed in (0, 1):
        cells = out / "cells" / f"saai-base-cues-seed{seed}"
        base, heads = (np.load(cells / f"{c}.features.npz")["erased"] for c in ("baseline", "f"))
        assert np.array_equal(base, heads)


@pytest.mark.slow
def test_a_second_run_needs_resume_and_another_configuration_another_folder(finished):
    folder, out, first = finished
    again = run("table3", "--config", folder / "config.yaml", "--out", out, "--paper")
    assert again.returncode == 2
    assert "--resume" in again.stderr
    resumed = run("table3", "--config", folder / "config.yaml", "--out", out, "--paper", "--resume")
    assert resumed.returncode == 0
    assert resumed.stdout == first.stdout
    assert '"event": "start"' not in resumed.stderr
    other = folder / "other"
    other.mkdir()
    changed = run("table3", "--config", write_config(other, trials=2), "--out", out, "--resume")
    assert changed.returncode == 2
    assert "another configuration" in changed.stderr


@pytest.mark.slow
def test_joint_heads_give_the_same_baseline_as_training_it_alone(finished, tmp_path):
    _, out, _ = finished
    config = write_config(tmp_path, heads={"when": "joint"}, controls={}, seeds=[0])
    result = run("table3", "--config", config, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    job = "cells/saai-base-cues-seed0"
    alone = np.load(out / job / "baseline.features.npz")["erased"]
    joint = np.load(tmp_path / "out" / job / "f.features.npz")["erased"]
    assert np.array_equal(alone, joint)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_resume_gives_the_same_numbers(finished, tmp_path):
    folder, _, first = finished
    words = ("table3", "--config", folder / "config.yaml", "--out", tmp_path / "out", "--paper")
    process = start("-m", "mixer_plugin.cli", *words)
    deadline = time.time() + 120
    while not list(tmp_path.glob("out/cells/*/*.json")) and time.time() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    ((status, _, stderr),) = ends([process], timeout=60)
    assert status == 130, stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    done = {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/cells/*/*.json")}
    assert done
    assert not (tmp_path / "out" / "table3.md").exists()
    resumed = run(*words, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == first.stdout
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = run("table3", "--config", write_config(tmp_path), "--out", tmp_path / "file" / "out")
    assert result.returncode == 2
    assert "Choose another --out" in result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_key(tmp_path):
    result = run("table3", "--config", write_config(tmp_path, seedz=[0]), "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "Did you mean 'seeds'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_missing_configuration(tmp_path):
    result = run("table3", "--config", tmp_path / "no.yaml", "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "no.yaml" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "set"
    sizes = {k.replace("_", "-"): v for k, v in CONFIG["data"]["synthetic"].items()}
    result = run("synth", root, *(w for k, v in sizes.items() for w in (f"--{k}", v)))
    assert result.returncode == 0, result.stderr
    assert "images, written" in result.stdout
    return root


def test_synth_then_doctor(written):
    healthy = run("doctor", written)
    assert healthy.returncode == 0, healthy.stdout
    assert "0 errors" in healthy.stdout


@pytest.mark.slow
def test_a_data_set_that_is_already_on_disk(written, tmp_path):
    config = write_config(tmp_path, data={"root": str(written)}, controls={}, seeds=[0])
    result = run("table3", "--config", config, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "e2e+MixER" in result.stdout
    assert not (tmp_path / "out" / "data").exists()


FAULTS = {
    "missing split file": (lambda r: (r / "exp/test_id.txt").unlink(), "test_id"),
    "empty identity folder": (
        lambda r: [p.unlink() for p in (r / "cam1/0002").iterdir()],
        "cam1/0002",
    ),
    "truncated image": (
        lambda r: (r / "cam3/0001/0001.jpg").write_bytes(
            (r / "cam3/0001/0001.jpg").read_bytes()[:300]
        ),
        "cam3/0001/0001.jpg",
    ),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_in_the_data_is_named_by_doctor_and_stops_training(written, tmp_path, fault):
    root = tmp_path / "set"
    shutil.copytree(written, root)
    plant, name = FAULTS[fault]
    plant(root)
    doctor = run("doctor", root)
    assert doctor.returncode == 1
    assert name in doctor.stdout
    config = write_config(tmp_path, data={"root": str(root)}, controls={}, seeds=[0])
    training = run("table3", "--config", config, "--out", tmp_path / "out")
    assert training.returncode == 2, training.stderr
    assert name in training.stderr
    assert "Traceback" not in training.stderr


def test_evaluate_stored_features(finished, tmp_path):
    _, out, _ = finished
    features = out / "cells/saai-base-cues-seed0/f.features.npz"
    result = run(
        "evaluate", features, "--protocol", "sysu/all/single", "--trials", 2,
        "--rules", "erased,mixer", "--calibration", "none,znorm", "--out", tmp_path / "e",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "mix-cam-id" in result.stdout
    forms = {".txt", ".md", ".csv", ".tex", ".json", ".html"}
    assert {p.suffix for p in (tmp_path / "e").iterdir()} == forms
    wrong = run("evaluate", features, "--protocol", "sysu/all/singel")
    assert wrong.returncode == 2
    assert "Did you mean" in wrong.stderr


def test_list():
    result = run("list")
    assert "saai" in result.stdout
    assert "generic" in result.stdout


SIX = ("ddag", "deen", "sgeil", "mpanet", "saai", "idkl")


@pytest.mark.slow
def test_all_six_baselines_in_every_mode(tmp_path):
    """Heads trained jointly here, in each codebase's own loop; ``six.yaml`` trains them after."""
    steps = {**CONFIG["recipe"], "iterations": 4}
    changes = {"baselines": {name: {"trunk": "small"} for name in SIX}, "seeds": [0]}
    changes |= {"recipe": steps, "heads": {"when": "joint"}, "controls": {}, "trials": 2}
    out = tmp_path / "out"
    result = run("table3", "--config", write_config(tmp_path, **changes), "--out", out)
    assert result.returncode == 0, result.stderr
    tables = (out / "table3.md").read_text()
    assert "### All baselines: mAP" in tables
    saved = json.loads((out / "table3.json").read_text())
    assert set(saved) == set(SIX)
    for name in SIX:
        for row in (f"| {name} |", f"| {name} (f)+MixER |", f"| {name}+MixER, e2e |"):
            assert tables.count(row) >= 2, row
        values = {
            (d["label"], d["setting"]): d["mean"]
            for d in saved[name]["differences"]
            if d["metric"] == "mAP"
        }
        assert values["(f)+MixER − baseline", "cross"] == 0.0
        assert values["e2e+MixER − baseline", "cross"] != 0.0
        terms = json.loads((out / "cells" / f"{name}-cues-seed0" / "e2e.json").read_text())
        assert terms["steps"] == 4
    assert (out / "data" / "cues-seed0-shapes" / "cam3").is_dir()
