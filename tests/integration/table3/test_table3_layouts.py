"""Synth, doctor and the main job, one after the other, for each of the four layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mixer_plugin.cli import main
from tests.integration.table3.test_table3 import CONFIG

SIZE = ("--train-ids", 6, "--val-ids", 2, "--test-ids", 6, "--height", 32, "--width", 16)
# Layout of the training images, of the test images, the columns of the tables, the paper's rows.
CASES = {
    "sysu": ("sysu", "sysu", "Cross R1", ["SAAI | 73.87", "SAAI (f)+MixER", "SAAI+MixER"]),
    "regdb": ("regdb", "regdb", "Cross R1", ["SAAI | 86.21", "MixER | 90.49 | 85.63"]),
    "llcm": ("llcm", "llcm", "Cross R1", ["SAAI | 59.37", "MixER | 65.76 | 51.08"]),
    "market": ("sysu", "market", "V→V R1", []),
}


def synth_and_doctor(layout: str, root: Path, seed: int, capsys: pytest.CaptureFixture) -> None:
    words = ["synth", root, "--layout", layout, "--seed", seed, "--workers", 1, *SIZE]
    assert main([str(word) for word in words]) == 0
    assert main(["doctor", str(root)]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def config_for(folder: Path, data: dict) -> str:
    changes = {
        "data": data,
        "seeds": [0],
        "controls": {},
        "heads": {"when": "joint"},
        "recipe": {**CONFIG["recipe"], "iterations": 4},
        "trials": None,
        "workers": 1,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_synth_doctor_table3(case: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trained, tested, column, paper = CASES[case]
    data: dict = {"root": str(tmp_path / trained)}
    synth_and_doctor(trained, tmp_path / trained, 0, capsys)
    if tested != trained:
        synth_and_doctor(tested, tmp_path / tested, 1, capsys)
        data["test"] = {"root": str(tmp_path / tested)}
    out = tmp_path / "out"
    assert main(["table3", "--config", config_for(tmp_path, data), "--out", str(out)]) == 0
    assert "e2e+MixER" in capsys.readouterr().out
    tables = (out / "table3.md").read_text(encoding="utf-8")
    assert column in tables
    assert "(f)+MixER" in tables
    rows = [line for line in tables.splitlines() if line.startswith("| paper: ")]
    pairs = zip(rows[: len(paper)], paper, strict=True)
    assert all(row.startswith(f"| paper: {start}") for row, start in pairs)
    assert bool(rows) == bool(paper)
    assert ("Mix-Cam" in tables) == (tested != "market")
    card = json.loads((out / "run_card.json").read_text())
    assert set(card["data"]) == {trained, tested}
    assert (out / "queries-saai-base.svg").stat().st_size > 0
    assert not (out / "decoded").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "fault"), [("regdb", "idx/train_visible_1.txt"), ("llcm", "nir")]
)
def test_a_fault_stops_the_job_in_the_doctors_words(
    layout: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / layout
    synth_and_doctor(layout, root, 0, capsys)
    (root / fault).rename(tmp_path / "away")
    assert main(["doctor", str(root), "--no-images"]) == 1
    words = capsys.readouterr().out
    config = config_for(tmp_path, {"root": str(root)})
    assert main(["table3", "--config", config, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    told = [line for line in words.splitlines() if line.startswith("error")]
    assert told
    assert told[0].removeprefix("error").strip() in said
