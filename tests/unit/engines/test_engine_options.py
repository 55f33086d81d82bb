"""Settings, exclusions, thresholds and groups: the same as in the store, and as sorting it all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mixer_plugin import FeatureSet, scores
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.settings import SETTINGS, find_groups, view
from mixer_plugin.search import GalleryStore
from mixer_plugin.search.engines import EngineGallery
from mixer_plugin.search.engines.searching import left_out
from tests.search_cases import check, make, ranked
from tests.unit.engines.test_engines import RULES

FILTER = "camera in (1, 2, 3)"


def strangers(features):
    """The set with some persons unknown."""
    ids = features.ids.clone()
    ids[::5] = -1
    return replace(features, ids=ids)


def track(row):
    """The payload of a row; some have no track."""
    return {"site": "gate"} if row % 7 == 0 else {"site": "gate", "track": row // 40}


def matched(setting, own, other):
    """Whether a setting lets a query find an image; each is modality, camera and person."""
    side, camera, person = (a == b for a, b in zip(own, other, strict=True))
    person = person and own[2] >= 0
    return {
        "mix": True,
        "mix-cam": not camera,
        "mix-cam-id": not (camera and person),
        "mix-id": not (side and person),
        "cross": not side,
        "uni": side and not camera,
    }[setting]


def labels(features):
    columns = (features.modality, features.cams, features.ids)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def literal(query, gallery, rule, options):
    """For each query the pairs (-score, key), best first, as ``check`` takes them."""
    lists = []
    others, least = labels(gallery), options.get("threshold", -np.inf)
    for i, line in enumerate(scores(query, gallery, rule).tolist()):
        own, seen, pairs = labels(query)[i], set(), []
        for score, key in sorted((-value, j) for j, value in enumerate(line)):
            group = {"id": others[key][2], "payload.track": track(key).get("track", -1)}.get(
                options.get("group_by"), -1
            )
            if (
                matched(options.get("setting", "mix"), own, others[key])
                and -score >= least
                and key not in options.get("exclude", [[]] * len(query))[i]
                and (options.get("filter") is None or others[key][1] <= 3)
                and group not in seen
            ):
                pairs.append((score, key))
                seen |= {group} if group >= 0 else set()
        lists.append(pairs)
    return lists


def all_options(query, gallery, rule):
    best = scores(query, gallery, rule).argsort(dim=1, descending=True)[:, :3]
    exclude = [[*row, 5000, "nobody"] for row in best.tolist()]
    yield from ({"setting": setting} for setting in SETTINGS)
    yield from ({"group_by": name} for name in ("id", "payload.track", "payload.nothing"))
    yield from ({"exclude": exclude}, {"threshold": 0.35})
    both = {"filter": FILTER, "exclude": exclude, "group_by": "payload.track"}
    yield from ({"setting": name, "threshold": -0.05, **both} for name in ("mix-cam-id", "uni"))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_options_are_the_stores_on_two_thousand_images(new_engine, tmp_path, rule):
    gallery, query = strangers(make(2000)), strangers(make(4, 1))
    payloads = [track(row) for row in range(2000)]
    made = EngineGallery.create(new_engine(), gallery, rule=rule, payloads=payloads)
    with GalleryStore.create(tmp_path / "store", rule) as store:
        store.add(gallery, range(2000), payloads=payloads)
        for options in all_options(query, gallery, rule):
            hits = made.search(query, 30, **options)
            check(hits, literal(query, gallery, rule, options), 30, atol=2e-6)
            wanted = store.search(query, 30, **options)
            torch.testing.assert_close(hits.scores, wanted.scores, atol=2e-6, rtol=0)
            mine = [[None if key < 0 else key for key in row] for row in hits.keys.tolist()]
            same = np.array(mine, object) == np.array(wanted.keys, object)
            assert same.mean() > 0.99, options  # rounding may swap neighbours


def test_options_on_few_images(new_engine):
    gallery, query = strangers(make(90)), strangers(make(4, 1))
    payloads = [track(row) for row in range(90)]
    made = EngineGallery.create(new_engine(), gallery, payloads=payloads)
    for options in all_options(query, gallery, "mixer"):
        hits = made.search(query, 95, **options)
        check(hits, literal(query, gallery, "mixer", options), 95, atol=2e-6)
    each = made.search_each(query, 5, setting="cross", exclude=[[]] * 4)
    for row, side in enumerate(query.modality.tolist()):
        assert (each[side][1][row] == -1).all()
        assert (each[1 - side][1][row] >= 0).all()


def test_equal_scores_in_groups_come_in_the_order_of_keys(new_engine):
    one = replace(make(3), paths=None)
    copies = FeatureSet.concatenate([one[[0]]] * 60)
    keys = [(7 * row) % 60 for row in range(60)]
    tracks = [None if key in (4, 50) else {"track": [True, 1, "1"][key % 3]} for key in keys]
    made = EngineGallery.create(new_engine(), copies, keys, payloads=tracks)
    hits = made.search(one[[0]], 10, group_by="payload.track")
    assert hits.keys.tolist() == [[0, 1, 2, 4, 50, *[-1] * 5]]
    assert hits.payloads[0][:4] == ({"track": True}, {"track": 1}, {"track": "1"}, None)


def test_every_value_makes_a_group(new_engine):
    values = [3, 3.0, 2.5, 0.1, True, "3", "ü \U0001f6b6", 'a "b" \\ c', 2**60, 2**60 + 1, -(2**60)]
    gallery, query = make(8 * len(values)), make(2, 1)
    payloads = [{"gate no": {"lane": values[row % len(values)]}} for row in range(len(gallery))]
    made = EngineGallery.create(new_engine(), gallery, payloads=payloads)
    hits = made.search(query, 30, group_by='payload."gate no".lane')
    firsts = []
    for line in ranked(query, gallery):
        seen, pairs = set(), []
        for score, key in line:
            name = max(key % len(values), 1)  # 3 and 3.0 are equal
            pairs += [] if name in seen else [(score, key)]
            seen.add(name)
        firsts.append(pairs)
    check(hits, firsts, 30, atol=2e-6)


class Careless:
    """An engine that passes over what it was told to leave out."""

    most = 20

    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def search(self, vectors, modality, limit, where, exact):
        return self.engine.search(vectors, modality, limit, [None] * len(where), exact)


def test_values_that_an_engine_cannot_compare_are_refused(new_engine):
    gallery = make(80)
    gallery = replace(gallery, ids=torch.zeros_like(gallery.ids))
    made = EngineGallery.create(Careless(new_engine()), gallery)
    with pytest.raises(MixERValueError, match="cannot compare the values of id"):
        made.search(make(1, 1), 5, group_by="id")


class Narrow:
    """An engine that gives few matches at once."""

    most = 12

    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)


def test_groups_of_more_images_than_an_engine_gives_are_complete(new_engine):
    gallery, query = make(120), make(3, 1)
    gallery = replace(gallery, ids=torch.where(gallery.ids < 4, gallery.ids, 9))
    made = EngineGallery.create(Narrow(new_engine()), gallery)
    hits = made.search(query, 5, group_by="id")
    check(hits, literal(query, gallery, "mixer", {"group_by": "id"}), 5, atol=2e-6)


def test_the_only_camera_of_a_modality_is_searched(new_engine):
    gallery, query = make(60), make(6, 1)
    ones = {"cams": torch.ones_like(gallery.cams)}
    made = EngineGallery.create(new_engine(), replace(gallery, **ones))
    asked = replace(query, cams=torch.ones_like(query.cams))
    for one in (asked[[0]], asked):
        hits = made.search(one, 9, setting="uni")
        assert (hits.keys >= 0).all()
        assert (hits.modality == one.modality[:, None]).all()
    hits = made.search(replace(asked, cams=query.cams), 9, setting="uni")
    assert (hits.keys[query.cams == 1] == -1).all()  # the queries show other cameras


def test_what_settings_leave_out_is_what_they_leave_out_of_an_evaluation():
    sides, cameras = np.array([0, 0, 1, 1]), np.array([1, 2, 1, 2])
    for setting in SETTINGS:
        table = view(setting, find_groups(sides, cameras))
        for same, kept in ((True, table.positive), (False, table.listed)):
            for image, (side, camera) in enumerate(zip(sides, cameras, strict=True)):
                fields = left_out(setting, side == 0)
                agree = {"camera": camera == 1, "id": same}
                out = fields is not None and all(agree[name] for name in fields)
                assert kept[0, image] == (not out), (setting, same, image)
