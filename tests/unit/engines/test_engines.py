from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mixer_plugin import FeatureSet
from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.search.engines import EngineGallery, MilvusEngine
from mixer_plugin.search.reduction import fit_reduction
from tests.search_cases import check, make, ranked

RULES = ["mixer", "erased", "related", "mixer-calibrated"]


@pytest.mark.parametrize("rule", [*RULES, "routed", "dev-switch"])
def test_the_order_is_that_of_scores(new_engine, rule):
    gallery, query, engine = make(120), make(9, 1), new_engine()
    for each in (EngineGallery.create(engine, gallery, rule=rule), EngineGallery.open(engine)):
        assert len(each) == 120
        hits = check(each.search(query, 130), ranked(query, gallery, rule), 130, atol=2e-6)
        assert hits.keys.shape == (9, 130)
        found = hits.keys[:, :120]
        for name in ("ids", "cams", "modality"):
            assert torch.equal(getattr(hits, name)[:, :120], getattr(gallery, name)[found])
        assert hits.paths[0][0] == gallery.paths[int(found[0, 0])]
        assert hits.paths[0][-1] is None


def test_center_takes_the_means_of_the_first_set(new_engine):
    gallery, query = make(60), make(5, 1)
    made = EngineGallery.create(new_engine(), gallery, calibration="center")
    check(made.search(query, 20), ranked(query, gallery, "mixer", "center"), 20, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_two_thousand_images_with_filters_upserts_and_deletions(new_engine, rule):
    pytest.importorskip("faiss", reason="the later images' oracle needs the extra 'faiss'")
    from tests.search_cases import build

    gallery, later, query = make(2000), make(100, 2), make(20, 1)
    times = [float(row) for row in range(2000)]
    made = EngineGallery.create(new_engine(), gallery, rule=rule, times=times)
    everything = ranked(query, gallery, rule)
    check(made.search(query, 50), everything, 50, atol=2e-6)
    forbidden = np.ones((20, 1), bool) * ~((gallery.cams == 2) & (torch.arange(2000) < 900)).numpy()
    expected = ranked(query, gallery, rule, forbidden=forbidden)
    check(made.search(query, 50, filter="camera == 2 and time < 900"), expected, 50, atol=2e-6)
    index = build(gallery, rule)
    index.add(later)
    index.remove(range(0, 2000, 3))
    assert made.add(later, range(2000, 2100)) == [*range(2000, 2100)]
    made.remove(range(0, 2000, 3))
    assert len(made) == len(index)
    wanted, hits = index.search(query, 50), made.search(query, 50)
    torch.testing.assert_close(hits.scores, wanted.scores, atol=2e-6, rtol=0)
    assert (hits.keys == wanted.keys).float().mean() > 0.999  # rounding may swap neighbours


def test_equal_scores_come_in_the_order_of_keys(new_engine):
    one = replace(make(3), paths=None)
    copies = FeatureSet.concatenate([one[[0]]] * 60 + [one])
    keys = [(5 * row) % 63 for row in range(63)]
    made = EngineGallery.create(new_engine(), copies, keys)
    wanted = sorted(key for row, key in enumerate(keys) if row <= 60)
    assert made.search(one[[0]], 5).keys.tolist() == [wanted[:5]]
    assert made.search(one[[0]], 61).keys.tolist() == [wanted]


def test_an_upsert_replaces_all_that_was_known_of_an_image(new_engine):
    gallery, other = make(40), make(40, 1)
    visible, infrared = int(gallery.modality.argmin()), int(other.modality.argmax())
    made = EngineGallery.create(
        new_engine(), gallery, times=[5.0] * 40, payloads=[{"site": "gate"}] * 40
    )
    assert made.count('payload.site == "gate" and time == 5') == 40
    made.add(other[[infrared]], [visible], upsert=True)  # now of the other modality
    assert len(made) == 40
    assert made.count('payload.site == "gate"') == made.count("time == 5") == 39
    now = FeatureSet.concatenate(
        [other[[infrared]] if row == visible else gallery[[row]] for row in range(40)]
    )
    query = make(5, 2)
    check(made.search(query, 40), ranked(query, now), 40, atol=2e-6)
    made.remove([visible])
    forbidden = np.zeros((5, 40), bool)
    forbidden[:, visible] = True
    check(made.search(query, 40), ranked(query, now, forbidden=forbidden), 40, atol=2e-6)


def test_what_does_not_fit_is_refused_and_changes_nothing(new_engine):
    gallery, engine = make(30), new_engine()
    with pytest.raises(MixERValueError, match="is not there, or has no manifest"):
        EngineGallery.open(engine)
    with pytest.raises(MixERValueError, match="keys has 2 entries for 30 images"):
        EngineGallery.create(engine, gallery, [1, 2])
    with pytest.raises(MixERValueError, match="Key 3 is given twice"):
        EngineGallery.create(engine, gallery[:2], [3, 3])
    with pytest.raises(MixERValueError, match="whole numbers from 0 on, got -1"):
        EngineGallery.create(engine, gallery[:2], [3, -1])
    with pytest.raises(MixERValueError, match="from at least one image"):
        EngineGallery.create(engine, gallery[:0])
    made = EngineGallery.create(engine, gallery)
    with pytest.raises(MixERValueError, match="is there already"):
        EngineGallery.create(engine, gallery)
    with pytest.raises(MixERValueError, match="holds features of widths"):
        made.add(replace(gallery, erased=gallery.erased[:, :5]), range(30), upsert=True)
    with pytest.raises(MixERValueError, match="times has 1 entries for 30 images"):
        made.add(gallery, range(30), times=[1.0], upsert=True)
    with pytest.raises(MixERValueError, match="Key 4 is in the collection already; nothing was"):
        made.add(gallery[:2], [99, 4])
    with pytest.raises(MixERValueError, match="whole numbers from 0 on, got 'a'"):
        made.add(gallery[:2], [99, "a"])
    with pytest.raises(MixERValueError, match="A collection gives out no keys"):
        made.add(gallery[:2])
    for payload in ({"list": [1]}, {"gate": {"lane": None}}, {"nothing": {}}):
        with pytest.raises(MixERValueError, match="the payload of row 1 holds a list, null or"):
            made.add(gallery[:2], [98, 99], payloads=[None, payload])
    with pytest.raises(MixERValueError, match="payload of row 0 is no valid Unicode"):
        made.add(gallery[:1], [98], payloads=[{"site": "\ud800"}])
    with pytest.raises(MixERValueError, match="path of row 0 is no valid Unicode"):
        made.add(replace(gallery[:1], paths=("\ud800.jpg",)), [98])
    for image, given in (
        (replace(gallery[:1], paths=("a" * (engine.longest + 1),)), None),
        (gallery[:1], [{"site": "a" * engine.longest}]),
    ):
        with pytest.raises(MixERValueError, match=f"this engine takes {engine.longest}. Shorten"):
            made.add(image, [98], payloads=given)
    with pytest.raises(MixERTypeError, match="times must be seconds"):
        made.add(gallery[:1], [98], times=["noon"])
    for k in (0, made.engine.most + 1):
        with pytest.raises(MixERValueError, match="k must be"):
            made.search(gallery, k)
    with pytest.raises(MixERTypeError, match="k must be a whole number"):
        made.search(gallery, 2.5)
    for absent in ([3, 99], ["a"], [-1]):
        with pytest.raises(MixERValueError, match="is not in the collection; nothing was removed"):
            made.remove(absent)
    with pytest.raises(MixERValueError, match="is not in the collection; nothing was read"):
        made.get([99])
    with pytest.raises(MixERValueError, match="There is no key"):
        made.features([])
    with pytest.raises(MixERValueError, match="exclude must have one entry per query"):
        made.search(gallery, 2, exclude=[[1]])
    with pytest.raises(MixERValueError, match="group_by must be 'id' or"):
        made.search(gallery, 2, group_by="camera")
    with pytest.raises(MixERValueError, match="Expected a field"):
        made.search(gallery, 2, filter="camra == 2")
    assert len(made) == 30


def test_features_of_another_reduction_are_refused(new_engine):
    gallery, query, engine = make(60), make(5, 1), new_engine()
    one, other = (fit_reduction(part, 5) for part in (gallery[:40], gallery[20:]))
    EngineGallery.create(engine, one.apply(gallery))
    made = EngineGallery.open(engine)
    assert made.manifest.space.reduction == one.fingerprint
    expected = ranked(one.apply(query), one.apply(gallery))
    check(made.search(one.apply(query), 10), expected, 10, atol=2e-6)
    with pytest.raises(MixERValueError, match=f"reduced by {other.fingerprint}; other reductions"):
        made.search(other.apply(query), 10)
    with pytest.raises(MixERValueError, match="these are features that no reduction made"):
        made.add(replace(one.apply(query), reduction=None), range(90, 95))


def test_a_long_manifest_comes_back_and_a_missing_part_is_named(new_engine):
    rng = np.random.default_rng(0)
    gallery = make(40)
    wide = replace(gallery, erased=torch.from_numpy(rng.normal(size=(40, 80))))
    engine = new_engine()
    EngineGallery.create(engine, wide, rule="mixer-calibrated")
    query = replace(gallery[:4], erased=wide.erased[:4] + 0.1)
    expected = ranked(query, wide, "mixer-calibrated")
    check(EngineGallery.open(engine).search(query, 9), expected, 9, atol=5e-6)
    beside = engine._beside
    if isinstance(engine, MilvusEngine):
        engine.client.delete(beside, ids=[1])
    else:
        engine.client.delete(beside, [1])
    with pytest.raises(MixERValueError, match="its statistics are not complete"):
        EngineGallery.open(engine)


def test_vectors_wider_than_an_engine_takes_are_refused(new_engine):
    engine = new_engine()
    half = engine.widest // 2 + 1
    features = FeatureSet(torch.ones(1, half), torch.ones(1, half), [0], [0], [0])
    with pytest.raises(MixERValueError, match=f"takes {engine.widest}. Make the features shorter"):
        EngineGallery.create(engine, features)
