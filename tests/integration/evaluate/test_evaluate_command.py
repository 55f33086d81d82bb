"""``mixer-plugin evaluate``: its inputs, tables, defaults, audit and exit codes."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch

from mixer_plugin.cli import parser
from mixer_plugin.commands.evaluate import run as command
from mixer_plugin.distributed.device import device_trouble
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import SETTINGS, evaluate, get_protocol
from mixer_plugin.evaluation.analysis.fairness import fair_report
from mixer_plugin.evaluation.audit.audit import audit
from mixer_plugin.evaluation.terminal import to_text
from tests.integration.evaluate.evaluate_cases import SYSU, columns, make, rows_of


def test_the_table_has_its_controls_by_default(run, stored):
    status, out, _ = run(stored, "--format", "csv")
    assert status == 0
    expected = {
        (r, c) for r in ("erased", "mixer", "mixer-shuffled") for c in ("", "znorm", "center")
    }
    assert columns(rows_of(out), "rule", "calibration") == expected
    make(related=False).save(stored)
    _, out, _ = run(stored, "--format", "csv")
    expected = {("erased", calibration) for calibration in ("", "znorm", "center")}
    assert columns(rows_of(out), "rule", "calibration") == expected
    _, out, _ = run(stored, "--format", "csv", "--calibration", "none,znorm", "--settings", "mix")
    assert columns(rows_of(out), "setting", "calibration") == {("mix", ""), ("mix", "znorm")}


def test_the_calibrated_rule_by_its_name(run, stored):
    given = ("--rules", "mixer-calibrated", "--calibration", "none,center", "--audit", "9")
    status, out, err = run(stored, *SYSU, *given, "--format", "csv")
    assert status == 0
    assert "audit passed" in out + err
    expected = {("mixer-calibrated", ""), ("mixer-calibrated", "center")}
    assert columns(rows_of(out), "rule", "calibration") == expected


def test_printed_and_written_are_what_evaluate_returns(run, stored, tmp_path):
    given = ("--rules", "erased,mixer", "--calibration", "none", "--query", "both")
    results = evaluate(
        make(), get_protocol("sysu/all/single@ye"), query="both", trials=2, calibration=None
    )
    forms = {
        "md": results.to_markdown(),
        "csv": results.to_csv(),
        "tex": results.to_latex(),
        "json": results.to_json(),
    }
    for form, text in forms.items():
        status, out, err = run(stored, *SYSU, *given, "--format", form, "--out", tmp_path / "t")
        assert status == 0
        assert out.endswith(text)
        assert (out == text) == (form != "md")
        assert results.contract in (out if form == "md" else err)
        assert (results.contract in out) == (form == "md")
        written = {path.name: path.read_bytes().decode() for path in (tmp_path / "t").iterdir()}
        expected = {"txt": to_text(results), **forms}
        tables = {name: value for name, value in written.items() if "evaluation." in name}
        assert tables == {f"evaluation.{name}": value for name, value in expected.items()}
    _, out, _ = run(stored, *SYSU, *given)
    assert forms["md"] in out


def test_options_reach_the_protocol(run, stored):
    _, out, _ = run(stored, *SYSU, "--colocated-mixed", "--cmc", "standard")
    protocol = get_protocol("sysu/all/single@ye", cmc="standard", colocated_mixed=True)
    assert protocol.describe(make(), 2) in out
    assert protocol.describe() != get_protocol("sysu/all/single@ye").describe()
    _, out, _ = run(stored, "--device", "cpu", "--settings", "mix")
    assert "| mix |" in out


def test_settings_and_query_left_open_are_the_protocols(stored, tmp_path, capsys):
    folders = ["query" if row % 4 == 0 else "bounding_box_test" for row in range(72)]
    paths = [f"{folder}/{row}.jpg" for row, folder in enumerate(folders)]
    market = dataclasses.replace(make(), modality=np.zeros(72), paths=paths)
    market.save(tmp_path / "market.npz")
    for name, protocol in (("one", "full"), ("market", "market1501")):
        given = ["evaluate", str(tmp_path / f"{name}.npz"), "--protocol", protocol]
        options = parser().parse_args([*given, "--rules", "erased", "--format", "csv"])
        options.query = None
        assert command.run_evaluate(options) == 0
        expected = {"full": {(setting, "infrared") for setting in SETTINGS}}
        expected["market1501"] = {("uni", "visible")}
        out = capsys.readouterr().out
        assert columns(rows_of(out), "setting", "query") == expected[protocol]
    fair = fair_report(market, "market1501").results
    assert {(row.setting, row.query) for row in fair.rows} == {("uni", "visible")}


def test_several_inputs(run, stored, tmp_path):
    make(1).save(tmp_path / "two.npz")
    both = (stored, tmp_path / "two.npz", "--rules", "mixer", "--calibration", "none")
    single = [run(path, *both[2:], "--format", "csv")[1] for path in both[:2]]
    _, out, _ = run(*both, "--format", "csv")
    expected = [
        {"features": str(path)} | row
        for path, text in zip(both[:2], single, strict=True)
        for row in rows_of(text)
    ]
    assert rows_of(out) == expected
    _, out, _ = run(*both, "--format", "json", "--out", tmp_path / "out")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["features"] for line in lines] == [str(path) for path in both[:2]]
    for line, name in zip(lines, ("one", "two"), strict=True):
        written = json.loads((tmp_path / "out" / name / "evaluation.json").read_text())
        assert {"features": line["features"], **written} == line
    assert lines[0]["rows"] != lines[1]["rows"]
    _, out, _ = run(*both)
    assert [line for line in out.splitlines() if line.startswith("## ")] == [
        f"## {path}" for path in both[:2]
    ]
    _, out, _ = run(*both, "--format", "tex")
    assert out.count(r"\begin{tabular}") == out.count("% ") == 2


def test_arrays_with_a_table_of_labels(run, stored, tmp_path):
    features = make()
    np.save(tmp_path / "e.npy", features.erased.numpy())
    np.save(tmp_path / "r.npy", features.related.numpy())
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "pid", "camid", "modality"])
        labels = (features.paths, features.ids.tolist(), features.cams.tolist())
        words = ["IR" if m else "RGB" for m in features.modality.tolist()]
        writer.writerows(zip(*labels, words, strict=True))
    given = ("--labels", tmp_path / "labels.csv", *SYSU, "--format", "csv")
    expected = run(stored, *SYSU, "--format", "csv")[1]
    assert run(tmp_path / "e.npy", "--related", tmp_path / "r.npy", *given)[1] == expected
    # One table for all arrays; an .npz among them brings its own labels.
    status, out, _ = run(tmp_path / "e.npy", stored, *given, "--rules", "erased")
    assert status == 0
    first, second = (
        [{k: v for k, v in row.items() if k != "features"} for row in rows_of(out)
         if row["features"] == str(path)]
        for path in (tmp_path / "e.npy", stored)
    )  # fmt: skip
    assert first == second


def test_mat_features(run, stored, tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    features = make()
    for name in ("erased", "related"):
        (tmp_path / name).mkdir()
        for cam in range(1, 7):
            cell = np.empty((1, 4), dtype=object)
            for identity in range(1, 5):
                rows = (features.cams == cam) & (features.ids == identity)
                cell[0, identity - 1] = getattr(features, name)[rows].numpy()
            scipy_io.savemat(tmp_path / name / f"x_cam{cam}.mat", {"feature": cell})
    given = (*SYSU, "--format", "csv")
    out = run(tmp_path / "erased", "--related-mat", tmp_path / "related", *given)[1]
    assert out == run(stored, *given)[1]
    out = run(tmp_path / "erased" / "x_cam1.mat", *given)[1]
    assert out == run(stored, *given, "--rules", "erased")[1]


def test_the_audit_passes_and_fails(run, stored, monkeypatch):
    status, out, _ = run(stored, *SYSU, "--audit")
    assert status == 0
    assert "audit passed" in out
    status, out, err = run(stored, *SYSU, "--audit", "5", "--format", "json")
    assert status == 0
    assert "audit passed" in err
    json.loads(out)

    def sabotaged(*args, **kwargs):
        results = evaluate(*args, **kwargs)
        key = next(iter(results.per_query_ap))
        at, ap = results.per_query_ap[key]
        changed = {key: (at, ap * 0.9)}
        return dataclasses.replace(results, per_query_ap=results.per_query_ap | changed)

    monkeypatch.setattr(command, "evaluate", sabotaged)
    status, out, _ = run(stored, *SYSU, "--audit")
    assert status == command.AUDIT_FAILED == 4
    assert "audit FAILED" in out
    assert run(stored, *SYSU)[0] == 0  # not asked for


def test_an_audit_refuses_re_ranked_results():
    results = evaluate(make(), "full", settings=("mix",), rules=("erased",), rerank="aim")
    with pytest.raises(MixERValueError, match="knows nothing of re-ranking"):
        audit(make(), "full", results)


def test_more_options_reach_the_protocol(run, stored):
    given = ("--protocol", "sysu/all/single@ye", "--trials", "2", "--settings", "cross,uni")
    _, out, _ = run(stored, *given, "--same-camera", "keep", "--format", "csv", "--rules", "erased")
    protocol = get_protocol("sysu/all/single@ye", same_camera="keep")
    expected = evaluate(
        make(),
        protocol,
        settings=("cross", "uni"),
        rules=("erased",),
        calibration=(None, "znorm", "center"),
        trials=2,
    )
    assert out == expected.to_csv()
    assert out != run(stored, *given, "--format", "csv", "--rules", "erased")[1]
    features = make()
    lone = features[~((features.ids == 4) & (features.modality == 0)).numpy()]
    lone.save(stored)
    assert run(stored, *given)[0] == 0
    status, out, err = run(stored, *given, "--no-positive", "error")
    assert (status, out) == (2, "")
    assert "have no positive in setting 'cross'" in err


def test_a_process_takes_a_gpu_of_its_own(monkeypatch):
    def empty(*_, device):
        asked.append(str(device))
        return torch.zeros(0)

    monkeypatch.setattr("torch.empty", empty)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    asked: list[str] = []
    assert device_trouble("cuda:0") is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_trouble("cuda") is None
    assert asked == ["cuda:0", "cuda:1"]
    assert "give --device cuda" in (device_trouble("cuda:0") or "")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert "there are 2" in (device_trouble("cuda") or "")
    assert device_trouble("cpu") is None


def wrong(stored, tmp_path):
    """Arguments by what is wrong with them, and what is said."""
    twin = tmp_path / "twin" / "one.npz"
    twin.parent.mkdir()
    make().save(twin)
    broken = tmp_path / "broken.npz"
    broken.write_bytes(stored.read_bytes()[:500])
    plain, fewer, other = (tmp_path / f"{name}.npz" for name in ("plain", "fewer", "other"))
    make(related=False).save(plain)
    make()[list(range(30))].save(fewer)
    features = make()
    dataclasses.replace(features, ids=features.ids.flip(0)).save(other)
    turned = tmp_path / "turned.npz"  # the same labels, other images
    dataclasses.replace(features, paths=features.paths[1::-1] + features.paths[2:]).save(turned)
    return {
        "no file": ((tmp_path / "none.npz",), "none.npz is not a file"),
        "damaged": ((broken,), "broken.npz"),
        "names": ((stored, twin, "--out", tmp_path / "o"), "Several results are named 'one'"),
        "related": ((stored, twin, "--related", "r.npy"), "related features of one input"),
        "both related": ((stored, "--related", "a", "--related-mat", "b"), "give one of them"),
        "labels": ((stored, "--labels", "l.csv"), "brings its own ids"),
        "audit": ((stored, "--audit", "0"), "at least one query"),
        "rerank": ((stored, "--audit", "--rerank", "aim"), "leave one of --audit and --rerank"),
        "unknown rerank": ((stored, "--rerank", "k-reciprocall"), "k-reciprocal"),
        "device": ((stored, "--device", "gpu"), "--device gpu cannot be used"),
        "cmc": ((stored, "--cmc", "dedupe"), "Did you mean 'dedup'"),
        "protocol": ((stored, "--protocol", "sysu/all/singel"), "Did you mean"),
        "setting": ((stored, "--settings", "mix,crosss"), "Did you mean 'cross'"),
        "rule": ((stored, "--rules", "mixr"), "Did you mean 'mixer'"),
        "calibration": ((stored, "--calibration", "znrm"), "Did you mean 'znorm'"),
        "shard": ((stored, "--shard", "row"), "Did you mean 'rows'"),
        "same camera": ((stored, "--same-camera", "any"), "Did you mean 'any-id'"),
        "no positive": ((stored, "--no-positive", "errors"), "Did you mean 'error'"),
        "fair": ((stored, "--fair", "--rerank", "aim"), "leave one of --fair and --rerank"),
        "diagnostics": ((stored, "--diagnostics", "--rerank", "aim"), "one of --diagnostics and"),
        "mixed": ((stored, "--diagnostics", "--settings", "cross,uni"), "one of mix, mix-cam"),
        "compare rule": ((stored, "--compare-rule", "erased"), "give --against OTHER"),
        "rules": ((stored, "--against", twin, "--compare-rule", "a,b,c"), "one for each"),
        "no rule": ((stored, "--against", twin, "--compare-rule", "mixr"), "Did you mean 'mixer'"),
        "no related": ((stored, "--against", plain, "--compare-rule", "mixer"), "needs related"),
        "no other": ((stored, "--against", tmp_path / "none.npz"), "none.npz is not a file"),
        "fewer": ((stored, "--against", fewer), "has 30 images and the features 72"),
        "other ids": ((stored, "--against", other), "row 0 differs in ids"),
        "turned": ((stored, "--against", turned), "row 0 differs in file name ('0002.jpg'"),
        "out": ((stored, "--out", stored), "Cannot make the folder"),
        "labels of none": ((stored, twin, "--labels", tmp_path / "l.csv"), "is for .npy features"),
    }


@pytest.mark.parametrize(
    "fault",
    [
        *("no file", "damaged", "names", "related", "both related", "labels", "audit", "rerank"),
        *("unknown rerank", "device", "cmc", "protocol", "setting", "rule", "calibration", "out"),
        *("shard", "same camera", "no positive", "fair", "diagnostics", "mixed", "compare rule"),
        *("rules", "no rule", "no related", "no other", "fewer", "other ids", "turned"),
        "labels of none",
    ],
)
def test_wrong_input_is_one_line_and_status_2(run, stored, tmp_path, fault):
    arguments, message = wrong(stored, tmp_path)[fault]
    status, out, err = run(*arguments)
    assert status == 2
    assert err.startswith("mixer-plugin evaluate: ")
    assert err.count("\n") == 1
    assert message in err
    assert not out
