r"""What related heads bring, against what they cost: a table and a picture.

    python -m mixer_plugin.benchmarks.study --config depth --out results/depth
    python -m mixer_plugin.benchmarks.speed.head_cost --config depth --study results/depth \
        --out benchmarks/results/head_cost

Of the heads that a finished study trained on its baseline. The gain is the difference to the
baseline, mean over the study's baselines and mixed settings, by seed: under the paper's rule, and
under the rule that the heads are for (:attr:`MixERConfig.rule`). The cost is what a head adds to
the operations (products and convolutions, counted by ``torch.utils.flop_counter``) of one training
step of ``saai``, with ResNet-50 at 288×144 and with the study's own network, over the bare step's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.experiment.comparisons import Difference
from mixer_plugin.benchmarks.experiment.pictures import pyplot, save_figure
from mixer_plugin.benchmarks.experiment.study_config import Study, load_study
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.speed.step_variants import Case, make_variant
from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.tables import markdown_table
from mixer_plugin.io.atomic_write import write_text
from mixer_plugin.io.console import run_command

MIXED = ("mix", "mix-cam", "mix-cam-id", "mix-id")


def variants_of(study: Study) -> dict[str, MixERConfig]:
    """The heads that were trained on the baseline, by name.

    Raises:
        MixERValueError: if there are none.
    """
    found = {
        name: variant.mixer
        for name in study.variants
        if (variant := study.run.variants[name]).mode == "f"
        and variant.base is None
        and variant.mixer is not None
    }
    if not found:
        raise MixERValueError("The study trains no heads on its baseline. Give one with mode: f.")
    return found


def in_words(heads: MixERConfig) -> str:
    """Kind, depth, width and labels of related heads."""
    shared, stages = heads.head_names == ("shared",), heads.related_stages
    words = ["shared" if shared else "per modality", f"{stages} stage{'s' * (stages > 1)}"]
    if heads.related_width < 1:
        words.append(f"width {heads.related_width:g}")
    if shared == heads.doubles_labels:  # not the labels that such heads usually have
        words.append("doubled labels" if shared else "ordinary labels")
    return ", ".join(words)


def gains(study: Study, folder: Path) -> dict[str, dict[str, Difference]]:
    """Rule → variant → the mean difference to the baseline over baselines and mixed settings.

    The rules: ``paper``; ``own``, which the heads are for. Of ``own`` there is a variant more,
    ``no head``: the calibrated baseline.

    Raises:
        MixERValueError: if the folder holds no finished study.
    """
    path = folder / "recipe.json"
    if not path.exists():
        raise MixERValueError(f"{folder} holds no recipe.json. Run the study first.")
    numbers = json.loads(path.read_text(encoding="utf-8"))

    def mean_of(label: str) -> Difference:
        own = [n for n in numbers if n["difference"] == label and n["setting"] in MIXED]
        if not own:
            raise MixERValueError(f"{path} has no {label!r}. Is it of this configuration?")
        values = {
            int(seed): statistics.fmean(n["seeds"][seed] for n in own) for seed in own[0]["seeds"]
        }
        return Difference(label, "mixed", "mAP", values)

    heads = variants_of(study)
    return {
        "paper": {name: mean_of(f"{name} − baseline") for name in heads},
        "own": {
            "no head": mean_of("baseline, calibrated − baseline"),
            **{name: mean_of(f"{name}, {one.rule} − baseline") for name, one in heads.items()},
        },
    }


def costs(study: Study, trunk: str, size: tuple[int, int]) -> dict[str, float]:
    """Per variant, operations that the heads add to a training step, over the bare step's."""

    def counted(kind: str, **options: Any) -> int:
        case = Case(baseline="saai", mode="f", p=2, k=2, size=size, trunk=trunk, **options)
        return harness.operations(make_variant(case, kind).step)

    whole = counted("bare")
    return {
        name: counted("mixer", mixer=dataclasses.replace(mixer, frozen_base=False)) / whole - 1
        for name, mixer in variants_of(study).items()
    }


def measure(study: Study, folder: Path) -> list[dict[str, Any]]:
    """A row per variant: gains and costs, and their share of the first variant's."""
    (options,) = list(study.run.baselines.values())[:1]
    assert study.run.image_size is not None
    found = gains(study, folder)
    own = costs(study, options.get("trunk", "resnet50"), study.run.image_size)
    large = costs(study, "resnet50", (288, 144))
    first = next(iter(own))
    kinds = variants_of(study)
    nothing = found["own"]["no head"]
    rows: list[dict[str, Any]] = [
        {"variant": "no head", "gain_own": nothing.mean, "std_own": nothing.spread}
    ]
    for name in own:
        row: dict[str, Any] = {"variant": name, "heads": in_words(kinds[name])}
        row["seeds"] = len(found["own"][name].values)
        for rule, by_name in found.items():
            row[f"gain_{rule}"] = by_name[name].mean
            row[f"std_{rule}"] = by_name[name].spread
        row |= {"added": own[name], "added_resnet50": large[name]}
        row |= {"cost": own[name] / own[first], "cost_resnet50": large[name] / large[first]}
        rows.append(row)
    return rows


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A line per kind of heads, the cheapest above: its gain by either rule, with the spread."""
    plt = pyplot()
    nothing, *heads = rows
    heads = sorted(heads, key=lambda row: row["added_resnet50"])
    figure, panel = plt.subplots(figsize=(8.2, 0.42 * len(heads) + 1.8))
    panel.axvline(nothing["gain_own"], color="#777777", linestyle="--")
    panel.annotate(
        "no head, calibrated ",
        (nothing["gain_own"], len(heads) - 0.4),
        ha="right",
        va="center",
        fontsize=9,
        color="#555555",
    )
    labels = {"paper": "the paper's rule", "own": "their own rule"}
    for rule, colour, marker in (("paper", "#0072b2", "o"), ("own", "#d55e00", "s")):
        panel.errorbar(
            [row[f"gain_{rule}"] for row in heads],
            range(len(heads)),
            xerr=[row[f"std_{rule}"] or 0 for row in heads],
            fmt=marker,
            color=colour,
            capsize=3,
        )
        place = (heads[0][f"gain_{rule}"], -0.6)
        panel.annotate(labels[rule], place, ha="center", va="center", fontsize=9, color=colour)
    names = [f"{row['heads']} (+{100 * row['added_resnet50']:.0f} %)" for row in heads]
    panel.set_yticks(range(len(heads)), names)
    panel.set_ylim(len(heads) - 0.1, -1)
    panel.set_xlim(0, 1.15 * max(row["gain_own"] + (row["std_own"] or 0) for row in heads))
    panel.set_xlabel("points of mAP over the baseline, mixed settings")
    panel.set_title(
        "What heads bring on a finished network\n(and add to the operations of a training step)",
        fontsize=11,
    )
    panel.grid(linewidth=0.3)
    save_figure(figure, path)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row per variant."""
    nothing, *heads = rows
    head = ["heads", "the paper's rule", "their own rule", "operations added", "over the first"]
    body = [["no head, calibrated", "", f"{nothing['gain_own']:+.1f}", "0 %", ""]]
    for row in heads:
        gained = (_points(row[f"gain_{rule}"], row[f"std_{rule}"]) for rule in ("paper", "own"))
        added, share = row["added_resnet50"], row["cost_resnet50"]
        body.append([row["heads"], *gained, f"{100 * added:.0f} %", f"{share:.2f}"])
    return markdown_table(head, body)


def _points(mean: float, spread: float | None) -> str:
    return f"{mean:+.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes ``OUT.json``, ``OUT.md`` and ``OUT.svg``, and prints the table."""
    parser = argparse.ArgumentParser(prog="head_cost", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, help="the study's file or name")
    parser.add_argument("--study", required=True, type=Path, help="its result folder")
    parser.add_argument("--out", required=True, type=Path, help="of the results, without suffix")
    options = parser.parse_args(arguments)
    rows = measure(load_study(options.config), options.study)
    harness.write_json(options.out.with_suffix(".json"), rows)
    write_text(options.out.with_suffix(".md"), table(rows))
    draw(rows, options.out.with_suffix(".svg"))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(run_command("head_cost", main))
