"""What a PCA costs at the widths of real embeddings: seconds, memory, mAP and R1.

    python -m mixer_plugin.benchmarks.speed.reduction_cost --out benchmarks/results/reduction/wide

writes ``OUT.json`` and ``OUT.md``. Generated features: a person is a point of a few hundred latent
numbers of falling weight, an image that point moved; both are spread over ``--width`` dimensions,
and every dimension gets noise of its own. Other persons are fitted on than evaluated.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from mixer_plugin import FeatureSet
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.io.atomic_write import write_text
from mixer_plugin.io.console import run_command
from mixer_plugin.search.reduction import fit_reduction
from mixer_plugin.search.reduction.report import DIMS, reduction_report

LATENT = 512
PERSON = 20  # images of a person, in two cameras of each modality
_MOVED = {"erased": 0.9, "related": 0.7}  # how far an image lies from its person
_NOISE = 0.5  # of a dimension, where a person's part of it has length 1


def make_features(images: int, width: int, seed: int) -> FeatureSet:
    """Features of persons that no other seed has: float32 [images, width], erased and related."""
    ids = np.arange(images) // PERSON
    modality = np.arange(images) % 2
    made = {}
    for which, (name, moved) in enumerate(_MOVED.items()):
        spread = _basis(width, which)
        rng = np.random.default_rng([seed, which])
        persons = rng.standard_normal((int(ids[-1]) + 1, LATENT), np.float32)
        latent = persons[ids] + moved * rng.standard_normal((images, LATENT), np.float32)
        if name == "erased":  # what is left of the modality: one direction of the latent numbers
            latent[:, 0] += 2 * (modality - 0.5)
        made[name] = latent @ spread
        made[name] += _NOISE * rng.standard_normal((images, width), np.float32)
    cameras = 2 * modality + (np.arange(images) // 2) % 2
    return FeatureSet(made["erased"], made["related"], seed * images + ids, cameras, modality)


def _basis(width: int, which: int) -> np.ndarray:
    """Latent numbers to dimensions; the i-th counts by i to the power of -1/2."""
    rng = np.random.default_rng([which, width])
    weights = np.arange(1, LATENT + 1, dtype=np.float32) ** -0.5
    weights /= np.linalg.norm(weights)
    return weights[:, None] * rng.standard_normal((LATENT, width), np.float32)


def fit_once(images: int, width: int, dim: int) -> dict[str, Any]:
    """Seconds and bytes of fitting one reduction; in a process of its own."""
    features = make_features(images, width, 1)
    held = harness.resident("VmRSS")
    start = time.perf_counter()
    fit_reduction(features, dim)
    seconds = time.perf_counter() - start
    return {
        "dim": dim,
        "seconds": seconds,
        "features_bytes": 2 * 4 * images * width,
        "bytes_beside_them": harness.resident("VmHWM") - held,
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = harness.speed_parser(__doc__, None, device=False)
    parser.add_argument("--width", type=int, default=16_384, help="of either feature")
    parser.add_argument("--images", type=int, default=20_000, help="to fit on")
    parser.add_argument("--evaluated", type=int, default=4_000, help="other images, evaluated")
    parser.add_argument("--dims", type=int, nargs="+", default=list(DIMS))
    options = harness.parse(parser, arguments)
    if options.out is None:
        parser.error("--out OUT is needed: OUT.json and OUT.md are written")
    fit = harness.in_own_process(fit_once, options.images, options.width, max(options.dims))
    report = reduction_report(
        make_features(options.evaluated, options.width, 2),
        dims=options.dims,
        fit=make_features(options.images, options.width, 1),
        settings=("cross", "mix", "mix-cam-id"),
        query="infrared",
    )
    given = {name: value for name, value in vars(options).items() if name not in ("out", "threads")}
    result = harness.environment() | {"options": given, "fit": fit}
    harness.write_json(
        options.out.with_suffix(".json"), result | {"report": json.loads(report.to_json())}
    )
    words = (
        f"Generated features, {options.width:,} dimensions each. Fitting {max(options.dims):,} "
        f"dimensions of both on {options.images:,} images: {fit['seconds']:.0f} s on "
        f"{result['threads']} thread(s), {fit['bytes_beside_them'] / 2**30:.1f} GiB beside the "
        f"features' {fit['features_bytes'] / 2**30:.1f} GiB.\n"
    )
    text = f"{words}\n{report.to_markdown()}"
    write_text(options.out.with_suffix(".md"), text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_command("reduction_cost", main))
