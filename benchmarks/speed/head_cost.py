r"""What lighter related heads keep of the gain, against what they cost: a table and a picture.

    python -m mixer_plugin.benchmarks.experiment.study --config heads --out results/heads
    python -m mixer_plugin.benchmarks.speed.head_cost --config heads --study results/heads \
        --out benchmarks/results/heads

The gain is a finished study's difference to the baseline, mean over its baselines and mixed
settings, by seed. The cost of a head is what it adds to the operations (products and convolutions,
counted by ``torch.utils.flop_counter``) of one training step of ``saai``, with ResNet-50 at
288×144 and with the study's own network, over the operations of the bare step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.experiment.comparisons import Difference
from mixer_plugin.benchmarks.experiment.pictures import pyplot, save_figure
from mixer_plugin.benchmarks.experiment.study import Study, load_study
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.speed.step_variants import Case, make_variant
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.console import run_command

MIXED = ("mix", "mix-cam", "mix-cam-id", "mix-id")


def gains(study: Study, folder: Path, rule: str) -> dict[str, Difference]:
    """Per variant, the mean difference to the baseline over baselines and mixed settings.

    Of a study, its folder of results and a rule, ``paper`` or ``calibrated``.

    Raises:
        MixERValueError: if the folder holds no finished study.
    """
    path = folder / "recipe.json"
    if not path.exists():
        raise MixERValueError(f"{folder} holds no recipe.json. Run the study first.")
    numbers = json.loads(path.read_text(encoding="utf-8"))
    found = {}
    for name in study.variants:
        label = f"{name} − baseline" if rule == "paper" else f"{name}, calibrated"
        own = [n for n in numbers if n["difference"] == label and n["setting"] in MIXED]
        if not own:
            raise MixERValueError(f"{path} has no {label!r}. Is it of this configuration?")
        values = {
            int(seed): statistics.fmean(n["seeds"][seed] for n in own) for seed in own[0]["seeds"]
        }
        found[name] = Difference(name, "mixed", "mAP", values)
    return found


def costs(study: Study, trunk: str, size: tuple[int, int]) -> dict[str, float]:
    """Per variant, operations that the heads add to a training step, over the bare step's.

    Raises:
        MixERValueError: for a variant without heads, such as a baseline.
    """

    def counted(kind: str, **options: Any) -> int:
        case = Case(baseline="saai", mode="f", p=2, k=2, size=size, trunk=trunk, **options)
        return harness.operations(make_variant(case, kind).step)

    mixers = {name: study.run.variants[name].mixer for name in study.variants}
    if bare := [name for name, mixer in mixers.items() if mixer is None]:
        raise MixERValueError(
            f"{', '.join(bare)} has no heads to count. Give a study whose variants all have some."
        )
    whole = counted("bare")
    return {name: counted("mixer", mixer=mixer) / whole - 1 for name, mixer in mixers.items()}


def measure(study: Study, folder: Path) -> list[dict[str, Any]]:
    """A row per variant: gains, their share of the first variant's, and costs."""
    (options,) = list(study.run.baselines.values())[:1]
    assert study.run.image_size is not None
    own = costs(study, options.get("trunk", "resnet50"), study.run.image_size)
    large = costs(study, "resnet50", (288, 144))
    first = study.variants[0]
    rows = []
    by_rule = {rule: gains(study, folder, rule) for rule in ("paper", "calibrated")}
    for name in study.variants:
        row: dict[str, Any] = {"variant": name, "seeds": len(by_rule["paper"][name].values)}
        for rule, found in by_rule.items():
            row[f"gain_{rule}"] = found[name].mean
            row[f"std_{rule}"] = found[name].spread
            row[f"kept_{rule}"] = found[name].mean / found[first].mean
        row |= {"added": own[name], "added_resnet50": large[name]}
        row |= {"cost": own[name] / own[first], "cost_resnet50": large[name] / large[first]}
        rows.append(row)
    return rows


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Gain over cost, a dot per variant with its spread over seeds."""
    plt = pyplot()
    figure, panel = plt.subplots(figsize=(6.4, 4.2))
    for rule, colour, marker in (("paper", "#1f4e9c", "o"), ("calibrated", "#0b6e4f", "s")):
        panel.errorbar(
            [100 * row["added_resnet50"] for row in rows],
            [row[f"gain_{rule}"] for row in rows],
            yerr=[row[f"std_{rule}"] or 0 for row in rows],
            fmt=marker,
            color=colour,
            capsize=3,
            label="paper's rule" if rule == "paper" else "calibrated rule, both sides",
        )
    for row in rows:
        place = (100 * row["added_resnet50"], row["gain_paper"])
        panel.annotate(row["variant"], place, xytext=(6, -12), textcoords="offset points")
    panel.set_xlabel("operations added to a ResNet-50 training step, %")
    panel.set_ylabel("gain over the baseline, mean of the mixed settings, mAP points")
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    panel.grid(linewidth=0.3)
    panel.legend(loc="lower right")
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes ``OUT.json`` and ``OUT.png``, and prints the table."""
    parser = argparse.ArgumentParser(prog="head_cost", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, help="the study's file or name")
    parser.add_argument("--study", required=True, type=Path, help="its result folder")
    parser.add_argument("--out", required=True, type=Path, help="of the results, without suffix")
    options = parser.parse_args(arguments)
    rows = measure(load_study(options.config), options.study)
    harness.write_json(options.out.with_suffix(".json"), rows)
    draw(rows, options.out.with_suffix(".png"))
    for row in rows:
        print(
            f"{row['variant']:14s} gain {row['gain_paper']:+.2f} (kept {row['kept_paper']:.0%}), "
            f"calibrated {row['gain_calibrated']:+.2f} (kept {row['kept_calibrated']:.0%}); "
            f"adds {row['added_resnet50']:.1%} to a ResNet-50 step "
            f"({row['cost_resnet50']:.0%} of the first), {row['added']:.1%} to the study's "
            f"({row['cost']:.0%})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_command("head_cost", main))
