"""Configuration files: a wrong value is one line that names the file and the field, status 2."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mixer_plugin.benchmarks.experiment.config import load_config
from mixer_plugin.benchmarks.experiment.run_folder import claim, config_of_run
from mixer_plugin.benchmarks.experiment.study_config import load_study
from mixer_plugin.cli import main
from mixer_plugin.errors import MixERError

BASE = """name: t
seeds: [0]
image_size: [32, 16]
baselines: {saai-base: {trunk: small}}
data: {synthetic: {train_ids: 4, val_ids: 2, test_ids: 4, height: 32, width: 16}}
"""


def written(folder: Path, lines: str, base: str = BASE) -> Path:
    """The base with lines in place of those of the same keys."""
    keys = {line.split(":")[0] for line in lines.splitlines()}
    kept = [line for line in base.splitlines() if line.split(":")[0] not in keys]
    path = folder / "c.yaml"
    path.write_text("\n".join([*kept, lines, ""]))
    return path


def test_numbers_that_yaml_takes_for_text(tmp_path: Path) -> None:
    found = load_config(written(tmp_path, "recipe: {lr: 1e-3, weight_decay: 5E-4}"))
    assert (found.recipe.lr, found.recipe.weight_decay) == (0.001, 0.0005)
    assert found.image_size == (32, 16)
    lines = "recipe: {lr: 2e-3}\nheads: {when: after, recipe: {lr: 1e-3}}\nseeds: 3"
    found = load_config(written(tmp_path, lines))
    assert (found.heads.recipe.lr, found.seeds) == (0.001, (3,))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('paper: "false"', "paper is 'false'; expected true or false"),
        ('training: {compile: "no"}', "training.compile is 'no'; expected a backend's name"),
        ("training: {compile: yes}", "training.compile is True"),
        ("training: {ema: 1}", "training.ema is 1"),
        ("training: fast", "training is 'fast'"),
        ("workers: yes", "workers is True"),
        ("workers: '2'", "workers is '2'; expected a whole number in"),
        ("workers:", "workers is None"),
        ("workers: 1.5", "workers is 1.5"),
        ("trials: ten", "trials is 'ten'; expected a whole number >= 1, or none"),
        ("trials: 0", "trials is 0"),
        ("name:", "name is None; expected a string"),
        ("seeds: [99999999999999999999]", "seeds is .99999999999999999999.; expected"),
        ("seeds: [-1]", r"seeds is \[-1\]"),
        ("seeds: ~", r"seeds is \(None,\)"),
        ("image_size: 32", "image_size is 32; expected 2 values, each a number of pixels"),
        ("image_size: 32x16", "image_size is '32x16'"),
        ("image_size: [0, 0]", "image_size"),
        ("image_size: [-1, 5]", "image_size"),
        ("image_size: [32.0, 16]", "image_size"),
        ("image_size: ~", "image_size is missing"),
        ("recipe: {lr: .nan}", "recipe.lr is nan"),
        ("recipe: {lr: .inf}", "recipe.lr is inf"),
        ("recipe: {iterations: 10.5}", "recipe.iterations is 10.5"),
        ("recipe: {iterations: 1e3}", "recipe.iterations is '1e3'; expected a whole number"),
        ("recipe: {augmentation: {flip: 'no'}}", "recipe.augmentation.flip is 'no'"),
        ("recipe: {schedule: step, milestones: 5}", "recipe.milestones is 5"),
        ("recipe: {public: {epochs: '1'}}", "recipe.public.epochs is '1'"),
        ("recipe: publik", "recipe is 'publik'; expected `key: value` lines"),
        ("heads: {finish: 'no'}", "heads.finish is 'no'"),
        ("mixer: {lambda_fusion: '0.4'}", "mixer.lambda_fusion is '0.4'"),
        ("variants: {v: {finish: 'no'}}", "variants.v.finish is 'no'"),
        ("variants: {v: {mixer: {gather: 1}}}", "variants.v.mixer.gather is 1"),
        ("variants: {v: {mode: 5}}", "variants.v.mode is 5"),
        ("variants: [v]", r"variants is \['v'\]"),
        ("controls: {f-ens: x}", r"controls.f-ens is \('x',\)"),
        ("baselines: saai", "baselines is 'saai'"),
        ("baselines: ~", "baselines is empty"),
        ("baselines: {saai: {parts: '6'}}", "baselines.saai.parts is '6'"),
        ("baselines: {saai: {part: 6}}", "Unknown key 'part' in baselines.saai. Did you mean"),
        ("baselines: {saai: {trunk: smal}}", "Unknown trunk 'smal'. Did you mean 'small'"),
        ("baselines: {1: {}}", "baselines has the key 1"),
        ("baselines: {sai@small: {}}", "Unknown baseline 'sai'. Did you mean 'saai'"),
        ("baselines: {saai@: {}}", "baselines has 'saai@'; expected a word after the '@'"),
        ("baselines: {saai@a/b: {}}", "baselines has 'saai@a/b'; expected a word"),
        ("baselines: {ddag: {trunk: efficientnet-lite0}}", "baselines.ddag is built from parts of"),
        ("data: {synthetic: {height: 32.5}}", "data.synthetic.height is 32.5"),
        ("data: {synthetic: {train_ids: '4'}}", "data.synthetic.train_ids is '4'"),
        ("data: {synthetic: 5}", "data.synthetic is 5"),
        ("data: {root: 5}", "data.root is 5"),
        ("data: {root: x, cache: [y]}", r"data.cache is \['y'\]"),
        ("data: {synthetic: {}, test: {root: 5}}", "data.test.root is 5"),
        ("data: {synthetic: {}, split: 1}", "data.split is 1"),
        ("protocol: 5", "protocol is 5; expected a string"),
        ("query: yes", "query is True. Options"),
        ("workers: 1\nworkers: 2", "the key 'workers' stands twice"),
        ("wrkers: 1", "Unknown key 'wrkers' in configuration. Did you mean 'workers'"),
        ("1: 2", "Unknown key 1 in configuration"),
    ],
)
def test_wrong_values_are_one_line(
    lines: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = written(tmp_path, lines)
    with pytest.raises(MixERError, match=said) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}")
    out = tmp_path / "out"
    assert main(["table3", "--config", str(path), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"mixer-plugin table3: {caught.value}\n"
    assert not out.exists()


@pytest.mark.parametrize("command", ["table3", "report"])
def test_files_that_hold_no_configuration(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "c.yaml"
    for held in (b"", BASE.encode("utf-16"), b"a: " + b"[" * 1500, None):
        if held is None:
            path = tmp_path
        else:
            path.write_bytes(held)
        assert main([command, "--config", str(path), "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(path) in line


STUDY = BASE.replace("data: {", "data: {split: val, ") + "protocol: full\nvariants: {v: {}}\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("twins: ens", "twins is 'ens'"),
        ("twins: {ens: 5}", "twins.ens is 5; expected values"),
        ("worlds: 5", "worlds is 5"),
        ("variants: 5", "variants is 5"),
        ("variants: {v: 5}", "variants.v is 5"),
        ("variants: {v: {mixer: 5}}", "variants.v.mixer is 5"),
        ("recipe: {lr: 1e}", "recipe.lr is '1e'"),
    ],
)
def test_studies_have_the_same_door(lines: str, said: str, tmp_path: Path) -> None:
    assert load_study(str(written(tmp_path, "workers: 1", STUDY))).variants == ("v",)
    path = written(tmp_path, lines, STUDY)
    with pytest.raises(MixERError, match=said) as caught:
        load_study(str(path))
    assert str(caught.value).startswith(str(path))


def test_a_folder_does_not_hide_the_packaged_file_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config("demo").seeds == (0, 1)


@pytest.mark.parametrize("name", ["demo", "six", "paper/sysu-saai"])
def test_a_result_folder_knows_its_configuration(name: str, tmp_path: Path) -> None:
    given = load_config(name)
    claim(tmp_path, dataclasses.asdict(given), resume=False)
    assert config_of_run(tmp_path) == given


def test_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(MixERError, match="holds no run of table3"):
        config_of_run(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(MixERError, match="is no configuration of table3"):
        config_of_run(tmp_path)
