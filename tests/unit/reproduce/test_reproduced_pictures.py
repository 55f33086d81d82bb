"""The pictures of studies and of `bench`: the longest labels stay inside, the marks are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixer_plugin.benchmarks.experiment.pictures import ShownList, lists_figure, pyplot
from mixer_plugin.benchmarks.forest import forest, main
from mixer_plugin.benchmarks.reproduce import ablations, figures
from mixer_plugin.benchmarks.reproduce.networks import WEIGHTS
from mixer_plugin.errors import MixERError
from mixer_plugin.evaluation.report.lists import separate
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.atomic_write import write_json

SETTINGS = ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id", "uni")
LABELS = (
    "(f), recommended − baseline",
    "(f), recommended − trained longer, calibrated",
    "(f), recommended − second head fused, calibrated",
    "e2e, recommended − trained longer, calibrated",
)


def assert_inside(figure) -> None:
    """Every word lies within the frame, as ``save_figure`` lays it out."""
    figure.tight_layout()
    figure.canvas.draw()
    frame = figure.bbox
    words = [*figure.texts, *([figure._suptitle] if figure._suptitle else [])]
    for panel in filter(lambda panel: panel.axison, figure.axes):
        legend = panel.get_legend()
        words += [panel.title, panel.xaxis.label, panel.yaxis.label]
        words += [] if legend is None else legend.get_texts()
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            shown = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            words += [tick.label1 for tick in shown if tick.label1.get_visible()]
    words = [text for text in words if text.get_text().strip()]
    assert words
    for text in words:
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= -1
        inside = inside and box.x1 <= frame.x1 + 1 and box.y1 <= frame.y1 + 1
        assert inside, (text.get_text(), box.bounds, frame.bounds)
    pyplot().close(figure)


def numbers():
    return [
        {"baseline": baseline, "difference": label, "setting": setting,
         "mean": 10.0 * at + place, "interval": [10.0 * at + place - 1, 10.0 * at + place + 2]}
        for baseline in ("saai-base", "mpanet")
        for place, label in enumerate(LABELS)
        for at, setting in enumerate(SETTINGS)
    ]  # fmt: skip


def test_a_forest_shows_every_mean_with_its_interval():
    figure = forest(numbers(), LABELS)
    for panel in figure.axes:
        points = sorted(
            float(line.get_xdata()[0]) for line in panel.lines if line.get_marker() == "o"
        )
        assert points == sorted(10.0 * at + place for at in range(6) for place in range(4))
        spans = {tuple(line.get_xdata()) for line in panel.lines if line.get_linestyle() == "-"}
        assert (19.0, 22.0) in spans
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()][-1] == "within"
    assert_inside(figure)


def test_a_forest_names_what_it_does_not_know(tmp_path, capsys):
    with pytest.raises(MixERError, match="Did you mean"):
        forest(numbers(), ["(f), recommended - baseline"])
    with pytest.raises(MixERError, match="--difference"):
        forest(numbers(), [*LABELS, LABELS[0]])
    write_json(tmp_path / "recipe.json", numbers())
    out = tmp_path / "forest.svg"
    words = [str(tmp_path / "recipe.json"), "--out", str(out)]
    assert main([*words, "--difference", LABELS[1]]) == 0
    assert out.stat().st_size > 0
    assert main([*words, "--difference", "none"]) == 2
    assert "none" in capsys.readouterr().err


def test_a_forest_of_several_studies_has_every_baseline_once(tmp_path, capsys):
    files, out = [tmp_path / f"{place}.json" for place in range(3)], tmp_path / "forest.svg"
    for path, baseline in zip(files, ("saai-base", "mpanet", "mpanet"), strict=True):
        write_json(path, [row for row in numbers() if row["baseline"] == baseline])
    assert main([*map(str, files[:2]), "--out", str(out)]) == 0
    together, files[0] = out.read_bytes(), tmp_path / "together.json"
    write_json(files[0], numbers())
    assert main([str(files[0]), "--out", str(out)]) == 0
    assert out.read_bytes() == together
    assert main([*map(str, files[1:]), "--out", str(out)]) == 2
    assert "stands twice" in capsys.readouterr().err


def test_bars_and_histograms_keep_their_words_inside():
    rows = [
        {"weight": weight, "value": value, "seed": 0, "r1": 100.0, "mAP": 99.9}
        for weight in WEIGHTS
        for value in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    assert_inside(ablations._bars(rows))
    g = np.random.default_rng(0)
    parts = separate(g.normal(1, 1, 50).astype("f"), g.normal(0, 1, 500).astype("f"))
    names = [f"{name}, Mix-Cam-ID" for name in ("baseline",) * 3 + ("MixER end to end",) * 3]
    assert_inside(figures._histograms([(name, parts) for name in names]))


def persons(paths=None) -> FeatureSet:
    g = torch.Generator().manual_seed(0)
    return FeatureSet(
        erased=torch.randn(32, 8, generator=g),
        related=torch.randn(32, 8, generator=g),
        ids=torch.arange(32) // 4,
        modality=torch.arange(32) % 2,
        cams=100 + torch.arange(32) % 2,
        paths=paths,
    )


def test_planes_and_lists_keep_their_words_inside(tmp_path):
    from PIL import Image

    features = persons()
    places = {name: figures.plane(features.erased)[0] for name in ("baseline", "fused")}
    assert_inside(figures._planes(places, features.ids.numpy(), features.modality.numpy()))
    paths = [str(tmp_path / f"{i}.png") for i in range(32)]
    for i, path in enumerate(paths):
        Image.new("RGB", (16, 32), (i, i, i)).save(path)
    label = "largest loss\nMixER end to end\nAP 100 %"
    lists = [ShownList(q, label, list(range(1, 7)), [-0.25] * 6) for q in range(6)]
    assert_inside(lists_figure(lists, persons(paths), "Mix-Cam-ID: baseline and MixER", 6))


def test_the_plane_of_components_is_that_of_a_literal_decomposition(monkeypatch):
    monkeypatch.setattr(figures, "embed", lambda features: None)
    features = persons().erased
    places, how = figures.plane(features)
    assert "principal" in how
    unit = torch.nn.functional.normalize(features.double())
    centred = (unit - unit.mean(0)).numpy()
    values, vectors = np.linalg.eigh(centred.T @ centred)
    literal = centred @ vectors[:, np.argsort(-values)[:2]]
    assert np.allclose(np.abs(places), np.abs(literal), atol=1e-9)


def test_fused_features_count_both_halves_alike():
    features = persons()
    fused = figures.fused(features)
    assert torch.allclose(fused.norm(dim=1), torch.full((32,), 2.0).sqrt())
    assert torch.allclose(fused[:, :8], torch.nn.functional.normalize(features.erased))
