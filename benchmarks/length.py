r"""When a baseline is finished: its validation mAP by steps of training, as a curve and a table.

    python -m mixer_plugin.benchmarks.study --config length --out results/length
    python -m mixer_plugin.benchmarks.length --config length --study results/length \
        --out benchmarks/results/length/length

A baseline is finished at the first length that half as many steps again, or more, improve by less
than a point of mAP: in cross and in Mix, mean over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mixer_plugin.benchmarks.experiment.comparisons import Measured, System, level
from mixer_plugin.benchmarks.experiment.measure import measure
from mixer_plugin.benchmarks.experiment.pictures import pyplot, save_figure
from mixer_plugin.benchmarks.experiment.sources import CUES
from mixer_plugin.benchmarks.experiment.study_config import Study, load_study
from mixer_plugin.benchmarks.experiment.workers import missing_cells
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.tables import markdown_table
from mixer_plugin.io.atomic_write import write_text
from mixer_plugin.io.console import run_command

SETTINGS = {"cross": "Cross", "mix": "Mix"}
Curve = Mapping[int, Mapping[int, float]]  # steps → seed → mAP in percent


def lengths_of(study: Study) -> dict[int, str]:
    """Steps of training → the baseline that had them.

    Raises:
        MixERValueError: if the study has no baselines of other lengths.
    """
    found = {study.run.recipe.iterations: "baseline"}  # type: ignore[union-attr]
    for name, variant in study.run.variants.items():
        if variant.mode == "baseline" and variant.recipe is not None:
            found[variant.recipe.iterations] = name  # type: ignore[union-attr]
    if len(found) < 2:
        raise MixERValueError("The study has no variants with mode baseline and other iterations.")
    return dict(sorted(found.items()))


def curve_of(measured: Measured, lengths: Mapping[int, str], setting: str) -> Curve:
    """The mAP of a baseline's lengths in a setting."""
    return {
        steps: level(measured, System(CUES, cell, "erased"), setting, "mAP")
        for steps, cell in lengths.items()
    }


def finished_at(curves: Sequence[Curve], gain: float = 1.0) -> int | None:
    """The first length that no length of half as many steps again, or more, beats by ``gain``.

    A longer one beats it where its mean over seeds is higher by ``gain`` points or more in any of
    the curves. Half again is meant to a hundredth, as lengths are whole: 1181 steps are half as
    many again as 788. None if every length is beaten, or has no such longer one to compare with.
    """
    means = [{n: statistics.fmean(v.values()) for n, v in curve.items()} for curve in curves]
    for steps in means[0]:
        later = [n for n in means[0] if round(n / steps, 2) >= 1.5]
        if later and all(mean[n] - mean[steps] < gain for mean in means for n in later):
            return steps
    return None


def draw(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """A panel per setting, a line per baseline; dots are seeds."""
    plt = pyplot()
    figure, panels = plt.subplots(1, len(SETTINGS), figsize=(8, 3.4), squeeze=False)
    for panel, (setting, title) in zip(panels[0], SETTINGS.items(), strict=True):
        for baseline, own in curves.items():
            curve = own[setting]
            means = [statistics.fmean(values.values()) for values in curve.values()]
            (line,) = panel.plot(list(curve), means, label=baseline)
            for steps, values in curve.items():
                dots = list(values.values())
                panel.plot([steps] * len(dots), dots, "o", color=line.get_color(), markersize=3)
        panel.set_title(f"{title}: validation mAP, %")
        panel.set_xlabel("steps of training")
        panel.set_ylim(0, 1.05 * panel.dataLim.y1)
        panel.grid(linewidth=0.3)
    panels[0, 0].legend(loc="lower right")
    save_figure(figure, path)


def table(curves: Mapping[str, Mapping[str, Curve]]) -> str:
    """A row per baseline and setting; and where each baseline is finished."""
    lengths = list(next(iter(next(iter(curves.values())).values())))
    rows = [
        (
            f"{baseline}, {SETTINGS[setting]}",
            *(f"{statistics.fmean(curve[steps].values()):.1f}" for steps in lengths),
        )
        for baseline, own in curves.items()
        for setting, curve in own.items()
    ]
    ends = (
        f"{baseline}: {finished_at(list(own.values())) or 'not finished'}"
        for baseline, own in curves.items()
    )
    head = ("validation mAP, % after steps", *map(str, lengths))
    return f"{markdown_table(head, rows, labels=1)}\nFinished at: {'; '.join(ends)}.\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes ``OUT.md`` and ``OUT.svg``, and prints the table."""
    parser = argparse.ArgumentParser(prog="length", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, help="the study's file or name")
    parser.add_argument("--study", required=True, type=Path, help="its result folder")
    parser.add_argument("--out", required=True, type=Path, help="of the results, without suffix")
    options = parser.parse_args(arguments)
    study = load_study(options.config)
    lengths, jobs = lengths_of(study), study.jobs()
    for job, cell in missing_cells(jobs, options.study):
        raise MixERValueError(
            f"{job.name}/{cell.name} is not trained yet. Finish the study with --resume."
        )
    measured = measure(study.run, jobs, options.study)
    curves = {
        baseline: {setting: curve_of(found, lengths, setting) for setting in SETTINGS}
        for baseline, found in measured.items()
    }
    text = table(curves)
    write_text(options.out.with_suffix(".md"), text)
    draw(curves, options.out.with_suffix(".svg"))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(run_command("length", main))
