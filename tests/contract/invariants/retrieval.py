"""Evaluation costs nothing extra, and the features are what they are said to be."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import mixer_plugin
from mixer_plugin import MixERError, mixer_features
from tests.contract.attached import build, wrap


def test_heads_do_not_run_in_eval_unless_asked(toy):
    model = wrap(toy, build(toy)).eval()
    calls = []
    for head in model.mixer.heads.values():
        head.parts()[0].register_forward_hook(lambda *_: calls.append(1))
    batch = toy.batch()
    plain = toy.look(model, batch)
    assert not calls
    assert model.mixer.record is None
    with model.mixer.matching():
        asked = toy.look(model, batch)
    assert len(calls) == 2
    assert torch.equal(plain, asked)
    features = mixer_features(model)
    assert features.related.shape[0] == len(batch.images)
    assert features.fused.shape[1] == features.erased.shape[1] + features.related.shape[1]
    assert torch.equal(features.modality, batch.modality)
    toy.look(model, batch)
    assert len(calls) == 2


def test_the_fused_cosine_is_the_mean_of_the_two(toy):
    model = wrap(toy, build(toy)).eval()
    with model.mixer.matching():
        toy.look(model, toy.batch())
    f = mixer_features(model)
    cos = nn.functional.cosine_similarity
    expected = (cos(f.erased[:1], f.erased) + cos(f.related[:1], f.related)) / 2
    torch.testing.assert_close(cos(f.fused[:1], f.fused), expected, atol=1e-5, rtol=0)


def test_related_rows_come_from_their_modalitys_head(toy):
    model = wrap(toy, build(toy)).eval()
    batch = toy.batch()
    with model.mixer.matching():
        toy.look(model, batch)
        before = mixer_features(model).related
        with torch.no_grad():
            for p in model.mixer.heads["infrared"].parameters():
                p.zero_()
        toy.look(model, batch)
        after = mixer_features(model).related
    assert torch.equal(before[batch.modality == 0], after[batch.modality == 0])
    assert not torch.allclose(before[batch.modality == 1], after[batch.modality == 1])


def test_erased_tap_is_what_evaluation_returns(toy):
    model = wrap(toy, build(toy)).eval()
    with model.mixer.matching():
        out = toy.look(model, toy.batch())
    if toy.erased is not None:
        assert torch.equal(toy.erased(mixer_features(model).erased), out)
    record = model.mixer.record
    assert not torch.equal(record.erased_before, record.erased_after) or "dropout" in toy.name


def test_embed_is_the_codebases_own_evaluation_on_a_bare_model_too(toy):
    batch = toy.batch()
    plain, model = build(toy).eval(), wrap(toy, build(toy)).eval()
    if not toy.name.startswith("generic"):
        embed = toy.resolved.embed
        expected = embed(plain, batch.images, batch.modality)
        assert torch.equal(embed(model, batch.images, batch.modality), expected)
        order = torch.randperm(len(batch.labels))
        torch.testing.assert_close(
            embed(plain, batch.images[order], batch.modality[order]), expected[order]
        )
        if toy.erased is not None and not toy.mirrored:
            torch.testing.assert_close(toy.look(plain, batch), expected)


def test_extract_features_keeps_order_modality_and_modes(toy):
    model = wrap(toy, build(toy)).train()
    first = next(model.children())
    first.eval()  # somebody's frozen part
    modes = [m.training for m in model.modules()]
    batches = [toy.batch(s) for s in range(2)]
    mirrored = [batches, [dataclasses.replace(b, images=b.images.flip(3)) for b in batches]]
    loader = [(b.images, b.labels, b.cams, b.modality, ["x"] * len(b.labels)) for b in batches]
    found = mixer_plugin.extract_features(model, loader)
    assert [m.training for m in model.modules()] == modes
    assert model.mixer.record is None
    assert torch.equal(found.ids, torch.cat([b.labels for b in batches]))
    assert torch.equal(found.modality, torch.cat([b.modality for b in batches]))
    assert found.paths == ("x",) * len(found)
    model.eval()
    for i, batch in enumerate(batches):
        rows = found[slice(12 * i, 12 * i + 12)]
        if toy.name != "generic/dropout":
            torch.testing.assert_close(rows.erased, toy.evaluate(model, batch).detach())
        related = []
        for view in mirrored[: 1 + toy.mirrored]:
            with model.mixer.matching():
                toy.look(model, view[i])
            related.append(mixer_features(model).related.detach())
        torch.testing.assert_close(rows.related, torch.stack(related).mean(0))
    without = mixer_plugin.extract_features(model, [b[:3] for b in loader])
    assert torch.equal(without.modality, found.modality)  # from SYSU's cameras
    named = [{"images": b[0], "ids": b[1], "cams": b[2], "modality": b[3]} for b in loader]
    torch.testing.assert_close(mixer_plugin.extract_features(model, named).related, found.related)


def test_extract_features_errors(toy):
    model = build(toy)
    with pytest.raises(MixERError, match="not wrapped"):
        mixer_plugin.extract_features(model, [])
    wrap(toy, model)
    with pytest.raises(MixERError, match="no batch"):
        mixer_plugin.extract_features(model, [])
    with pytest.raises(MixERError, match="no cams"):
        mixer_plugin.extract_features(model, [(torch.zeros(2, 3, 32, 16), torch.zeros(2))])
