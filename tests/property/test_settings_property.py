"""The tables of every setting against a literal predicate on pairs of images."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer_plugin.evaluation.settings import SETTINGS, find_groups, view

CAMERAS = range(1, 5)
MODES = ("any-id", "same-id", "keep")


def listed(setting, query, item, images, colocated, colocated_mixed, same_camera):
    """Is the item in the query's list? Both are (modality, camera, identity)."""
    same_modality = query[0] == item[0]
    same_number = query[1] == item[1]
    same_identity = query[2] == item[2]
    one_place = (query[1], item[1]) in colocated or (item[1], query[1]) in colocated
    if setting == "mix":
        return True
    if setting == "mix-id":
        return not (same_modality and same_identity)
    if setting in ("mix-cam", "mix-cam-id"):
        own = same_number or (colocated_mixed and one_place)
        return not own or (setting == "mix-cam-id" and not same_identity)
    if setting == "cross":
        if same_modality:
            return False
        own = one_place or (same_number and same_camera == "same-id")
    else:
        if not same_modality:
            return False
        cameras = {camera for modality, camera, _ in images if modality == query[0]}
        own = same_number and len(cameras) > 1
    if same_camera == "any-id":
        return not own
    if same_camera == "same-id":
        return not (own and same_identity)
    return True


@st.composite
def layouts(draw):
    pair = st.tuples(st.integers(0, 1), st.sampled_from(CAMERAS))
    groups = draw(st.lists(pair, min_size=1, max_size=8, unique=True))
    places = st.tuples(st.sampled_from(CAMERAS), st.sampled_from(CAMERAS))
    return groups, draw(st.lists(places, max_size=3))


@pytest.mark.parametrize(
    ("setting", "same_camera", "together"), list(product(SETTINGS, MODES, (False, True)))
)
@given(layouts())
def test_tables_are_the_predicate(setting, same_camera, together, layout):
    pairs, colocated = layout
    images = [(modality, camera, identity) for modality, camera in pairs for identity in (1, 2)]
    modality, camera, _ = np.array(images).T
    groups = find_groups(modality, camera)
    tables = view(setting, groups, colocated, together, same_camera)
    for i, query in enumerate(images):
        for j, item in enumerate(images):
            table = tables.positive if query[2] == item[2] else tables.listed
            place = groups.of_row[i], groups.of_row[j]
            options = (colocated, together, same_camera)
            assert table[place] == listed(setting, query, item, images, *options)
            held = {"cross": query[0] != item[0], "uni": query[0] == item[0]}
            assert tables.gallery[place] == held.get(setting, True)


@given(layouts())
def test_options_left_out_are_any_id_and_no_place(layout):
    pairs, _ = layout
    groups = find_groups(*np.array(pairs).T)
    for setting in SETTINGS:
        one, two = view(setting, groups), view(setting, groups, (), False, "any-id")
        assert np.array_equal(one.listed, two.listed)
        assert np.array_equal(one.positive, two.positive)
