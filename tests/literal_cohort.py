"""Calibrated scores pair by pair, from the definitions, and images to try them on."""

from __future__ import annotations

import numpy as np
import torch

from mixer_plugin.features import FeatureSet


def make(count, seed=0, width=5):
    """Images of six persons, who are told better within a modality than across."""
    codes = np.random.default_rng(width).normal(size=(3, 6, width + 1))
    rng = np.random.default_rng(seed)
    modality, ids = (rng.permutation(np.arange(count) % n) for n in (2, 6))
    spread = np.where(modality == 1, 0.8, 0.2)[:, None]
    erased = codes[2, ids, 1:] + spread * rng.normal(size=(count, width))
    related = codes[modality, ids] + 0.2 * rng.normal(size=(count, width + 1))
    return FeatureSet(
        erased=erased + 0.7 * modality[:, None],
        related=related + 1,
        ids=ids,
        cams=rng.integers(1, 4, count) + 3 * modality,
        modality=modality,
    )


def unit(value):
    return value / np.maximum(np.linalg.norm(value, axis=1, keepdims=True), 1e-12)


def sides(query, gallery, calibration):
    """Normalised and perhaps centred features in float64, of queries and of the gallery."""
    made = {}
    for name in ("erased", "related"):
        q, g = (getattr(x, name).double().numpy() for x in (query, gallery))
        q, g = unit(q), unit(g)
        if calibration == "center":
            of_q, of_g = query.modality.numpy(), gallery.modality.numpy()
            for side in set(of_g.tolist()):
                mean = g[of_g == side].mean(axis=0)
                q[of_q == side] -= mean
                g[of_g == side] -= mean
            q, g = unit(q), unit(g)
        made[name] = q, g
    return made


def standard(value, others):
    deviation = np.std(others) if others else 0.0
    return (value - np.mean(others)) / deviation if deviation > 1e-9 else 0.0


def literal(query, gallery, own, calibration=None):
    """Pair by pair, from the definition."""
    slope, offset, means = literal_lift(gallery, calibration) if len(query) else (1.0, 0.0, {})
    result = unlifted(query, gallery, own, calibration, means)
    across = query.modality.numpy()[:, None] != gallery.modality.numpy()
    result = np.where(across, slope * result + offset, result)
    of_g = gallery.modality.tolist()
    if calibration == "znorm":
        plain = result.copy()
        for i in range(len(query)):
            for j in range(len(gallery)):
                others = [
                    plain[i, k] for k in range(len(gallery)) if of_g[k] == of_g[j] and k != own[i]
                ]
                result[i, j] = standard(plain[i, j], others)
    return result


def literal_lift(gallery, calibration, sample=None):
    """Slope, offset and means of right pairs by feature, from pairs of the gallery."""
    rows = list(range(len(gallery))) if sample is None else sample
    held = gallery[torch.tensor(rows)]

    def scored(**options):
        found = unlifted(held, gallery, rows, calibration, **options)
        return kinds_of(found[:, rows], held)

    means = {name: mean_of_right(scored(only=name)["within"]) for name in ("erased", "related")}
    made, plain = scored(means=means), scored(raw=True)
    across, within = (made[name] for name in ("across", "within"))
    if not across or not within or np.std(flat(within)) == 0:
        return 1.0, 0.0, means
    cubes = [np.mean(np.power(flat(kind), 3)) for kind in (across, within)]
    mean, slope = mean_of_right(within), 0.5
    if cubes[1] >= 0.05:
        slope = min(max(cubes[0] / cubes[1] * mean / 3, 0.5), 1.0)
    here = flat(plain["within"])
    further = (np.mean(flat(plain["across"])) - np.mean(here)) / np.std(here)
    nearly = 0.9 * best_of(within) - slope * best_of(across)
    offset = mean * (1 - slope**2) / 2
    return slope, max(offset, min(further, nearly)), means


def kinds_of(scored, gallery):
    """By kind of pair and image, its scores; within a modality of other cameras, if there are."""
    kinds = {"across": {}, "apart": {}, "together": {}}
    cams, modality = gallery.cams.tolist(), gallery.modality.tolist()
    for i in range(len(gallery)):
        for j in range(len(gallery)):
            kind = "apart" if cams[i] != cams[j] else "together"
            kind = "across" if modality[i] != modality[j] else kind
            if i != j:
                kinds[kind].setdefault(i, []).append(scored[i, j])
    return {"across": kinds["across"], "within": kinds["apart"] or kinds["together"]}


def flat(kind):
    return np.concatenate(list(kind.values()))


def best_of(kind):
    return np.mean([max(values) for values in kind.values()])


def mean_of_right(within):
    return min(max(best_of(within) - 0.35, 0.5), 3.0) if within else 3.0


def unlifted(query, gallery, own, calibration=None, means=None, *, only=None, raw=False):
    """The mean of the standardised cosines that count, weighted by ``means``.

    ``only``: of one feature, within a modality. ``raw``: without standardising.
    """
    made = sides(query, gallery, calibration)
    of_q, of_g = query.modality.tolist(), gallery.modality.tolist()
    result = np.zeros((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            terms, weights = [], []
            for name in ("erased", "related") if of_q[i] == of_g[j] else ("erased",):
                if only and only != name and of_q[i] == of_g[j]:
                    continue
                q, g = made[name]
                value = q[i] @ g[j]
                weights.append((means or {}).get(name, 1.0))
                if raw:
                    terms.append(value)
                    continue
                of_query = [
                    q[i] @ g[k] for k in range(len(g)) if of_g[k] == of_g[j] and k != own[i]
                ]
                of_item = [g[j] @ g[k] for k in range(len(g)) if of_g[k] == of_q[i] and k != j]
                if of_q[i] in of_g:
                    both = standard(value, of_query) + standard(value, of_item)
                    terms.append(both / 2)
                else:
                    terms.append(standard(value, of_query))
            result[i, j] = np.average(terms, weights=weights)
    return result
