"""Whether a feature tells the modality: linear, MLP and k-NN probes beside a control."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.evaluation.statistics import cluster_bootstrap
from mixer_plugin.features import FeatureSet
from mixer_plugin.heads import private_random
from mixer_plugin.losses import unit
from mixer_plugin.probing.folds import Fold, balanced_rows, identity_folds, permuted_within
from mixer_plugin.probing.linear import PENALTIES, Scaling, fit_logistic
from mixer_plugin.probing.options import ProbeOptions

_PATIENCE = 6  # epochs without a better validation loss
_BATCH, _RATE, _DECAY = 128, 3e-3, 1e-4


@dataclass(frozen=True, kw_only=True)
class ModalityProbe:
    """Results of one probe of one feature, on unseen identities. Chance is an accuracy of 0.5.

    Attributes:
        probe: ``linear``, ``mlp`` or ``knn``.
        accuracy: Share of images whose modality is predicted.
        accuracy_ci: 95 % interval over identities.
        control: Accuracy of the same probe for labels shuffled within each identity.
        bits: 1 bit minus the probe's log loss, a lower bound of MI(Z; M) (Barber and Agakov, NIPS
            2003); below 0 where the probe is worse than no probe.
        bits_ci: 95 % interval over identities.
        images: Images tested.
        identities: Their identities.
    """

    probe: str
    accuracy: float
    accuracy_ci: tuple[float, float]
    control: float
    bits: float
    bits_ci: tuple[float, float]
    images: int
    identities: int

    @property
    def selectivity(self) -> float:
        """Accuracy minus the control's (Hewitt and Liang, EMNLP 2019)."""
        return self.accuracy - self.control


def probe_modality(
    x: Tensor, images: FeatureSet, options: ProbeOptions | None = None
) -> list[ModalityProbe]:
    """Probes a feature for the modality, balanced by camera and identity.

    Args:
        x: Features [N, D].
        images: Their N images.
        options: How to probe; None: the defaults.

    Returns:
        A linear, an MLP and a k-NN probe.

    Raises:
        MixERValueError: Fewer than three identities have images of both modalities.
    """
    options = ProbeOptions() if options is None else options
    rows = balanced_rows(images, options.images, options.seed)
    x, ids, truth = x[rows], images.ids[rows], images.modality[rows]
    folds = identity_folds(ids, options.folds, options.seed)
    control = truth[permuted_within(ids, (options.seed, 3))]
    clusters = ids.cpu().numpy()
    found = []
    for name, classify in PROBES.items():
        logits = held_out(classify, x, truth, folds, options)
        right = ((logits > 0) == (truth == 1)).double().cpu().numpy()
        bits = 1 - log_loss(logits, truth).cpu().numpy() / math.log(2)
        wrong = held_out(classify, x, control, folds, options)
        found.append(
            ModalityProbe(
                probe=name,
                accuracy=float(right.mean()),
                accuracy_ci=cluster_bootstrap(right, clusters),
                control=float(((wrong > 0) == (control == 1)).double().mean()),
                bits=float(bits.mean()),
                bits_ci=cluster_bootstrap(bits, clusters),
                images=len(rows),
                identities=len(np.unique(clusters)),
            )
        )
    return found


Classify = Callable[[Tensor, Tensor, Fold, ProbeOptions], Tensor]


def held_out(
    classify: Classify, x: Tensor, y: Tensor, folds: list[Fold], options: ProbeOptions
) -> Tensor:
    """Logits float64 [N] of class 1, each by a probe that has not seen the row's identity."""
    logits = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for fold in folds:
        logits[fold.test] = classify(x, y, fold, options)
    return logits


def log_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Log loss of each row, in nats."""
    return F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none")


def linear_probe(x: Tensor, y: Tensor, fold: Fold, options: ProbeOptions) -> Tensor:
    """Logistic regression; the validation identities choose its penalty."""
    scaling = Scaling.of(x[fold.train])
    inner, outer = scaling(x[fold.train]), scaling(x[fold.valid])
    weights: Tensor | None = None
    tried = []
    for penalty in sorted(PENALTIES, reverse=True):  # from the easiest, each where the last ended
        weights = fit_logistic(inner, y[fold.train], penalty, weights)
        loss = log_loss(outer @ weights[:-1] + weights[-1], y[fold.valid]).mean()
        tried.append((float(loss), penalty))
    scaling = Scaling.of(x[fold.seen])
    weights = fit_logistic(scaling(x[fold.seen]), y[fold.seen], min(tried)[1], weights)
    return scaling(x[fold.test]) @ weights[:-1] + weights[-1]


def mlp_probe(x: Tensor, y: Tensor, fold: Fold, options: ProbeOptions) -> Tensor:
    """One hidden layer, AdamW; the validation identities choose the number of epochs."""
    scaling = Scaling.of(x[fold.train])
    inner, outer, asked = (scaling(x[r]).float() for r in (fold.train, fold.valid, fold.test))
    told, target = y[fold.valid], y[fold.train].float()
    with private_random(x.device, options.seed), torch.enable_grad():
        net = nn.Sequential(
            nn.Linear(x.shape[1], options.hidden), nn.ReLU(), nn.Linear(options.hidden, 1)
        ).to(x.device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=_DECAY)
        best, logits, since = math.inf, asked.new_zeros(len(asked)), 0
        for _ in range(options.epochs):
            for rows in torch.split(torch.randperm(len(inner)).to(x.device), _BATCH):
                loss = F.binary_cross_entropy_with_logits(net(inner[rows])[:, 0], target[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                valid = float(log_loss(net(outer)[:, 0], told).mean())
                if valid < best:
                    best, logits, since = valid, net(asked)[:, 0], 0
                else:
                    since += 1
            if since == _PATIENCE:
                break
    return logits.double()


def knn_probe(x: Tensor, y: Tensor, fold: Fold, options: ProbeOptions) -> Tensor:
    """Vote of the nearest images by cosine, as matching sees them; add-one smoothed odds."""
    known, asked = unit(x[fold.seen].float()), unit(x[fold.test].float())
    k = min(options.neighbours, len(known))
    votes = []
    for part in torch.split(asked, 1024):
        nearest = (part @ known.T).topk(k, dim=1).indices
        votes.append(y[fold.seen][nearest].double().sum(1))
    ones = torch.cat(votes)
    return ((ones + 1) / (k - ones + 1)).log()


PROBES: dict[str, Classify] = {"linear": linear_probe, "mlp": mlp_probe, "knn": knn_probe}
