"""The page that ``evaluate --out`` and ``report --html`` write."""

from __future__ import annotations

import json
import sys

import pytest

from mixer_plugin.cli import main
from tests.integration.evaluate.evaluate_cases import SYSU, make
from tests.unit.report.report_cases import assert_stands_alone, data_of


@pytest.fixture(autouse=True)
def no_plane(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)  # takes long to load


def test_evaluate_writes_it_beside_its_tables(run, stored, tmp_path):
    out = tmp_path / "out"
    status, _, err = run(stored, *SYSU, "--rules", "erased,mixer", "--out", out)
    assert status == 0
    assert f"Report: {out / 'report.html'}\n" in err
    html = (out / "report.html").read_text()
    assert_stands_alone(html)
    (system,) = data_of(html)["systems"]
    assert system["rows"] == json.loads((out / "evaluation.json").read_text())["rows"]


def test_evaluate_leaves_it_out_without_jinja2(run, stored, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    status, text, err = run(stored, *SYSU, "--rules", "erased", "--out", tmp_path / "out")
    assert status == 0
    assert "Report" not in text + err
    assert not (tmp_path / "out" / "report.html").exists()
    assert main(["report", str(stored), "--html", str(tmp_path / "a.html")]) == 2


def test_report_shows_two_systems(stored, tmp_path, capsys):
    make(1).save(tmp_path / "two.features.npz")
    page = tmp_path / "page.html"
    words = ["report", str(stored), str(tmp_path / "two.features.npz"), "--html", str(page)]
    assert main([*words, "--rules", "erased", "--settings", "mix,mix-id"]) == 0
    assert capsys.readouterr().out == f"Report: {page}\n"
    html = page.read_text()
    assert_stands_alone(html)
    assert "needs umap-learn" in html
    data = data_of(html)
    assert [system["name"] for system in data["systems"]] == ["one", "two"]
    assert data["settings"] == ["mix", "mix-id"]
    assert [data["choices"][at]["label"] for at in data["start"]] == ["one, erased", "two, erased"]


def test_report_says_what_does_not_go_together(stored, tmp_path, capsys):
    make()[:50].save(tmp_path / "few.npz")
    page = str(tmp_path / "page.html")
    assert main(["report", str(stored), str(tmp_path / "few.npz"), "--html", page]) == 2
    assert "few.npz has 50 images and the features 72" in capsys.readouterr().err
    assert main(["report", str(stored)]) == 2
    assert "report FEATURES.npz --html FILE.html" in capsys.readouterr().err
    assert main(["report", str(stored), "--html", str(tmp_path / "no" / "page.html")]) == 2
    assert "lies in no folder" in capsys.readouterr().err
