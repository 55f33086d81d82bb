"""``evaluate``: from features to a table of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_plugin.distributed.processes import ALONE, Share, all_processes
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.evaluation.per_query import first_hits
from mixer_plugin.evaluation.plan import Plan, choose_systems, make_plan
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.evaluation.ranking.gallery_layout import arrange
from mixer_plugin.evaluation.ranking.metrics import CMC_RANKS, QueryMetrics, cmc, nan_mean
from mixer_plugin.evaluation.ranking.rank import LEAST_ROWS, rank
from mixer_plugin.evaluation.ranking.scoring import Queries, Source, cosine_scores
from mixer_plugin.evaluation.rerank.options import Rerank, get_rerank
from mixer_plugin.evaluation.rerank.ranked import rank_reranked
from mixer_plugin.evaluation.results import Key, ResultRow, Results, trial_std
from mixer_plugin.evaluation.statistics import cluster_bootstrap
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching.normalized import unit_source
from mixer_plugin.matching.rules import System, check_rules
from mixer_plugin.matching.score_norm import find_cohort, standardised

_SHARDS = ("auto", "rows", "gallery")
_GALLERY_BYTES = 2**33


def evaluate(
    features: FeatureSet,
    protocol: str | Protocol,
    *,
    settings: Sequence[str] | None = None,
    query: str | None = None,
    rules: Sequence[str] | None = None,
    calibration: str | Sequence[str | None] | None = None,
    systems: Sequence[System] | None = None,
    rerank: str | Rerank | None = None,
    trials: int | None = None,
    device: torch.device | str | None = None,
    shard: str = "auto",
) -> Results:
    """Evaluates features in cross-modal and mixed galleries.

    Exact: scores in float32, metrics in float64, one pass over the similarities for all settings
    and trials of a rule. Statistics of calibrations and standardised rules are taken over the
    protocol's whole gallery, the union of its draws in both modalities.

    Args:
        features: The images; queries and gallery items are among them.
        protocol: Protocol or its id (``get_protocol`` lists them).
        settings: Some of ``SETTINGS``: ``cross`` (gallery of the other modality), ``mix`` (both),
            ``mix-cam`` (both, without the query's camera), ``mix-cam-id`` (without the query's
            identity in its camera), ``mix-id`` (without its identity in its modality), ``uni`` (its
            modality, without its camera). The query itself is always removed, by its row. None:
            all that the protocol has (``Protocol.settings``).
        query: ``infrared``, ``visible`` or ``both``; None: ``Protocol.query``, which is infrared
            for all data sets that have infrared images.
        rules: Rules of ``mixer_plugin.matching.scores.scores``; None: ``erased`` and ``mixer``.
        calibration: One, or several for a row each: None, ``znorm``, ``center``.
        systems: Pairs (rule, calibration) to evaluate, in the order of the rows, in place of every
            rule with every calibration.
        rerank: ``k-reciprocal``, ``k-reciprocal@queries``, ``aim``, ``bridge``, or one of them
            with options (``mixer_plugin.evaluation.rerank.methods``). What a setting removes for a
            query does not exist for it, not as a neighbour's neighbour either. Takes no ``znorm``
            and no calibrated rule.
        trials: Number of gallery draws; None: what the protocol says.
        device: Where to compute; None: where the features are.
        shard: Where ``torch.distributed`` is initialised, every process calls this with the same
            features and gets the same numbers as one alone: ``rows`` divides the queries among
            them, ``gallery`` the gallery (each then uses one thread), ``auto`` the queries unless
            the gallery takes more than 8 GiB.

    Returns:
        A row per setting, rule, query modality and calibration.

    Raises:
        MixERValueError: An unknown name, systems beside rules or calibrations, related features
            needed but absent, no query of the modality, or features that do not fit the protocol.
        MixERError: The official permutation is needed and not found.

    Example:
        >>> from mixer_plugin import FeatureSet
        >>> erased = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
        >>> images = FeatureSet(erased, None, [7, 7, 8, 8], [1, 3, 1, 3], [0, 1, 0, 1])
        >>> (row,) = evaluate(images, "full", settings=["mix"], rules=["erased"]).rows
        >>> row.mAP, row.r1
        (1.0, 1.0)
    """
    check_name("shard", shard, _SHARDS)
    systems = choose_systems(systems, rules, calibration)
    asked: dict[str, Any] = {"settings": settings, "query": query, "trials": trials}
    plan = make_plan(features, protocol, systems, **asked, share=all_processes())
    method = None if rerank is None else get_rerank(rerank)
    if method is not None:
        _check_reranked(plan.systems)
    if device is not None:
        plan = replace(plan, features=features.to(device))
    sources = _sources(plan)
    of_row, ids = plan.groups.of_row, features.ids.cpu().numpy()
    rows: list[ResultRow] = []
    per_query: dict[Key, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
    hits: dict[Key, NDArray[np.float64]] = {}
    curves: dict[Key, NDArray[np.float64]] = {}
    for side, at in plan.query_rows.items():
        place = plan.features.erased.device
        queries = Queries.of_rows(at, plan.groups, plan.identity, int(side), place)
        if method is None:
            found = _rank(plan, sources, queries, shard)
        else:
            found = rank_reranked(plan, method, sources, queries)
        for index, view in enumerate(plan.views):
            held = view.gallery[of_row[at[0]]]  # the same for all cameras of a modality
            size = float(np.mean([held[of_row[draw]].sum() for draw in plan.draws]))
            for rule, name in plan.systems:
                key = (view.name, rule, side.name.lower(), name)
                metrics = found[rule, name]
                if plan.protocol.no_positive == "error":
                    _check_positives(metrics.positives[:, index], key, at)
                values, ap, curves[key] = _summarise(metrics, index, ids[at])
                values |= {"gallery_size": size, "trials": len(plan.draws)}
                values["rerank"] = None if method is None else method.describe(len(at))
                rows.append(ResultRow(plan.protocol.id, *key, **values))
                per_query[key] = at, ap
                hits[key] = first_hits(metrics.first[:, index])
    contract = plan.protocol.describe(features, len(plan.draws))
    return Results(rows, contract, per_query, hits, features.paths, curves)


def _check_reranked(systems: Sequence[System]) -> None:
    if any(calibration == "znorm" for _, calibration in systems):
        raise MixERValueError(
            "Re-ranking takes neighbours from both sides of a pair, but 'znorm' scores are one "
            "query's own; use calibration None or 'center'."
        )
    for name, rule in check_rules([rule for rule, _ in systems]).items():
        if rule.standardised:
            raise MixERValueError(
                f"Re-ranking takes cosines or means of them, but scores of rule {name!r} are "
                "standardised; use rule 'mixer', with calibration 'center' or None."
            )


def _sources(plan: Plan) -> list[Source]:
    """The features to multiply: ``center`` changes them, ``znorm`` the scores made of them."""
    features = plan.features
    union, scored = (
        torch.from_numpy(np.unique(np.concatenate(rows))).to(features.erased.device)
        for rows in (plan.draws, [*plan.draws, *plan.query_rows.values()])
    )
    sources = []
    for centred in (False, True):
        systems = [system for system in plan.systems if (system[1] == "center") == centred]
        if not systems:
            continue
        rules = check_rules([rule for rule, _ in systems])
        source = unit_source(features, rules)
        if centred:
            source = source.centered(source.rows(union))
        if any(rule.standardised for rule in rules.values()):
            own = torch.full_like(features.modality, -1)
            own[union] = union
            cohort = find_cohort(source, union, rules.values())
            source = standardised(source, cohort, own, scored)
        made = [(rule, None if centred else calibration) for rule, calibration in systems]
        sources.append((source, dict(zip(made, systems, strict=True))))
    return sources


def _rank(
    plan: Plan, sources: Sequence[Source], queries: Queries, shard: str
) -> dict[System, QueryMetrics]:
    """The metrics of queries of one modality under every system."""
    listed = _listed(plan, queries.modality)
    by_rows, by_columns = _divide(plan, listed, shard)
    device = queries.rows.device
    gallery = arrange(listed, plan.groups, plan.identity, device, by_columns)
    found: dict[System, QueryMetrics] = {}
    for source, systems in sources:
        score = cosine_scores(source, gallery, list(systems), by_columns)
        ranked = rank(
            *(queries, gallery, score, list(systems), plan.views),
            dedup=plan.protocol.cmc == "dedup",
            rows=by_rows,
            columns=by_columns,
        )
        found |= {systems[made]: metrics for made, metrics in ranked.items()}
    return found


def _listed(plan: Plan, modality: int) -> list[NDArray[np.int64]]:
    """The draws without cameras that no view lists for a query of this modality.

    What is left out is never scored: ``cross`` alone costs half of a mixed setting. Statistics of
    ``znorm`` are per modality of the gallery, of which all or nothing goes.
    """
    query_groups = plan.groups.modality == modality
    held = np.any([view.gallery[query_groups].any(axis=0) for view in plan.views], axis=0)
    kept = [draw[held[plan.groups.of_row[draw]]] for draw in plan.draws]
    return kept if all(map(len, kept)) else plan.draws


def _divide(plan: Plan, draws: Sequence[NDArray[np.int64]], shard: str) -> tuple[Share, Share]:
    """This process's share of the queries and of the gallery."""
    if shard == "auto":
        rules = check_rules([rule for rule, _ in plan.systems]).values()
        fused = any(rule.needs_related for rule in rules)
        parts = (plan.features.erased, plan.features.related if fused else None)
        width = sum(part.shape[1] for part in parts if part is not None)
        columns = len(np.unique(np.concatenate(draws)))
        shard = "rows" if 4 * columns * (width + LEAST_ROWS) <= _GALLERY_BYTES else "gallery"
    return (plan.share, ALONE) if shard == "rows" else (ALONE, plan.share)


def _check_positives(positives: NDArray[np.int64], key: Key, at: NDArray[np.int64]) -> None:
    trial, query = np.nonzero(positives == 0)
    if len(query):
        raise MixERValueError(
            f"{len(np.unique(query))} queries have no positive in setting {key[0]!r}, such as row "
            f"{at[query[0]]} in trial {trial[0]}, and the protocol says no_positive='error'; "
            "leave them out of the features, or use no_positive='drop'."
        )


def _summarise(
    metrics: QueryMetrics, index: int, ids: NDArray[np.int64]
) -> tuple[dict[str, Any], NDArray[np.float64], NDArray[np.float64]]:
    """The means of one view, by field of ``ResultRow``, AP per query over the trials, the CMC."""

    def by_trial(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return nan_mean(values[:, index], axis=-1)

    curve = cmc(metrics.first[:, index])  # [T, ranks]
    mean_curve = nan_mean(curve, axis=0)
    shares = {f"r{rank}": float(mean_curve[CMC_RANKS.index(rank)]) for rank in (1, 5, 10, 20)}
    ap, inp = by_trial(metrics.ap), by_trial(metrics.inp)
    per_query = nan_mean(metrics.ap[:, index], axis=0)
    positives = metrics.positives[:, index]
    valid = float((positives > 0).sum(axis=1).mean())
    return (
        {
            **shares,
            "mAP": float(nan_mean(ap)),
            "mINP": float(nan_mean(inp)),
            "r1_std": trial_std(curve[:, 0]),
            "mAP_std": trial_std(ap),
            "mINP_std": trial_std(inp),
            "mAP_ci": cluster_bootstrap(per_query, ids),
            "mAP_optimistic": float(nan_mean(by_trial(metrics.ap_optimistic))),
            "mAP_pessimistic": float(nan_mean(by_trial(metrics.ap_pessimistic))),
            "queries_valid": valid,
            "queries_dropped": len(ids) - valid,
            "mean_positives": float(nan_mean(np.where(positives > 0, positives, np.nan))),
        },
        per_query,
        mean_curve,
    )
