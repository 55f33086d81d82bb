"""One head or two, and the labels they are trained on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mixer_plugin import MixERConfig, MixERError, mixer_features
from mixer_plugin.losses import center_cluster
from tests.contract.attached import build, wrap
from tests.contract.toys import CLASSES, TOYS

HEADS = {"per-modality": ["visible", "infrared"], "shared": ["shared"]}


def after_a_step(**options):
    toy = TOYS["generic"]
    model = wrap(toy, build(toy), config=MixERConfig(**options), seed=0).train()
    with torch.no_grad():
        model.mixer.identity.weight.normal_()  # as made, all logits are nearly equal
    kept = []
    compute = model.mixer.loss

    def keep(*given, **more):
        kept.append(model.mixer.record)
        return compute(*given, **more)

    model.mixer.loss = keep
    batch = toy.batch()
    toy.step_loss(model, batch).backward()
    return model, batch, kept[0]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("labels", ["modality-identity", "identity"])
@pytest.mark.parametrize("scope", ["auto", "per-modality", "joint"])
def test_labels_and_clusters_are_those_of_the_options(heads, labels, scope):
    model, batch, record = after_a_step(
        related_heads=heads,
        related_labels=labels,
        center_cluster_scope=scope,
        erased_identity="skip",
    )
    mixer = model.mixer
    assert list(mixer.heads) == HEADS[heads]
    doubled = labels == "modality-identity"
    assert len(mixer.identity.weight) == (2 if doubled else 1) * CLASSES
    targets = 2 * batch.labels + batch.modality if doubled else batch.labels
    expected = F.cross_entropy(record.related_after @ mixer.identity.weight.T, targets)
    torch.testing.assert_close(mixer.terms["modality_identity"], expected.detach())
    related = record.related_before.detach()
    parts = [slice(None)]
    if scope == "per-modality" or (scope == "auto" and doubled):
        parts = [batch.modality == m for m in (0, 1)]
    clusters = sum(center_cluster(related[p], targets[p], pull=0.01, push=0.7) for p in parts)
    torch.testing.assert_close(mixer.terms["center_cluster"], clusters)


def test_the_control_is_a_shared_head_with_ordinary_labels():
    control, _, _ = after_a_step(control="shared-head")
    options, _, _ = after_a_step(related_heads="shared", related_labels="identity")
    for (name, p), (other, q) in zip(
        control.mixer.named_parameters(), options.mixer.named_parameters(), strict=True
    ):
        assert name == other
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad), name


def test_a_shared_head_gives_the_same_for_a_row_of_either_modality():
    toy = TOYS["generic"]
    config = MixERConfig(related_heads="shared")
    model, batch = wrap(toy, build(toy), config=config).eval(), toy.batch()
    found = []
    with model.mixer.matching():
        for m in (0, 1):
            model(batch.images, torch.full_like(batch.modality, m))
            found.append(mixer_features(model).related)
    torch.testing.assert_close(*found)


def test_features_of_a_forward_without_heads_say_so():
    toy = TOYS["generic"]
    model, batch = wrap(toy, build(toy)).eval(), toy.batch()
    with model.mixer.matching(heads=False):
        toy.look(model, batch)
    with pytest.raises(MixERError, match=r"matching\(heads=False\) runs no related head"):
        mixer_features(model)


def test_the_papers_setting_is_one_clone_for_each_modality_with_doubled_labels():
    for config in (MixERConfig(), MixERConfig.paper()):
        assert config.head_names == ("visible", "infrared")
        assert config.doubles_labels
        assert config.related_stages == 1
    assert not MixERConfig.paper().clusters_apart
    assert MixERConfig().clusters_apart
    assert MixERConfig(control="erased-triplet").head_names == ()
