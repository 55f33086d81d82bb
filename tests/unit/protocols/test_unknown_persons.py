"""Identities below 0 are of unknown persons: no query and no positive, in any protocol."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mixer_plugin import evaluate
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.analysis.curves import gallery_curve
from mixer_plugin.evaluation.audit.audit import audit
from mixer_plugin.evaluation.protocols import get_protocol
from mixer_plugin.probing.folds import balanced_rows
from tests.unit.evaluation.evaluation_cases import make


def with_unknown(number=-1):
    one = make()
    return replace(one, ids=torch.where(one.ids <= 2, number, one.ids))


@pytest.mark.parametrize("cmc", ["standard", "dedup"])
def test_as_if_each_were_another_person(cmc):
    junk, protocol = with_unknown(), get_protocol("full", cmc=cmc)
    strangers = (junk.ids < 0).nonzero().flatten()
    apart = junk.ids.clone()
    apart[strangers] = 1000 + strangers
    found = evaluate(junk, protocol, query="both")
    wanted = evaluate(replace(junk, ids=apart), protocol, query="both")
    for one, two in zip(found.rows, wanted.rows, strict=True):
        for name in ("mAP", "r1", "mINP"):  # sums of other lengths round in another way
            assert getattr(one, name) == pytest.approx(getattr(two, name), abs=1e-12)
        assert one.queries_valid == two.queries_valid
    assert audit(junk, protocol, found).ok


def test_the_contract_says_so():
    junk = with_unknown()
    count = int((junk.ids < 0).sum())
    assert (
        f"{count} images of unknown persons (identity below 0)" in evaluate(junk, "full").contract
    )
    zero = evaluate(with_unknown(0), "full").contract
    assert f"identity 0  {count} images, taken as one person; number unknown persons below" in zero
    plain = evaluate(make(), "full").contract
    assert "unknown" not in plain
    assert "identity 0" not in plain


def test_where_nobody_is_known():
    junk = replace(make(), ids=-torch.ones_like(make().ids))
    with pytest.raises(MixERValueError, match=r"All its \d+ images are of unknown persons"):
        evaluate(junk, "full")


@pytest.mark.parametrize("name", ["full", "regdb/1", "llcm/full", "sysu/all/single@ye"])
def test_in_every_protocol(name):
    junk = with_unknown()
    if name.startswith("sysu"):  # its cameras: 3 and 6 are infrared
        junk = replace(junk, cams=torch.where(junk.modality == 1, 3, 1))
    protocol = get_protocol(name)
    for side in (0, 1):
        rows = protocol.queries(junk, side)
        wanted = ((junk.modality == side) & (junk.ids >= 0)).nonzero().flatten()
        assert rows.tolist() == wanted.tolist()


def test_growing_galleries_and_probes_know_them():
    junk = with_unknown()
    curve = gallery_curve(junk, "full", fractions=(0.5, 1.0), draws=2)
    assert curve.points[-1][0] == len(set(junk.ids[junk.ids >= 0].tolist()))
    (row,) = evaluate(junk, "full", settings=("mix",), rules=("mixer",)).rows
    assert curve.points[-1][1].mAP == row.mAP
    assert (junk.ids[balanced_rows(junk, 60, 0)] >= 0).all()


def test_labels_far_from_contiguous():
    one = make()
    ids, cams = one.ids.numpy(), one.cams.numpy()
    far = replace(one, ids=ids.astype(np.int64) * (2**62 // 9) + 7, cams=-cams * 10**15)
    for options in ({}, {"rerank": "aim", "settings": ("mix-cam-id",)}):
        rows, others = (evaluate(each, "full", **options).rows for each in (one, far))
        assert [row.mAP for row in rows] == [row.mAP for row in others]
