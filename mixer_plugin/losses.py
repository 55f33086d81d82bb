"""The losses of MixER: one pure function per equation, tensors in, a float32 scalar out.

Every function computes in float32 (float64 stays float64) whatever the input's precision, is finite
for zero vectors and single-member classes, and returns a zero that still carries a gradient path
when a batch holds nothing that the equation could be summed over.
Equation numbers are those of "From Cross-Modal to Mixed-Modal Visible-Infrared Re-Identification".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin.config import ORTHOGONAL
from mixer_plugin.errors import MixERValueError, closest

EPS = 1e-12


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def unit(x: Tensor) -> Tensor:
    """L2-normalises rows; a zero row stays zero and has a finite gradient."""
    return x * (x.square().sum(dim=1, keepdim=True) + EPS).rsqrt()


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values over mask; 0 (with a gradient path) over an empty mask. No host sync."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def modality_identity_labels(labels: Tensor, modality: Tensor) -> Tensor:
    """Doubled labels of eq. 12: ``2 y + m``.

    Args:
        labels: [B] int64 identities in [0, C).
        modality: [B] int64, 0 visible, 1 infrared.

    Returns:
        [B] int64 in [0, 2C).

    Example:
        >>> import torch
        >>> modality_identity_labels(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])).tolist()
        [0, 1, 2]
    """
    return 2 * labels + modality


def identity(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over identities: eq. 9 (erased, C classes) and eq. 13 (related, 2C classes).

    Args:
        logits: [B, C].
        labels: [B] int64 in [0, C).

    Returns:
        Scalar; the mean over the batch (0 for an empty batch).

    Example:
        >>> import torch
        >>> identity(torch.zeros(4, 10), torch.arange(4)).item() == torch.tensor(10.0).log().item()
        True
    """
    logits = _full(logits)
    return F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)


def confusion(logits: Tensor, modality: Tensor) -> Tensor:
    """Cross-entropy over the two modalities, eq. 11; the reversal sits before the classifier.

    Args:
        logits: [B, 2].
        modality: [B] int64, 0 visible, 1 infrared.

    Returns:
        Scalar; the mean over the batch. ln 2 = 0.693 means that the classifier guesses.

    Example:
        >>> import torch
        >>> round(confusion(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])).item(), 3)
        0.693
    """
    return identity(logits, modality)


def orthogonal(erased: Tensor, related: Tensor, form: str = "abs") -> Tensor:
    """Orthogonal loss, eq. 7: the mean cosine between the erased and the related feature.

    An erased feature of K·D columns is K blocks (parts, branches) of the related width D, and the
    loss averages over blocks.

    Args:
        erased: [B, K·D] before the neck.
        related: [B, D] before the neck.
        form: ``abs`` (mean of the absolute cosine), ``signed`` (eq. 7 as printed), ``squared``, or
            ``cka``: instead of each row's angle, what one feature tells linearly of the other over
            the batch (linear CKA, Kornblith et al., ICML 2019).

    Returns:
        Scalar in [0, 1], or [-1, 1] for ``signed``.

    Raises:
        MixERValueError: for an unknown form, or if the erased width is no multiple of the related
            one.

    Example:
        >>> import torch
        >>> orthogonal(torch.eye(2), torch.eye(2).flip(0)).item()
        0.0
    """
    erased, related = _full(erased), _full(related)
    if erased.shape[1] % related.shape[1]:
        raise MixERValueError(
            f"The erased feature has {erased.shape[1]} columns and the related one "
            f"{related.shape[1]}; expected a multiple."
        )
    if form == "cka":
        count = erased.shape[1] // related.shape[1]
        return torch.stack([_linear_cka(e, related) for e in erased.chunk(count, dim=1)]).mean()
    blocks = erased.reshape(len(erased) * (erased.shape[1] // related.shape[1]), related.shape[1])
    repeated = related.repeat_interleave(erased.shape[1] // related.shape[1], dim=0)
    cosine = (unit(blocks) * unit(repeated)).sum(dim=1)
    if form == "abs":
        cosine = cosine.abs()
    elif form == "squared":
        cosine = cosine.square()
    elif form != "signed":
        raise MixERValueError(f"Unknown orthogonal form {form!r}.{closest(form, ORTHOGONAL)}")
    return cosine.sum() / max(len(cosine), 1)


def _linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """|X'Y|² / (|X'X| |Y'Y|) of centred columns, from B×B products; 0 for a constant feature."""
    x, y = (z - z.mean(dim=0) if len(z) else z for z in (x, y))
    left, right = x @ x.T, y @ y.T
    return (left * right).sum() * ((left.square().sum() * right.square().sum() + EPS).rsqrt())


def center_cluster(
    features: Tensor, labels: Tensor, *, pull: float = 0.01, push: float = 0.7
) -> Tensor:
    """Center-cluster loss L_cc of eqs. 10 and 14, as in MPANet (Wu et al., CVPR 2021).

    With c_y the batch mean of the features of label y::

        mean_i [ |f_i - c_{y_i}| - pull ]_+
        + mean_y mean_{j: y_j != y} [ push - |c_y - c_{y_j}| ]_+

    Args:
        features: [B, D] before the neck.
        labels: [B] int64; any values, any order, any number of rows per label.
        pull: slack of the first hinge (MPANet 0, SAAI 0.01).
        push: margin of the second hinge.

    Returns:
        Scalar >= 0.

    Example:
        >>> import torch
        >>> center_cluster(torch.eye(2), torch.tensor([0, 1])).item()  # far apart: no loss
        0.0
    """
    features = _full(features)
    same = labels[:, None] == labels[None, :]
    members = same.sum(dim=1).clamp(min=1)
    centers = same.to(features.dtype) @ features / members[:, None]
    spread = ((features - centers).square().sum(dim=1) + EPS).sqrt()
    pulled = (spread - pull).clamp(min=0)
    # No |a|²+|b|²-2ab: it cancels for near centres; no [B, B, D] tensor either: D can be 16,384.
    gaps = torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist")
    hinge = (push - gaps).clamp(min=0)
    others = (~same).to(features.dtype)
    per_row = (hinge * others).sum(dim=1) / others.sum(dim=1).clamp(min=1)
    # A label with n rows appears n times: 1/n lets each label count once.
    weight = members.to(features.dtype).reciprocal()
    pushed = (per_row * weight).sum() / weight.sum().clamp(min=EPS)
    return pulled.sum() / max(len(pulled), 1) + pushed


def _distances(x: Tensor) -> Tensor:
    rows = unit(x)
    return 1 - rows @ rows.T


def _centered(x: Tensor, modality: Tensor) -> Tensor:
    rows = unit(x)
    same = (modality[:, None] == modality[None, :]).to(rows.dtype)
    return rows - same @ rows / same.sum(dim=1, keepdim=True)


def fusion(
    erased: Tensor,
    related: Tensor | None,
    labels: Tensor,
    modality: Tensor,
    *,
    margin: float = 0.3,
    center: bool = False,
) -> Tensor:
    """Mixed cross-modal triplet loss L_f, eq. 15, batch-hard, on the distances of matching.

    D is 1 minus the cosine. For an anchor j, D within its modality is taken on the fused feature
    (the concatenation of the L2-normalised erased and related features, paper sec. 3.3), D across
    modalities on the erased feature::

        [ D(zf_j, zf_p) - D(ze_j, ze_n) + α ]_+  +  [ D(ze_j, ze_p) - D(zf_j, zf_n) + α ]_+

    p is the farthest positive and n the nearest negative of that distance; j is no positive of its
    own. A hinge counts for the anchors that have both partners, and is averaged over them.

    Args:
        erased: [B, De] after the neck.
        related: [B, Dr] after the neck, or None: the fused feature is then the erased one alone
            (the control "erased-triplet").
        labels: [B] int64 identities.
        modality: [B] int64, 0 visible, 1 infrared.
        margin: α; the paper gives no value.
        center: subtract each modality's batch mean from the normalised features first, as the
            calibration "center" does in matching.

    Returns:
        Scalar >= 0.

    Example:
        >>> import torch
        >>> ids, modality = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
        >>> fusion(torch.eye(2).repeat_interleave(2, dim=0), None, ids, modality).item()
        0.0
    """
    erased = _full(erased)
    if center:
        erased = _centered(erased, modality)
        related = None if related is None else _centered(_full(related), modality)
    across = _distances(erased)
    if related is None:
        within = across
    else:
        fused = torch.cat([unit(erased), unit(_full(related))], dim=1)
        within = _distances(fused)
    same_identity = labels[:, None] == labels[None, :]
    same_modality = modality[:, None] == modality[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)

    def farthest(d: Tensor, mask: Tensor) -> Tensor:
        return d.masked_fill(~mask, -torch.inf).amax(dim=1)

    def nearest(d: Tensor, mask: Tensor) -> Tensor:
        return d.masked_fill(~mask, torch.inf).amin(dim=1)

    def hinge(positive: Tensor, negative: Tensor) -> Tensor:
        usable = positive.isfinite() & negative.isfinite()
        gap = torch.where(usable, positive, 0.0) - torch.where(usable, negative, 0.0)
        return _masked_mean((gap + margin).clamp(min=0), usable.to(gap.dtype))

    if len(labels) == 0:
        return across.sum()
    within_then_across = hinge(
        farthest(within, same_identity & same_modality & ~itself),
        nearest(across, ~same_identity & ~same_modality),
    )
    across_then_within = hinge(
        farthest(across, same_identity & ~same_modality),
        nearest(within, ~same_identity & same_modality),
    )
    return within_then_across + across_then_within
