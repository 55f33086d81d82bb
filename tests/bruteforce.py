"""A slow evaluator, loop by loop from the definitions, to compare the package's with."""

from __future__ import annotations

import math


def allowed(setting, q, g, ids, cams, modality, colocated=(), colocated_mixed=False):
    """May gallery row g be in the list of query row q?"""
    same_id, same_cam = ids[q] == ids[g], cams[q] == cams[g]
    same_modality = modality[q] == modality[g]
    one_place = (cams[q], cams[g]) in colocated or (cams[g], cams[q]) in colocated
    if g == q:
        return False
    if setting == "cross":
        return not same_modality and not one_place
    if setting == "uni":
        cameras = {c for c, m in zip(cams, modality, strict=True) if m == modality[q]}
        return same_modality and not (same_cam and len(cameras) > 1)
    if colocated_mixed and one_place:
        same_cam = True
    if setting == "mix-cam":
        return not same_cam
    if setting == "mix-cam-id":
        return not (same_cam and same_id)
    if setting == "mix-id":
        return not (same_modality and same_id)
    assert setting == "mix"
    return True


def rank_list(scores, rows):
    """Rows by falling score; the earlier row first where scores are equal."""
    return sorted(rows, key=lambda row: (-scores[row], row))


def average_precision(matches):
    hits, total = 0, 0.0
    for rank, match in enumerate(matches, start=1):
        if match:
            hits += 1
            total += hits / rank
    return total / hits


def inverse_negative_penalty(matches):
    last = max(rank for rank, match in enumerate(matches, start=1) if match)
    return sum(matches) / last


def first_match(ranked, ids, own, dedup):
    """Rank of the first match; with dedup every identity is counted once."""
    seen = []
    for rank, row in enumerate(ranked, start=1):
        if ids[row] == own:
            return len(seen) + 1 if dedup else rank
        if ids[row] not in seen:
            seen.append(ids[row])
    raise AssertionError("no match")


def extreme_ap(scores, rows, ids, own, optimistic):
    def key(row):
        match = ids[row] == own
        return (-scores[row], match != optimistic)

    return average_precision([ids[row] == own for row in sorted(rows, key=key)])


def evaluate_draw(scores, queries, gallery, setting, ids, cams, modality, dedup, **places):
    """Metrics of one draw: a dict of means, and AP by query (NaN without a positive)."""
    aps, low, high, inps, firsts, positives, per_query = [], [], [], [], [], [], []
    for i, q in enumerate(queries):
        rows = [g for g in gallery if allowed(setting, q, g, ids, cams, modality, **places)]
        row_scores = scores[i]
        ranked = rank_list(row_scores, rows)
        matches = [ids[row] == ids[q] for row in ranked]
        if not any(matches):
            per_query.append(math.nan)
            continue
        aps.append(average_precision(matches))
        per_query.append(aps[-1])
        high.append(extreme_ap(row_scores, rows, ids, ids[q], True))
        low.append(extreme_ap(row_scores, rows, ids, ids[q], False))
        inps.append(inverse_negative_penalty(matches))
        firsts.append(first_match(ranked, ids, ids[q], dedup))
        positives.append(sum(matches))

    def mean(values):
        return sum(values) / len(values) if values else math.nan

    result = {
        "mAP": mean(aps),
        "mAP_optimistic": mean(high),
        "mAP_pessimistic": mean(low),
        "mINP": mean(inps),
        "queries_valid": len(aps),
        "queries_dropped": len(queries) - len(aps),
        "mean_positives": mean(positives),
    }
    for k in (1, 5, 10, 20):
        result[f"r{k}"] = mean([float(first <= k) for first in firsts])
    return result, per_query
