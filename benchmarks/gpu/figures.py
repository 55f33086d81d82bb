"""The main figures of each part, a line each, from the JSON that its command wrote.

A part that was ended may have written some of its figures: the lines are of those that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Found = Mapping[str, Any]
_GB = 1e9


def figures(module: str, found: Found) -> list[str]:
    """The figures of a command's JSON, by the module that wrote it."""
    return list(_FIGURES[module](found))


def _tests(found: Found) -> Iterator[str]:
    yield ", ".join(f"{found[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))


def _steps(found: Found) -> Iterator[str]:
    for network in found["networks"]:
        mode = network["mode"]
        if network is found["networks"][0]:  # bare is the same in every mode
            yield f"bare {_step(network, 'bare')}"
        yield f"{mode} {_step(network, 'mixer')}"
        over, floor = (network[f"mixer_over_{of}"]["median"] for of in ("bare", "floor"))
        yield f"{mode} {over:.3f} x bare, {floor:.3f} x the floor"


def _step(network: Found, kind: str) -> str:
    milliseconds = 1000 * network["seconds"][kind][f"{network['clock']}_median"]
    memory = f", {_gb(network['memory'][kind])}" if network["memory"] else ""
    return f"{milliseconds:.1f} ms, {network['images_per_s'][kind]:,.0f} images/s{memory}"


def _evaluation(found: Found) -> Iterator[str]:
    size = f"{found['queries']:,} x {found['items']:,} x {found['width']:,}"
    if "product_seconds" in found:  # one evaluation
        yield f"{size}: {found['seconds']:.2f} s"
        yield (
            f"{found['ratio']:.2f} x the product; {found['gigabytes_beside_features']:.2f} GB "
            "beside the features"
        )
        return
    median = found["wall_median"]
    peak = found.get("peak_bytes")
    memory = f"; {_gb(peak['trials'])}" if peak else ""
    yield f"{size}{memory}"
    yield (
        f"{median['evaluation_ratio']:.2f} x the product, with ten trials "
        f"{median['trials_ratio']:.2f} x"
    )


def _reranking(found: Found) -> Iterator[str]:
    seconds = {name: min(runs) for name, runs in found["wall"].items()}
    yield (
        f"{found['images']:,} images: {seconds['ours']:.2f} s, product {seconds['product']:.2f} s; "
        f"{found['peak_gb']['ours']:.1f} GB"
    )


def _agreement(found: Found) -> Iterator[str]:
    bounds = found["tolerance"]
    for name, cell in found["cells"].items():
        first, *later = cell["differences"]
        word = "agree" if cell["agrees"] else "DISAGREE"
        yield f"{name}: losses {word}: {first:.0e}, later {max(later, default=0):.0e}"
    yield f"tolerance {bounds['first']:.0e}, later {bounds['later']:.0e}"


def _trainer(found: Found) -> Iterator[str]:
    yield f"loading alone {found['loading']['images_per_s']:,.0f} images/s"
    for name, cell in found["cells"].items():
        rate, peak = cell["images_per_s"], cell["peak_bytes"]
        yield f"{name} {found['precision']}: {rate:,.0f} images/s, {_gb(peak)}"


def _loading(found: Found) -> Iterator[str]:
    ready = found["ready"]
    yield f"step {ready['step_ms']:.1f} ms on batches made before"
    for name, way in found["ways"].items():
        yield f"{name}: waited {way['waited_share']:.1%}, step x {way['slowdown']:.3f}"


def _probing(found: Found) -> Iterator[str]:
    for network in found["networks"]:
        yield f"{network['network']}: epoch {network['faster']:.2f} x as fast"


def _growth(found: Found) -> Iterator[str]:
    for part, name in (("training", "epoch"), ("evaluation", "evaluate")):
        points = found[part]
        grown = ", ".join(f"{point['per_image'][name]['wall_median']:.2f}" for point in points)
        factors = ", ".join(str(point["factor"]) for point in points)
        yield f"{name} per image at {factors} x: {grown}"


def _search(found: Found) -> Iterator[str]:
    yield f"search {found['ratios']['median']['search']:.3f} x bare FAISS"


def _gb(size: float) -> str:
    return f"{size / _GB:.2f} GB"


_FIGURES: Mapping[str, Callable[[Found], Iterator[str]]] = {
    "gpu.own_tests": _tests,
    "speed.step_overhead": _steps,
    "speed.eval_speed": _evaluation,
    "speed.rerank_speed": _reranking,
    "gpu.agreement": _agreement,
    "gpu.trainer": _trainer,
    "speed.loading_speed": _loading,
    "speed.probing_speed": _probing,
    "speed.growth": _growth,
    "speed.search_speed": _search,
}
