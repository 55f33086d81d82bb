"""Every loss against a slow, literal loop over its equation, and gradcheck in float64."""

import math

import pytest
import torch

from mixer_plugin import losses
from mixer_plugin.errors import MixERValueError


@pytest.fixture(params=[0, 1, 2])
def batch(request):
    g = torch.Generator().manual_seed(request.param)
    labels = torch.randint(0, 4, (12,), generator=g)
    modality = torch.randint(0, 2, (12,), generator=g)
    erased = torch.randn(12, 6, generator=g, dtype=torch.float64)
    related = torch.randn(12, 3, generator=g, dtype=torch.float64)
    return erased, related, labels, modality


def cosine(a, b):
    return float(a @ b) / (float(a.norm()) * float(b.norm()))


def test_doubled_labels_are_eq_12():
    labels, modality = torch.tensor([0, 0, 3]), torch.tensor([0, 1, 1])
    assert losses.modality_identity_labels(labels, modality).tolist() == [0, 1, 7]


def test_identity_is_mean_cross_entropy(batch):
    erased, _, labels, _ = batch
    expected = 0.0
    for row, label in zip(erased.tolist(), labels.tolist(), strict=True):
        expected += math.log(sum(math.exp(v) for v in row)) - row[label]
    assert float(losses.identity(erased, labels)) == pytest.approx(expected / 12, abs=1e-12)


def test_confusion_of_equal_logits_is_ln_2():
    value = losses.confusion(torch.zeros(5, 2), torch.tensor([0, 1, 1, 0, 1]))
    assert float(value) == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("form", "of"), [("abs", abs), ("signed", float), ("squared", lambda c: c * c)]
)
def test_orthogonal_is_eq_7_over_blocks(batch, form, of):
    erased, related, _, _ = batch
    values = [
        of(cosine(erased[i, 3 * k : 3 * k + 3], related[i])) for i in range(12) for k in range(2)
    ]
    expected = sum(values) / len(values)
    assert float(losses.orthogonal(erased, related, form)) == pytest.approx(expected, abs=1e-9)


def test_cka_is_the_ratio_of_its_definition_over_blocks(batch):
    erased, related, _, _ = batch

    def centred(columns):
        means = [sum(row[j] for row in columns) / len(columns) for j in range(len(columns[0]))]
        return [[v - means[j] for j, v in enumerate(row)] for row in columns]

    def squared(x, y):  # |X'Y|² in the Frobenius norm
        return sum(
            sum(a[i] * b[j] for a, b in zip(x, y, strict=True)) ** 2
            for i in range(len(x[0]))
            for j in range(len(y[0]))
        )

    r = centred(related.tolist())
    values = []
    for k in range(2):
        e = centred(erased[:, 3 * k : 3 * k + 3].tolist())
        values.append(squared(e, r) / math.sqrt(squared(e, e) * squared(r, r)))
    found = float(losses.orthogonal(erased, related, "cka"))
    assert found == pytest.approx(sum(values) / 2, abs=1e-9)
    assert float(losses.orthogonal(related, related * 3 + 1, "cka")) == pytest.approx(1, abs=1e-9)


def test_orthogonal_refuses_odd_widths_and_unknown_forms():
    with pytest.raises(MixERValueError, match="multiple"):
        losses.orthogonal(torch.ones(2, 5), torch.ones(2, 3))
    with pytest.raises(MixERValueError, match="Did you mean 'squared'"):
        losses.orthogonal(torch.ones(2, 3), torch.ones(2, 3), "square")


def literal_center_cluster(features, labels, pull, push):
    centers = {
        int(y): torch.stack([f for f, own in zip(features, labels, strict=True) if own == y]).mean(
            0
        )
        for y in labels.unique()
    }
    pulled = [
        max(float((f - centers[int(y)]).norm()) - pull, 0.0)
        for f, y in zip(features, labels, strict=True)
    ]
    pushed = []
    for y, center in centers.items():
        hinges = [
            max(push - float((center - centers[int(other)]).norm()), 0.0)
            for other in labels
            if int(other) != y
        ]
        pushed.append(sum(hinges) / len(hinges) if hinges else 0.0)
    return sum(pulled) / len(pulled) + sum(pushed) / len(pushed)


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_center_cluster_is_mpanets(batch, scale):
    erased, _, labels, _ = batch
    ours = losses.center_cluster(erased * scale, labels, pull=0.01, push=0.7)
    assert float(ours) == pytest.approx(
        literal_center_cluster(erased * scale, labels, 0.01, 0.7), abs=1e-6
    )


def literal_fusion(erased, related, labels, modality, margin):
    def distance(a, b):
        return 1 - sum(cosine(x, y) for x, y in zip(a, b, strict=True)) / len(a)

    def within(i, j):
        parts = [(erased[i], erased[j])] + ([] if related is None else [(related[i], related[j])])
        return distance(*zip(*parts, strict=True))

    def across(i, j):
        return distance((erased[i],), (erased[j],))

    first, second = [], []
    n = len(labels)
    for j in range(n):
        others = [i for i in range(n) if i != j]
        same = [i for i in others if modality[i] == modality[j]]
        other = [i for i in others if modality[i] != modality[j]]
        positives = [within(j, i) for i in same if labels[i] == labels[j]]
        negatives = [across(j, i) for i in other if labels[i] != labels[j]]
        if positives and negatives:
            first.append(max(max(positives) - min(negatives) + margin, 0))
        positives = [across(j, i) for i in other if labels[i] == labels[j]]
        negatives = [within(j, i) for i in same if labels[i] != labels[j]]
        if positives and negatives:
            second.append(max(max(positives) - min(negatives) + margin, 0))
    return sum(sum(x) / len(x) for x in (first, second) if x)


@pytest.mark.parametrize("with_related", [True, False])
def test_fusion_is_eq_15(batch, with_related):
    erased, related, labels, modality = batch
    related = related if with_related else None
    ours = losses.fusion(erased, related, labels, modality, margin=0.3)
    expected = literal_fusion(erased, related, labels, modality, 0.3)
    assert float(ours) == pytest.approx(expected, abs=1e-6)


def test_centred_fusion_is_that_of_features_centred_by_modality(batch):
    erased, related, labels, modality = batch

    def centred(features):
        rows = features / features.norm(dim=1, keepdim=True)
        out = torch.zeros_like(rows)
        for i in range(len(rows)):
            same = [j for j in range(len(rows)) if modality[j] == modality[i]]
            out[i] = rows[i] - sum(rows[j] for j in same) / len(same)
        return out

    found = float(losses.fusion(erased, related, labels, modality, center=True))
    expected = literal_fusion(centred(erased), centred(related), labels, modality, 0.3)
    assert found == pytest.approx(expected, abs=1e-6)
    alone = float(losses.fusion(erased, None, labels, modality, center=True))
    assert alone != pytest.approx(float(losses.fusion(erased, None, labels, modality)), abs=1e-3)


def test_one_row_counts_as_one(batch):
    """Divisors of small batches: one row, one anchor of a hinge."""
    erased, related, labels, _ = (part[:1] for part in batch)
    row = erased[0].tolist()
    entropy = math.log(sum(math.exp(v) for v in row)) - row[int(labels)]
    assert float(losses.identity(erased, labels)) == pytest.approx(entropy, abs=1e-12)
    assert float(losses.confusion(erased, labels)) == pytest.approx(entropy, abs=1e-12)
    blocks = [abs(cosine(part, related[0])) for part in erased[0].split(3)]
    found = losses.orthogonal(erased, related)  # its usual form
    assert float(found) == pytest.approx(sum(blocks) / 2, abs=1e-9)
    # Visible persons 0, 0 and 1, infrared person 1: row 2 alone has a partner of each kind across.
    erased, _, _, _ = (part[:4] for part in batch)
    labels, modality = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])
    found = losses.fusion(erased, None, labels, modality, margin=5.0)
    assert float(found) == pytest.approx(
        literal_fusion(erased, None, labels, modality, 5.0), abs=1e-6
    )


def test_center_cluster_of_one_row_and_its_usual_margins(batch):
    erased, _, labels, _ = batch
    # A row is its own centre; its distance from it is the root of what keeps the gradient finite.
    assert float(losses.center_cluster(erased[:1], labels[:1])) == pytest.approx(0, abs=1e-5)
    usual = literal_center_cluster(erased * 0.1, labels, 0.01, 0.7)
    assert float(losses.center_cluster(erased * 0.1, labels)) == pytest.approx(usual, abs=1e-6)
    pair = torch.tensor([[0.0, 0.0], [0.3, 0.4]], dtype=torch.float64)
    two = float(losses.center_cluster(pair, torch.tensor([0, 1]), pull=0.01, push=0.7))
    assert two == pytest.approx(0.7 - 0.5, abs=1e-5)  # the mean over the two centres


def every_loss(erased, related, labels, modality):
    return {
        "identity": losses.identity(erased, labels),
        "confusion": losses.confusion(erased[:, :2], modality),
        **{f: losses.orthogonal(erased, related, f) for f in losses.ORTHOGONAL},
        "center_cluster": losses.center_cluster(erased, labels),
        "fusion": losses.fusion(erased, related, labels, modality),
        "triplet": losses.fusion(erased, None, labels, modality),
        "fusion_centred": losses.fusion(erased, related, labels, modality, center=True),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", list(every_loss(*(torch.ones(2, 2),) * 2, *(torch.tensor([0, 1]),) * 2))
)
def test_gradcheck(batch, name):
    erased, related, labels, modality = batch
    inputs = (erased.clone().requires_grad_(), related.clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda e, r: every_loss(e, r, labels, modality)[name], inputs, eps=1e-7, atol=1e-5
    )


@pytest.mark.parametrize(
    "case",
    ["zeros", "one identity", "one row each", "one modality", "equal rows", "empty", "half"],
)
def test_losses_and_gradients_are_finite_at_the_edges(case):
    g = torch.Generator().manual_seed(0)
    labels, modality = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 0, 1, 0, 1])
    erased, related = torch.randn(6, 6, generator=g), torch.randn(6, 3, generator=g)
    if case == "zeros":
        erased, related = torch.zeros(6, 6), torch.zeros(6, 3)
    elif case == "one identity":
        labels = torch.zeros(6, dtype=torch.long)
    elif case == "one row each":
        labels = torch.tensor([0, 1, 2, 3, 4, 5])
    elif case == "one modality":
        modality = torch.ones(6, dtype=torch.long)
    elif case == "equal rows":
        erased, related = erased[:1].repeat(6, 1), related[:1].repeat(6, 1)
    elif case == "empty":
        erased, related, labels, modality = erased[:0], related[:0], labels[:0], modality[:0]
    elif case == "half":
        erased, related = erased.half() * 1e4, related.half() * 1e4
    erased, related = erased.requires_grad_(), related.requires_grad_()
    for name, value in every_loss(erased, related, labels, modality).items():
        assert value.dtype == torch.float32
        assert torch.isfinite(value), name
        gradients = torch.autograd.grad(value, (erased, related), allow_unused=True)
        assert all(torch.isfinite(x).all() for x in gradients if x is not None), name
