"""Our numbers against the public evaluators', each in the setting that its rule is right for.

All rank the same float32 scores, without ties between a positive and a negative, so that only the
counting differs. mAP and mINP are float64 everywhere but in the Cython evaluators; the script
family and the Market evaluators hold the CMC in float32, whose rounding is the tolerance there.
"""

from __future__ import annotations

import dataclasses
import json
import os
from itertools import count

import numpy as np
import pytest
import torch

from mixer_plugin.benchmarks.speed import evaluator_peers
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores
from tests.integration.public.evaluators import IGNITE, MARKET, SCRIPT, evaluator, market, on_scores

IDENTITIES = np.arange(3, 78, 3)  # 25 names with gaps: public code looks at ranks up to 20
TRIALS = 3
CLEAR = 5e-7  # more than float32 products of other shapes may differ by


def clear_set(labels, asking=None, **more):
    """Features in which no positive of a query is nearly as near as a negative, and their scores.

    ``labels`` are ids, cams, modality; the infrared rows ask, unless said otherwise.
    """
    ids, cams, modality = (np.asarray(label) for label in labels)
    asking = modality == 1 if asking is None else asking
    match = ids[asking, None] == ids
    for seed in count():
        rng = np.random.default_rng(seed)
        codes = rng.normal(size=(ids.max() + 1, 32))
        erased = 0.5 * codes[ids] + rng.normal(size=(len(ids), 32))
        features = FeatureSet(erased, None, ids, cams, modality, **more)
        matrix = scores(features, features, "erased").numpy()
        asked = matrix[asking]
        order = asked.argsort(axis=1)
        near = np.diff(np.take_along_axis(asked, order, 1), axis=1) < CLEAR
        if not (near & np.diff(np.take_along_axis(match, order, 1), axis=1)).any():
            return features, matrix


@pytest.fixture(scope="module")
def sysu():
    """SYSU-MM01's layout in small: features, scores, permutation as in rand_perm_cam.mat."""
    rng = np.random.default_rng(0)
    keys, perm = [], np.empty((6, 1), dtype=object)
    for cam in range(1, 7):
        cells = np.empty((1, IDENTITIES.max()), dtype=object)
        for index in range(cells.shape[1]):
            # As in SYSU-MM01, cameras 1 and 2 lack some identities.
            absent = index + 1 not in IDENTITIES or (cam < 3 and index % 5 == 0)
            images = 0 if absent else 12 if index + 1 == 9 else int(rng.integers(1, 4))
            draws = [1 + rng.permutation(images) for _ in range(TRIALS)]
            cells[0, index] = np.array(draws).reshape(TRIALS, images)
            keys += [(cam, index + 1, n) for n in range(1, images + 1)]
        perm[cam - 1, 0] = cells
    cams, ids, _ = np.array(keys).T
    paths = tuple(f"data/cam{cam}/{i:04d}/{n:04d}.jpg" for cam, i, n in keys)
    features, matrix = clear_set((ids, cams, np.isin(cams, (3, 6)).astype(int)), paths=paths)
    return features, matrix, perm


@pytest.fixture(scope="module")
def both():
    """One camera number for both modalities, as in LLCM; every image is in the gallery."""
    rng = np.random.default_rng(1)
    ids = np.repeat(IDENTITIES, 12)
    return clear_set((ids, rng.choice([1, 2, 4, 5], len(ids)), np.tile([0, 0, 1], 100)))


@pytest.fixture(scope="module")
def market1501():
    """Market-1501's layout in small: a folder of queries; junk and distractors in the other."""
    rng = np.random.default_rng(2)
    ids = np.concatenate([np.repeat(IDENTITIES, 12), np.repeat([-1, 0], 30)])
    asking = (np.arange(len(ids)) % 4 == 0) & (ids > 0)
    paths = [f"{'query' if asks else 'bounding_box_test'}/{k}.jpg" for k, asks in enumerate(asking)]
    cams = rng.integers(1, 7, len(ids))
    return clear_set((ids, cams, np.zeros(len(ids), dtype=int)), asking, paths=paths), asking


def labels(features):
    return features.ids.numpy(), features.cams.numpy(), features.modality.numpy()


def assert_same(row, cmc, mAP, mINP=None, exact=1e-9, cmc_exact=1e-9):
    """Equal mAP, mINP if there is one, and CMC at ranks 1, 5, 10 and 20."""
    assert row.mAP == pytest.approx(mAP, abs=exact, rel=0)
    if mINP is not None:
        assert row.mINP == pytest.approx(mINP, abs=exact, rel=0)
    curve = [row.r1, row.r5, row.r10, row.r20]
    assert curve == pytest.approx([float(value) for value in cmc], abs=cmc_exact, rel=0)
    assert row.mAP_optimistic == row.mAP_pessimistic


def ours(features, protocol, setting="cross", **options):
    return evaluate(features, protocol, settings=(setting,), rules=("erased",), **options).rows[0]


@pytest.mark.parametrize("shots", ["single", "multi"])
@pytest.mark.parametrize("search", ["all", "indoor"])
@pytest.mark.parametrize("name", IGNITE)
def test_sysu_of_the_ignite_family(sysu, name, search, shots, monkeypatch):
    """Whole ``eval_sysu``, with its own reading of the permutation."""
    features, matrix, perm = sysu
    module = on_scores(evaluator(f"{IGNITE[name]}/eval_sysu.py"), matrix)
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    ids, cams, modality = labels(features)
    rows, paths = torch.arange(len(ids))[:, None], np.array(features.paths)
    query, gallery = np.flatnonzero(modality == 1), np.flatnonzero(modality == 0)
    given = cams[query].copy()
    mean_ap, *curve = module.eval_sysu(
        *(rows[query], ids[query], given, rows[gallery], ids[gallery], cams[gallery]),
        *(paths[gallery], perm),
        mode=search,
        num_shots=1 if shots == "single" else 10,
        num_trials=TRIALS,
        **({"aim": False} if name == "SAAI" else {}),
    )
    assert 3 not in given, "it rewrites the caller's cameras: were it to stop, say so in our docs"
    protocol = get_protocol(f"sysu/{search}/{shots}", permutation=perm)
    row = ours(features, protocol, trials=TRIALS)
    assert 0.2 < row.mAP < 0.9
    assert_same(row, [value / 100 for value in curve], mean_ap / 100)


@pytest.mark.parametrize("protocol", ["sysu/all/single@ye", "sysu/all/multi"])
@pytest.mark.parametrize("name", SCRIPT)
def test_sysu_of_the_script_family(sysu, name, protocol):
    features, matrix, perm = sysu
    module = evaluator(SCRIPT[name])
    ids, cams, modality = labels(features)
    official = {} if protocol.endswith("@ye") else {"permutation": perm}
    protocol = get_protocol(protocol, **official)
    query, found = np.flatnonzero(modality == 1), []
    for draw in protocol.draws(features, TRIALS):
        gallery = draw[modality[draw] == 0]
        distance = -matrix[np.ix_(query, gallery)]
        found.append(
            module.eval_sysu(distance, ids[query], ids[gallery], cams[query], cams[gallery])
        )
    curve, mean_ap, mean_inp = (np.mean(values, axis=0) for values in zip(*found, strict=True))
    row = ours(features, protocol, trials=TRIALS)
    assert_same(row, curve[[0, 4, 9, 19]], mean_ap, mean_inp, cmc_exact=1e-7)


@pytest.mark.parametrize("name", SCRIPT)
def test_regdb_of_the_script_family(both, name):
    features, matrix = both
    module = evaluator(SCRIPT[name])
    ids, _, modality = labels(features)
    query, gallery = modality == 1, modality == 0
    curve, mean_ap, mean_inp = module.eval_regdb(
        -matrix[np.ix_(query, gallery)], ids[query], ids[gallery]
    )
    row = ours(features, "regdb/1")
    assert_same(row, curve[[0, 4, 9, 19]], mean_ap, mean_inp, cmc_exact=1e-7)


@pytest.mark.parametrize(
    ("name", "data", "protocol"),
    [*((name, "regdb", "regdb/1") for name in IGNITE), ("IDKL", "llcm", "llcm/full")],
)
def test_no_camera_rule_of_the_ignite_family(both, name, data, protocol):
    """RegDB, and IDKL's LLCM: every image, cameras called 2 and 3, each identity counts once."""
    features, matrix = both
    module = on_scores(evaluator(f"{IGNITE[name]}/eval_{data}.py"), matrix)
    ids, _, modality = labels(features)
    rows = torch.arange(len(ids))[:, None]
    query, gallery = modality == 1, modality == 0
    mean_ap, *curve = getattr(module, f"eval_{data}")(
        *(rows[query], ids[query], np.full(query.sum(), 3)),
        *(rows[gallery], ids[gallery], np.full(gallery.sum(), 2), None),
    )
    row = ours(features, get_protocol(protocol, cmc="dedup"))
    assert_same(row, [value / 100 for value in curve], mean_ap / 100)


def test_llcm_of_deen(both):
    """The query's identity in its camera goes, although another modality took the image."""
    features, matrix = both
    module = evaluator(SCRIPT["DEEN"])
    ids, cams, modality = labels(features)
    query, found = np.flatnonzero(modality == 1), []
    for draw in get_protocol("llcm/sampled").draws(features, TRIALS):
        gallery = draw[modality[draw] == 0]
        distance = -matrix[np.ix_(query, gallery)]
        found.append(
            module.eval_llcm(distance, ids[query], ids[gallery], cams[query], cams[gallery])
        )
    curve, mean_ap, mean_inp = (np.mean(values, axis=0) for values in zip(*found, strict=True))
    row = ours(features, "llcm/sampled", trials=TRIALS)
    assert_same(row, curve[[0, 4, 9, 19]], mean_ap, mean_inp, cmc_exact=1e-7)
    kept = get_protocol("llcm/sampled", same_camera="keep")
    assert ours(features, kept, trials=TRIALS).mAP != row.mAP


def test_llcm_of_deen_on_a_mixed_gallery_is_mix_cam_id(both):
    """The query is of its identity in its camera, and goes."""
    features, matrix = both
    module = evaluator(SCRIPT["DEEN"])
    ids, cams, modality = labels(features)
    query = modality == 1
    curve, mean_ap, mean_inp = module.eval_llcm(-matrix[query], ids[query], ids, cams[query], cams)
    row = ours(features, get_protocol("full", cmc="dedup"), "mix-cam-id")
    assert_same(row, curve[[0, 4, 9, 19]], mean_ap, mean_inp, cmc_exact=1e-7)


@pytest.mark.parametrize("name", MARKET)
def test_market_is_mix_cam_id(both, name):
    features, matrix = both
    module = evaluator(MARKET[name])
    ids, cams, modality = labels(features)
    query = modality == 1
    found = market(module, -matrix[query], ids[query], ids, cams[query], cams)
    row = ours(features, get_protocol("full", cmc="standard"), "mix-cam-id")
    assert_same_as_market(row, found, name)


def assert_same_as_market(row, found, name):
    # The Cython evaluators sum AP in float32 too.
    exact, cmc_exact = (1e-6, 1e-6) if "cython" in name else (1e-9, 1e-7)
    curve = found.pop("cmc")[[0, 4, 9, 19]]
    assert_same(row, curve, **found, exact=exact, cmc_exact=cmc_exact)


@pytest.mark.parametrize("name", MARKET)
def test_market1501(market1501, name):
    """Junk is left out by their reader of the data set, and by our protocol."""
    (features, matrix), asking = market1501
    ids, cams, _ = labels(features)
    listed = ~asking & (ids >= 0)
    answer = market(
        evaluator(MARKET[name]),
        -matrix[np.ix_(asking, listed)],
        *(ids[asking], ids[listed], cams[asking], cams[listed]),
    )
    row = ours(features, "market1501", "uni", query="visible")
    assert row.gallery_size == listed.sum()
    assert_same_as_market(row, answer, name)


def test_what_removes_cameras_is_mix_cam(both):
    """``get_mAP`` of MPANet removes every image of the query's camera, the query among them."""
    features, matrix = both
    module = evaluator(f"{IGNITE['MPANet']}/eval_sysu.py")
    ids, cams, modality = labels(features)
    query = modality == 1
    asked = (np.argsort(-matrix[query], axis=1), ids[query], cams[query], ids, cams)
    row = ours(features, get_protocol("full", cmc="dedup"), "mix-cam")
    assert_same(row, module.get_cmc(*asked)[[0, 4, 9, 19]], module.get_mAP(*asked))


# The examples of tests/unit/evaluation/test_disagreements.py, and what others answer: one query,
# (identity, camera), and items in rank order.
def ranked(query, items):
    ids, cams = np.array(items).T
    return np.arange(len(ids), dtype=np.float32)[None], *(
        np.array(value) for value in ([query[0]], ids, [query[1]], cams)
    )


def ignite_answer(query, items):
    distance, q_ids, g_ids, q_cams, g_cams = ranked(query, items)
    module = evaluator(f"{IGNITE['MPANet']}/eval_sysu.py")
    q_cams[q_cams == 3] = 2
    asked = (np.argsort(distance, axis=1), q_ids, q_cams, g_ids, g_cams)
    return module.get_mAP(*asked), module.get_cmc(*asked).tolist()


def script_answer(query, items):
    curve, mean_ap, _ = evaluator(SCRIPT["DDAG"]).eval_sysu(*ranked(query, items))
    return mean_ap, curve.tolist()


def llcm_answer(query, items):
    curve, mean_ap, _ = evaluator(SCRIPT["DEEN"]).eval_llcm(*ranked(query, items))
    return mean_ap, curve.tolist()


def market_answer(query, items, name="torchreid"):
    found = market(evaluator(MARKET[name]), *ranked(query, items))
    return found["mAP"], found["cmc"].tolist()


ONCE = ((1, 6), [(7, 1), (7, 1), (1, 1), (8, 1), (9, 1)])
PLACE = ((1, 3), [(1, 2), (7, 1), (1, 4)])
CAMERA = ((1, 1), [(7, 1), (1, 2), (1, 1)])


@pytest.mark.parametrize(
    ("answer", "example", "ap", "curve"),
    [
        (ignite_answer, ONCE, 1 / 3, [0, 1, 1, 1]),
        (script_answer, ONCE, 1 / 3, [0, 1, 1, 1]),
        (llcm_answer, ONCE, 1 / 3, [0, 1, 1, 1]),
        (market_answer, ONCE, 1 / 3, [0, 0, 1, 1]),
        (ignite_answer, PLACE, 1 / 2, [0, 1]),
        (script_answer, PLACE, 1 / 2, [0, 1]),
        (llcm_answer, PLACE, 5 / 6, [1, 1]),
        (market_answer, PLACE, 5 / 6, [1, 1]),
        (ignite_answer, CAMERA, 1, [1]),
        (script_answer, CAMERA, 7 / 12, [0, 1]),
        (llcm_answer, CAMERA, 1 / 2, [0, 1]),
        (market_answer, CAMERA, 1 / 2, [0, 1]),
    ],
)
def test_the_others_answer_what_the_list_says(answer, example, ap, curve):
    found_ap, found = answer(*example)
    assert found_ap == pytest.approx(ap)
    assert found[: len(curve)] == curve


def test_their_curve_beyond_one():
    """One identity left of two: NumPy stretches the match; with three, it refuses."""
    module = evaluator(f"{IGNITE['MPANet']}/eval_sysu.py")
    order, own = np.array([[0, 1]]), (np.array([1]), np.array([2]))
    assert module.get_cmc(order, *own, np.array([1, 7]), np.array([1, 2])).tolist() == [1, 2]
    order, gallery = np.array([[0, 1, 2]]), (np.array([1, 7, 8]), np.array([1, 2, 1]))
    with pytest.raises(ValueError, match="broadcast"):
        module.get_cmc(order, *own, *gallery)


@pytest.mark.parametrize("name", ["torchreid", "fast-reid"])
def test_their_stale_buffer(name):
    """Two items are left of three: the Cython versions read on."""
    example = (1, 6), [(7, 1), (1, 2), (1, 6)]
    assert market_answer(*example, name)[1] == [0, 1]
    assert market_answer(*example, f"{name} cython")[1] == [0, 1, 0]


@pytest.mark.parametrize("family", ["ignite", "script"])
def test_their_query_finds_itself(sysu, family):
    """On a mixed gallery of SYSU-MM01's cameras; ours does not (``mix``: by row)."""
    features, matrix, _ = sysu
    ids, cams, modality = labels(features)
    query = np.flatnonzero(modality == 1)
    if family == "script":
        found = evaluator(SCRIPT["DDAG"]).eval_sysu(
            -matrix[query], ids[query], ids, cams[query], cams
        )
        assert found[0][0] == 1
    else:
        query = query[cams[query] == 3]
        module = evaluator(f"{IGNITE['MPANet']}/eval_sysu.py")
        order = np.argsort(-matrix[query], axis=1)
        cmc = module.get_cmc(order, ids[query], np.full(len(query), 2), ids, cams)
        assert cmc[0] == 1
    protocol = dataclasses.replace(get_protocol("full"), colocated=((2, 3),))
    assert ours(features, protocol, "mix").r1 < 0.95


def test_benchmark_of_the_evaluators(tmp_path):
    for file in (f"{IGNITE['MPANet']}/eval_sysu.py", SCRIPT["DDAG"]):
        evaluator(file)
    threads = torch.get_num_threads()
    out = tmp_path / "peers.json"
    options = ["--queries", "24", "--repetitions", "1", "--out", str(out)]
    try:
        evaluator_peers.main(["--codebases", os.environ["MIXER_CODEBASES"], *options])
    finally:
        torch.set_num_threads(threads)
    report = json.loads(out.read_text())
    assert 0.55 < report["official_single_shot_mAP"] < 0.65
    # Unlike here above, a negative and a positive may tie, and public code sorts ties at random.
    assert max(report["mAP_difference"].values()) < 1e-4
    for clock in ("cpu", "wall"):
        table = report[f"{clock}_minimum"]
        mpanet, own = table["MPANet"], table["ours"]["seven_settings"]
        assert mpanet["ratio"] == pytest.approx(7 * mpanet["one_setting"] / own)
        assert 0 < mpanet["ratio_one_argsort"] < mpanet["ratio"]


def test_benchmark_without_a_checkout_says_what_it_needs(tmp_path):
    case = evaluator_peers.make_case(1)
    with pytest.raises(MixERValueError, match=r"MPANet/utils/eval_sysu\.py"):
        evaluator_peers.peers(tmp_path, case)
