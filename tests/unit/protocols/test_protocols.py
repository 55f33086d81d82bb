from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch

from mixer_plugin.errors import MixERError, MixERValueError
from mixer_plugin.evaluation import SETTINGS, Protocol, evaluate, get_protocol
from mixer_plugin.evaluation.protocols.gallery_draws import read_permutation
from mixer_plugin.evaluation.protocols.registry import PROTOCOLS
from mixer_plugin.evaluation.settings import find_groups, view
from mixer_plugin.features import FeatureSet


def from_counts(counts, seed=0, root="/data/SYSU-MM01"):
    """Tiny random features of the images {(camera, identity): number of images}."""
    keys = [(cam, i, n) for (cam, i), count in sorted(counts.items()) for n in range(1, count + 1)]
    rng = np.random.default_rng(seed)
    cams = np.array([cam for cam, _, _ in keys])
    return FeatureSet(
        erased=rng.normal(size=(len(keys), 4)),
        related=rng.normal(size=(len(keys), 4)),
        ids=np.array([i for _, i, _ in keys]),
        cams=cams,
        modality=np.isin(cams, (3, 6)).astype(int),
        paths=tuple(f"{root}/cam{cam}/{i:04d}/{n:04d}.jpg" for cam, i, n in keys),
    )


def list_counts(protocol, features, setting, modality, *, with_query=False):
    """Positives and items of the list of each query of the first trial: two int64 [queries]."""
    ids, cams, kinds = (x.numpy() for x in (features.ids, features.cams, features.modality))
    groups = find_groups(kinds, cams)
    options = (protocol.colocated, protocol.colocated_mixed, protocol.same_camera)
    tables = view(setting, groups, *options)
    identity = np.unique(ids, return_inverse=True)[1]
    draw = protocol.draws(features, 1)[0]
    held = np.zeros((identity.max() + 1, len(groups.camera)), dtype=np.int64)
    np.add.at(held, (identity[draw], groups.of_row[draw]), 1)
    at = protocol.queries(features, modality)
    own = held[identity[at]]
    group = groups.of_row[at]
    positives = (tables.positive[group] * own).sum(axis=1)
    others = (tables.listed[group] * (held.sum(axis=0) - own)).sum(axis=1)
    if not with_query:
        positives -= np.isin(at, draw) & tables.positive[group, group]
    return positives, positives + others


COUNTS = {(cam, i): 3 + (cam + i) % 3 for cam in range(1, 7) for i in (2, 5, 11)} | {(1, 8): 4}
del COUNTS[2, 5]


def cells(counts=COUNTS, trials=10, seed=1):
    """The permutation as MATLAB cells."""
    rng = np.random.default_rng(seed)
    table = np.empty((6, 1), dtype=object)
    for cam in range(1, 7):
        cell = np.empty((12, 1), dtype=object)
        for i in range(1, 13):
            count = counts.get((cam, i), 0)
            rows = [rng.permutation(count) + 1 for _ in range(trials)]
            cell[i - 1, 0] = np.array(rows, dtype=np.uint8).reshape(trials, count)
        table[cam - 1, 0] = cell
    return table


def test_single_and_multi_shot_draw_the_first_entries():
    permutation = cells()
    features = from_counts(COUNTS)
    single = get_protocol("sysu/all/single", permutation=permutation).draws(features, 4)
    multi = get_protocol("sysu/all/multi", permutation=permutation).draws(features, 4)
    assert len(single) == len(multi) == 4
    for trial, (one, many) in enumerate(zip(single, multi, strict=True)):
        names = {features.paths[row] for row in one}
        expected = set()
        for cam, i in COUNTS:
            number = permutation[cam - 1, 0][i - 1, 0][trial, 0]
            expected.add(f"/data/SYSU-MM01/cam{cam}/{i:04d}/{number:04d}.jpg")
        assert names == expected
        assert len(many) == len(features)  # fewer than ten images each: all are taken
    indoor = get_protocol("sysu/indoor/single", permutation=permutation).draws(features, 1)[0]
    assert set(features.cams[torch.from_numpy(indoor)].tolist()) == {1, 2, 3, 6}


def test_every_source_of_the_permutation_gives_the_same_draws(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    folder = tmp_path / "SYSU" / "exp"
    folder.mkdir(parents=True)
    scipy_io.savemat(folder / "rand_perm_cam.mat", {"rand_perm_cam": cells()})
    features = from_counts(COUNTS, root=str(tmp_path / "SYSU"))
    found = get_protocol("sysu/all/single").draws(features)
    for source in (
        folder / "rand_perm_cam.mat",
        str(folder / "rand_perm_cam.mat"),
        cells(),
        read_permutation(cells()),
    ):
        given = get_protocol("sysu/all/single", permutation=source).draws(features)
        assert all(np.array_equal(a, b) for a, b in zip(found, given, strict=True))


@pytest.mark.parametrize("root", ["/data/none", "none"])
def test_a_missing_permutation_is_explained(root):
    with pytest.raises(MixERError, match=r"permutation=.*'@ye', which needs no file"):
        get_protocol("sysu/all/single").draws(from_counts(COUNTS, root=root))


def test_any_extension_and_backslashes_will_do():
    features = from_counts(COUNTS)
    protocol = get_protocol("sysu/all/single", permutation=cells())
    expected = protocol.draws(features)
    paths = [path.replace("/", "\\").replace(".jpg", ".PNG") for path in features.paths]
    other = FeatureSet(
        *(features.erased, None, features.ids, features.cams, features.modality), paths
    )
    for a, b in zip(protocol.draws(other), expected, strict=True):
        assert np.array_equal(a, b)


def test_order_of_the_rows_does_not_matter():
    features = from_counts(COUNTS)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    other = features[order]
    for name, permutation in (("sysu/all/single", cells()), ("sysu/all/single@ye", None)):
        protocol = get_protocol(name, permutation=permutation)
        for a, b in zip(protocol.draws(features), protocol.draws(other), strict=True):
            assert {features.paths[row] for row in a} == {other.paths[row] for row in b}
        one, two = (evaluate(x, protocol, query="both") for x in (features, other))
        for row, same in zip(one.rows, two.rows, strict=True):
            assert row.mAP == pytest.approx(same.mAP, abs=1e-12)


def test_ye_draw_is_the_public_scripts_draw():
    features = from_counts(COUNTS)
    names = dict.fromkeys(features.paths)
    for mode, cameras in (("all", (1, 2, 4, 5)), ("indoor", (1, 2))):
        draws = get_protocol(f"sysu/{mode}/single@ye").draws(features, 10)
        for trial, draw in enumerate(draws):
            state = random.getstate()
            random.seed(trial)
            expected = []
            for i in sorted({i for _, i in COUNTS}):
                for cam in cameras:
                    files = sorted(p for p in names if f"/cam{cam}/{i:04d}/" in p)
                    if files:
                        expected.append(random.choice(files))
            random.setstate(state)
            visible = draw[features.modality.numpy()[draw] == 0]
            assert {features.paths[row] for row in visible} == set(expected)
            infrared = draw[features.modality.numpy()[draw] == 1]
            assert len(infrared) == sum(cam in (3, 6) for cam, _ in COUNTS)


def test_ye_draw_leaves_the_global_random_state_alone():
    state = random.getstate()
    get_protocol("sysu/all/single@ye").draws(from_counts(COUNTS))
    assert random.getstate() == state


def replaced(**change):
    features = from_counts(COUNTS)
    names = ("erased", "related", "ids", "cams", "modality", "paths")
    return FeatureSet(**({name: getattr(features, name) for name in names} | change))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (replaced(paths=None), "paths=None"),
        (replaced(paths=["x.jpg"] * len(from_counts(COUNTS))), "does not end like"),
        (replaced(ids=from_counts(COUNTS).ids + 1), "says camera 1, identity 2, but"),
        (replaced(modality=1 - from_counts(COUNTS).modality), "3, 6 infrared; the features have"),
        (from_counts(COUNTS)[1:], "drawn images are not among the features"),
        (from_counts(COUNTS | {(1, 12): 3}), "draws nothing for identity 12 in camera 1"),
    ],
)
def test_features_that_do_not_fit_are_refused(features, message):
    protocol = get_protocol("sysu/all/multi", permutation=cells())
    with pytest.raises(MixERValueError, match=message):
        protocol.draws(features)


def test_twice_the_same_image_is_refused():
    features = from_counts(COUNTS)
    with pytest.raises(MixERValueError, match="are the same image"):
        get_protocol("sysu/all/multi", permutation=cells()).draws(
            FeatureSet.concatenate([features, features[:1]])
        )


def test_trials_must_be_there():
    features = from_counts(COUNTS)
    with pytest.raises(MixERValueError, match="pass trials=4"):
        get_protocol("sysu/all/single", permutation=cells(trials=4)).draws(features)
    assert len(get_protocol("sysu/all/single", permutation=cells(trials=4)).draws(features, 4)) == 4


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("sysu/all/singel", {}, "Did you mean 'sysu/all/single'"),
        ("sysu/all/multi@ye", {}, "Unknown protocol"),
        ("full", {"cmc": "dedupe"}, "Did you mean 'dedup'"),
        ("full", {"same_camera": "same_id"}, "Did you mean 'same-id'"),
        ("full", {"no_positive": "raise"}, "Options: drop, error"),
        ("regdb/0", {}, "Did you mean 'regdb/10'"),
        ("regdb/11", {}, "Unknown protocol"),
        ("full", {"colocated_mixed": True}, "is for SYSU-MM01's cameras"),
        ("llcm/sampled", {"colocated_mixed": True}, "is for SYSU-MM01's cameras"),
        ("market1501", {"permutation": {}}, "uses no permutation"),
        ("full", {"permutation": {}}, "uses no permutation"),
        ("sysu/all/single@ye", {"permutation": {}}, "uses no permutation"),
        ("sysu/all/single", {"permutation": "/none.mat"}, "is not a file"),
        ("sysu/all/single", {"permutation": np.zeros((3, 1))}, "six cells"),
    ],
)
def test_wrong_options_are_explained(id, options, message):
    with pytest.raises(MixERValueError, match=message):
        get_protocol(id, **options)


def test_contract_says_what_counts():
    protocol = get_protocol("sysu/indoor/multi", permutation=cells())
    text = str(protocol)
    assert isinstance(protocol, Protocol)
    for word in ("sysu/indoor/multi", "1, 2", "3, 6", "official", "2 and 3", "dropped", "ties"):
        assert word in text
    assert "each other identity counts once" in text
    features = from_counts(COUNTS)
    infrared = int((features.modality == 1).sum())
    counts = f"({infrared} infrared, {len(features) - infrared} visible; 4 identities in all)"
    assert counts in protocol.describe(features)
    assert counts not in text


@pytest.mark.parametrize("id", PROTOCOLS)
def test_contract_prints_every_option(id):
    choices = {
        "cmc": ("dedup", "standard"),
        "same_camera": ("any-id", "same-id", "keep"),
        "no_positive": ("drop", "error"),
        "colocated": ((), ((1, 3),), ((2, 6),)),
    }
    protocol = get_protocol(id)
    for name, values in choices.items():
        texts = {str(dataclasses.replace(protocol, **{name: value})) for value in values}
        assert len(texts) == len(values), name
    if id.startswith("sysu"):
        assert str(get_protocol(id, colocated_mixed=True)) != str(protocol)
    assert len({str(get_protocol(each)) for each in PROTOCOLS}) == len(PROTOCOLS)


@pytest.mark.parametrize(
    ("id", "cmc", "same_camera"),
    [
        ("full", "standard", "any-id"),
        ("sysu/all/single", "dedup", "any-id"),
        ("sysu/indoor/single@ye", "dedup", "any-id"),
        ("regdb/3", "standard", "keep"),
        ("llcm/sampled", "dedup", "same-id"),
        ("llcm/full", "dedup", "keep"),
        ("market1501", "standard", "same-id"),
    ],
)
def test_options_left_open_are_the_data_sets(id, cmc, same_camera):
    protocol = get_protocol(id)
    assert (protocol.cmc, protocol.same_camera) == (cmc, same_camera)
    assert protocol.no_positive == "drop"
    other = get_protocol(id, cmc="standard", same_camera="keep", no_positive="error")
    assert (other.cmc, other.same_camera, other.no_positive) == ("standard", "keep", "error")


def test_every_image_of_a_modality_asks():
    features = from_counts(COUNTS)
    protocol = get_protocol("sysu/indoor/single@ye")
    for modality in (0, 1):
        rows = protocol.queries(features, modality)
        assert rows.dtype == np.int64
        assert rows.tolist() == [
            r for r, m in enumerate(features.modality.tolist()) if m == modality
        ]


def test_cameras_are_checked_before_anything_is_drawn():
    with pytest.raises(MixERValueError, match=r"3, 6 infrared; the features have camera 1 infra"):
        get_protocol("sysu/all/single").check(replaced(modality=1 - from_counts(COUNTS).modality))
    get_protocol("sysu/all/single").check(from_counts(COUNTS))


def test_counts_that_differ_from_the_release_are_noted():
    text = get_protocol("sysu/all/single").describe(from_counts(COUNTS))
    assert "counts differ from the release: 4 identities (96), 13 images of camera 1 (1374)" in text
    assert "release" not in get_protocol("full").describe(from_counts(COUNTS))


@pytest.mark.parametrize("name", ["sysu/all/single", "sysu/indoor/multi"])
def test_cross_is_the_release_evaluation(name):
    """Written after the words of SYSU-MM01's own evaluation: locations, then unique identities."""
    features = from_counts(COUNTS)
    protocol = get_protocol(name, permutation=cells())
    results = evaluate(features, protocol, settings=("cross",), rules=("erased",))
    unit = torch.nn.functional.normalize(features.erased).numpy()
    ids, cams = features.ids.numpy(), features.cams.numpy()
    location = np.array([0, 1, 2, 2, 4, 5, 6])[cams]
    means = []
    for draw in protocol.draws(features):
        gallery = draw[features.modality.numpy()[draw] == 0]
        curves, precisions = [], []
        for q in np.flatnonzero(features.modality.numpy() == 1):
            order = gallery[np.argsort(-(unit[gallery] @ unit[q]), kind="stable")]
            order = order[location[order] != location[q]]
            match = ids[order] == ids[q]
            if match.any():
                places = np.flatnonzero(match) + 1
                precisions.append(np.mean(np.arange(1, len(places) + 1) / places))
                unique = list(dict.fromkeys(ids[order].tolist()))
                curves.append(unique.index(ids[q]) + 1)
        means.append([np.mean(precisions), np.mean(np.array(curves) <= 1)])
    row = results.rows[0]
    assert (row.mAP, row.r1) == pytest.approx(tuple(np.mean(means, axis=0)), abs=1e-12)
    assert row.queries_valid == len(curves)


def test_trial_means_and_deviations():
    features = from_counts(COUNTS)
    protocol = get_protocol("sysu/all/single@ye")
    whole = evaluate(features, protocol, rules=("erased",), trials=3)
    assert whole.rows[0].trials == 3
    draws = protocol.draws(features, 3)
    alone = []
    for draw in draws:
        single = get_protocol("full", cmc="dedup")
        object.__setattr__(single, "draws", lambda features, trials, draw=draw: [draw])
        object.__setattr__(single, "colocated", protocol.colocated)
        alone.append(evaluate(features, single, rules=("erased",)))
    for setting in SETTINGS:
        row = whole.get(setting, "erased")
        for name in ("mAP", "r1", "mINP"):
            values = [getattr(one.get(setting, "erased"), name) for one in alone]
            assert getattr(row, name) == pytest.approx(np.mean(values), abs=1e-12)
            assert getattr(row, f"{name}_std") == pytest.approx(np.std(values, ddof=1), abs=1e-12)
