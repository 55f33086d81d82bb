"""``mixer-plugin evaluate --protocol regdb``: an input per split, and their mean."""

from __future__ import annotations

import json

import numpy as np

from mixer_plugin.evaluation import evaluate
from mixer_plugin.evaluation.analysis.split_means import mean_over_splits
from mixer_plugin.features import FeatureSet


def splits(tmp_path, names):
    """RegDB's layout: a camera per modality; other features in each split."""
    rng = np.random.default_rng(5)
    keys = [(m, i, n) for m in (0, 1) for i in (1, 2, 3, 4) for n in (1, 2)]
    made = []
    for name in names:
        made.append(
            FeatureSet(
                erased=rng.normal(size=(len(keys), 6)),
                related=None,
                ids=[i for _, i, _ in keys],
                cams=[m + 1 for m, _, _ in keys],
                modality=[m for m, _, _ in keys],
            )
        )
        made[-1].save(tmp_path / f"{name}.npz")
    return made, [tmp_path / f"{name}.npz" for name in names]


def test_regdb_ends_with_the_mean_over_its_splits(run, tmp_path):
    made, paths = splits(tmp_path, ("split1", "split2", "split10"))
    given = (*paths, "--protocol", "regdb", "--calibration", "none", "--out", tmp_path / "out")
    each = [
        evaluate(features, f"regdb/{number}", rules=("erased",))
        for number, features in enumerate(made, 1)
    ]
    mean = mean_over_splits(each)
    status, out, _ = run(*given, "--format", "json")
    assert status == 0
    *_, last = lines = [json.loads(line) for line in out.splitlines()]
    assert [line["features"] for line in lines] == [*map(str, paths), "mean over 3 splits"]
    assert last == {"features": "mean over 3 splits", **json.loads(mean.to_json())}
    for folder, results in zip(("split1", "split2", "split10", "mean"), [*each, mean], strict=True):
        written = tmp_path / "out" / folder / "evaluation.json"
        assert written.read_text(encoding="utf-8") == results.to_json()
    _, out, _ = run(*given)
    assert out.endswith(f"## mean over 3 splits\n\n{mean.contract}\n\n{mean.to_markdown()}")
    _, out, _ = run(paths[0], "--protocol", "regdb/1", "--calibration", "none")
    assert out.endswith(each[0].to_markdown())


def test_what_regdb_refuses(run, tmp_path):
    _, paths = splits(tmp_path, ("split1", "split2", "split10", "mean"))
    one, two, ten, mean = paths
    faults = {
        (one,): "2 to 10 splits",
        (one,) * 11: "got 11",
        (one, ten, two): "their names end in [1, 10, 2]",
        (one, mean, "--out", tmp_path / "o"): "named 'mean'",
        (one, two, "--against", ten): "compare split by split",
    }
    for given, message in faults.items():
        status, out, err = run(*given, "--protocol", "regdb")
        assert (status, out) == (2, "")
        assert message in err
    assert not (tmp_path / "o").exists()
