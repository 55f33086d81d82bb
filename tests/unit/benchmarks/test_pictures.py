"""The pictures of a run: which queries they show, with which scores, and that nothing is cut."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mixer_plugin.benchmarks.experiment import pictures
from mixer_plugin.benchmarks.experiment.comparisons import System
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores


def test_the_queries_are_those_of_the_largest_gain_the_median_and_the_largest_loss():
    rows = np.array([11, 12, 13, 14, 15, 16])
    before = np.array([0.5, 0.5, 0.5, 0.5, np.nan, 0.5])
    after = np.array([0.4, 0.9, 0.1, 0.6, 0.9, 0.5])
    found = pictures.choose_queries(rows, before, after)
    assert [(q.why, q.row, q.after) for q in found] == [
        ("largest gain", 12, 0.9),
        ("median", 16, 0.5),
        ("largest loss", 13, 0.1),
    ]


def test_without_a_positive_no_query_is_shown():
    assert pictures.choose_queries(np.array([1]), np.array([np.nan]), np.array([0.5])) == []


def persons():
    g = torch.Generator().manual_seed(0)
    return FeatureSet(
        erased=torch.randn(40, 8, generator=g),
        related=torch.randn(40, 8, generator=g),
        ids=torch.arange(40) // 4,
        modality=torch.arange(40) % 2,
        cams=1 + 2 * (torch.arange(40) % 2),
    )


def test_scores_of_a_list_are_those_of_the_whole_gallery():
    features, gallery = persons(), np.arange(2, 38)
    best, found = pictures.ranked(features, 5, gallery, "fused-calibrated")
    whole = scores(
        features[torch.tensor([5])], features[torch.as_tensor(gallery)], "fused-calibrated"
    )
    expected = {int(item): float(s) for item, s in zip(gallery, whole[0], strict=True)}
    assert 5 not in best
    assert len(best) == 10
    assert found.tolist() == sorted(found, reverse=True)
    assert [expected[int(item)] for item in best] == pytest.approx(found.tolist())


def test_a_short_gallery_gives_a_short_list():
    best, _ = pictures.ranked(persons(), 5, np.array([4, 5, 6]), "erased")
    assert sorted(best.tolist()) == [4, 6]


def test_the_longest_labels_are_inside_the_picture(tmp_path, monkeypatch):
    rows = {
        "baseline": System("cues", "baseline", "erased"),
        "(f)+MixER": System("cues", "f", "fused-calibrated"),
        "e2e+MixER": System("cues", "e2e", "fused-calibrated"),
        "control: one shared head, (f)": System("cues", "f-ens", "fused-calibrated"),
    }
    measured = {
        (system.world, system.cell, seed): SimpleNamespace(
            rows=[
                SimpleNamespace(
                    setting=setting, rule=system.rule, calibration=None, query="infrared", mAP=m
                )
                for setting in ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id")
            ]
        )
        for m, system in enumerate(rows.values())
        for seed in (0, 1)
    }
    found = []

    def kept(figure, path):
        figure.tight_layout()
        figure.canvas.draw()
        whole, panel = figure.bbox, figure.axes[0]
        texts = [*panel.get_yticklabels(), panel.title, panel.xaxis.label, panel.get_legend()]
        for text in texts:
            box = text.get_window_extent()
            assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, text
            assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, text
        legend, title = (t.get_window_extent() for t in (panel.get_legend(), panel.title))
        assert panel.bbox.y1 <= legend.y0  # it hides no seed
        assert legend.y1 <= title.y0
        found.append([label.get_text() for label in panel.get_yticklabels()])

    monkeypatch.setattr(pictures, "save_figure", kept)
    pictures.gains_plot(measured, rows, "mpanet@efficientnet-lite0-pretrained", tmp_path / "x.svg")
    assert found == [["Cross", "Mix", "Mix-Cam-ID", "Mix-ID"]]
