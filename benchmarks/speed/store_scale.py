"""How a store grows: adding, searching, recall and memory from ten thousand images on.

    python -m mixer_plugin.benchmarks.speed.store_scale --out benchmarks/results/store_scale
    … --items 10000 100000 1000000 10000000 --factory IVF1024,SQ8 --parameters nprobe=32

writes ``OUT.json`` and ``OUT.svg``. Generated features of persons with twenty images each, half of
them infrared, 256 + 256 dimensions, rule ``mixer``. They are added in batches. At each number of
images in ``--items``: seconds per image of adding since the number before, and p50 and p99 of the
batches; ``catch_up``, the first search after that, which reads what is new; p50 and p99 of
searches of one query, k = 10, with and without a filter that keeps one camera in eight; of adding
one image, durably; recall at 10 against ``mixer_plugin.scores`` of the same queries; memory of the
process (now, and at most so far) and the size of the folder. ``--compact`` joins the segments
before each measurement.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_plugin import FeatureSet, scores
from mixer_plugin.benchmarks.experiment.pictures import pyplot, save_figure
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.io.console import run_command
from mixer_plugin.search import GalleryStore
from mixer_plugin.search.faiss_index import merge, no_hits
from mixer_plugin.search.gpu import import_faiss

K = 10
PERSON = 20  # images of a person
CAMERAS = 8
ONE_BY_ONE = 50  # images that are added alone
FILTER = "camera == 3"


def make_batch(number: int, images: int, width: int) -> FeatureSet:
    """Images of persons that no other batch has; the same for the same number."""
    rng = np.random.default_rng([number, images, width])
    ids = np.arange(images) // PERSON
    features = []
    for noise in (1.0, 0.6):  # erased and related
        codes = rng.standard_normal((int(ids[-1]) + 1, width), np.float32)
        spread = noise * rng.standard_normal((images, width), np.float32)
        features.append(codes[ids] + spread)
    people = (number + 1) * images + ids
    erased, related = features
    cameras, modality = rng.integers(0, CAMERAS, images), np.arange(images) % 2
    return FeatureSet(erased, related, people, cameras, modality)


class Exact:
    """The k best images so far of each query by ``scores``, as keys."""

    def __init__(self, query: FeatureSet) -> None:
        self.query = query
        self.scores, self.keys = no_hits(len(query), K)

    def add(self, features: FeatureSet, first: int) -> None:
        """Compares with images whose keys begin at ``first``."""
        values = scores(self.query, features)
        best = values.topk(min(K, len(features)), dim=1)
        self.scores, self.keys = merge(
            np.concatenate([self.scores, best.values.numpy()], axis=1),
            np.concatenate([self.keys, first + best.indices.numpy()], axis=1),
            K,
        )

    def recall(self, found: list[list[Any]]) -> float:
        """The share of them that was found."""
        shares = [
            len(set(mine) & set(right)) / len(right)
            for mine, right in zip(found, self.keys.tolist(), strict=True)
        ]
        return float(np.mean(shares))


def grow(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """A point for each number of images."""
    given = {name: getattr(options, name) for name in ("factory", "parameters", "segment")}
    first = make_batch(0, options.batch, options.dimensions)
    rows = np.linspace(0, len(first) - 1, options.queries).astype(np.int64)
    query = _perturbed(first[rows])
    exact, added, number, before = Exact(query), 0, 0, 0
    with GalleryStore.create(folder, **given) as store:
        for items in options.items:
            seconds: list[float] = []
            while added < items:
                batch = make_batch(number, options.batch, options.dimensions)[: items - added]
                keys = np.arange(added, added + len(batch))
                seconds.append(_timed(store.add, batch, keys)[0])
                exact.add(batch, added)
                added, number = added + len(batch), number + 1
            compact = _timed(store.compact)[0] if options.compact else None
            point = {"items": items, "compact_seconds": compact, **_measure(store, query, exact)}
            each = sum(seconds) / (added - before)
            before = added
            point |= {"add_seconds_per_image": each, "batch": options.batch}
            point |= {"batch_seconds": _percentiles(seconds)}
            _show(point)
            yield point


def _measure(store: GalleryStore, query: FeatureSet, exact: Exact) -> dict[str, Any]:
    catch_up, _ = _timed(store.search, query[:1], K)
    found: list[list[Any]] = []
    plain, filtered, adding = [], [], []
    for row in range(len(query)):
        seconds, hits = _timed(store.search, query[row : row + 1], K)
        plain.append(seconds)
        found.append(list(hits.keys[0]))
        filtered.append(_timed(store.search, query[row : row + 1], K, filter=FILTER)[0])
    for row in range(ONE_BY_ONE):
        one = row % len(query)
        adding.append(_timed(store.add, query[one : one + 1], [f"one {row}"])[0])
    store.remove([f"one {row}" for row in range(ONE_BY_ONE)])
    told = store.stats()
    return {
        "catch_up_seconds": catch_up,
        "search_ms": _percentiles(plain, 1000),
        "filtered_ms": _percentiles(filtered, 1000),
        "add_one_ms": _percentiles(adding, 1000),
        f"recall@{K}": exact.recall(found),
        "memory": harness.resident("VmRSS"),
        "memory_peak": harness.resident("VmHWM"),
        "folder": told["bytes"],
        "segments": told["segments"],
        "unsealed": told["unsealed"],
    }


def _perturbed(features: FeatureSet) -> FeatureSet:
    """Other images of the same persons."""
    noise = torch.Generator().manual_seed(0)
    erased, related = (
        each + 0.5 * torch.randn(each.shape, generator=noise)
        for each in (features.erased, features.related)
        if each is not None
    )
    return FeatureSet(erased, related, features.ids, features.cams, features.modality)


def _timed(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Seconds of a call, and what it returned."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


def _percentiles(seconds: list[float], scale: float = 1.0) -> dict[str, float]:
    values: NDArray[np.float64] = scale * np.array(seconds)
    return {"p50": float(np.median(values)), "p99": float(np.percentile(values, 99))}


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws how long one call takes over the number of images.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    figure, panel = pyplot().subplots(figsize=(6, 4))
    points = result["points"]
    items = [point["items"] for point in points]
    named = {"search_ms": "search", "filtered_ms": f"search, {FILTER}", "add_one_ms": "add one"}
    for number, (name, label) in enumerate(named.items()):
        low, high = ([point[name][which] for point in points] for which in ("p50", "p99"))
        panel.plot(
            items, low, "o-s-^-"[2 * number : 2 * number + 2], color=f"C{number}", label=label
        )
        panel.fill_between(items, low, high, color=f"C{number}", alpha=0.2, linewidth=0)
    given = result["options"]
    about = f"{given['factory']} {given['parameters']}".strip()
    panel.set(xscale="log", yscale="log", xlabel="images in the store", ylabel="ms")
    panel.set_title(
        f"One call, median to p99 ({about}, 2 × {given['dimensions']} dimensions)", fontsize=10
    )
    panel.grid(linewidth=0.3)
    panel.legend(fontsize=8)
    save_figure(figure, path)


def _show(point: dict[str, Any]) -> None:
    search, one = point["search_ms"], point["add_one_ms"]
    print(
        f"{point['items']:>11,} images: add {1000 * point['add_seconds_per_image']:.3f} ms each, "
        f"one {one['p50']:.1f} ms (p99 {one['p99']:.1f}); search {search['p50']:.1f} ms "
        f"(p99 {search['p99']:.1f}), filtered {point['filtered_ms']['p50']:.1f} ms; recall@{K} "
        f"{point[f'recall@{K}']:.3f}; {point['memory_peak'] / 2**20:,.0f} MiB at most",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = harness.speed_parser(__doc__, None, device=False)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--factory", default="Flat", help="FAISS factory string of segments")
    parser.add_argument("--parameters", default="", help="FAISS search parameters")
    parser.add_argument("--segment", type=int, default=65_536, help="images per segment")
    parser.add_argument("--batch", type=int, default=5_000, help="images added by one call")
    parser.add_argument("--dimensions", type=int, default=256, help="of either feature")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--compact", action="store_true", help="join the segments before measuring")
    parser.add_argument("--folder", type=Path, help="where the store is made (default: temporary)")
    options = harness.parse(parser, arguments)
    if options.out is None:
        parser.error("--out OUT is needed: OUT.json and OUT.svg are written")
    if options.items != sorted(set(options.items)):
        parser.error("--items must ascend")
    pyplot()  # fails before minutes of work
    if options.factory != "Flat":
        import_faiss().omp_set_num_threads(options.threads)
    given = {k: v for k, v in vars(options).items() if k not in ("out", "threads", "folder")}
    points: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for point in grow(options, Path(folder) / "store"):
            points.append(point)  # written at once: the next one may take an hour
            result = harness.environment() | {"options": given, "points": points}
            harness.write_json(options.out.with_suffix(".json"), result)
            draw(result, options.out.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    sys.exit(run_command("store_scale", main))
