"""One of several processes that evaluate the same features; writes the results' JSON by rank."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mixer_plugin.distributed.processes import process_group
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import similarity


def make(kind: str, count: int = 400) -> FeatureSet:
    rng = np.random.default_rng(0)
    modality = rng.integers(0, 2, count)
    ids = rng.integers(1, 20, count)
    if kind == "ties":  # cosines are multiples of 1/4
        erased, related = (rng.choice([-1.0, 1.0], (count, 8)) for _ in range(2))
    else:
        codes = rng.normal(size=(20, 32))
        erased, related = (codes[ids] + 2 * rng.normal(size=(count, 32)) for _ in range(2))
    cams = np.where(modality == 1, rng.choice([3, 6], count), rng.choice([1, 2, 4, 5], count))
    return FeatureSet(erased, related, ids, cams, modality)


def run(shard: str) -> str:
    """The JSON of several evaluations."""
    made = []
    for kind in ("random", "ties"):
        for name, cmc in (("full", "standard"), ("sysu/all/single@ye", "dedup")):
            results = evaluate(
                make(kind),
                get_protocol(name, cmc=cmc),
                rules=("mixer", "related", "mixer-calibrated"),
                calibration=(None, "znorm", "center"),
                query="both",
                trials=2 if "ye" in name else None,
                shard=shard,
            )
            made.append(results.to_json())
    return "\n".join(made)


def main(out: Path) -> None:
    similarity._TILE["cpu"] = 48  # so that there are more tiles than processes
    with process_group() as share:
        with pytest.raises(MixERValueError, match="different features"):
            evaluate(make("random", 100 + share.index), "full")
        for shard in ("rows", "gallery"):
            (out / f"{shard}-{share.count}-{share.index}.json").write_text(run(shard))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
