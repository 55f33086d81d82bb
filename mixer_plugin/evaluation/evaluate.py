"""``evaluate``: from features to a table of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.distributed.processes import ALONE, Share, all_processes, same_everywhere
from mixer_plugin.errors import MixERValueError, closest
from mixer_plugin.evaluation.protocols.registry import Protocol, get_protocol
from mixer_plugin.evaluation.ranking.gallery_layout import arrange
from mixer_plugin.evaluation.ranking.metrics import QueryMetrics, cmc, nan_mean
from mixer_plugin.evaluation.ranking.rank import LEAST_ROWS, rank
from mixer_plugin.evaluation.ranking.scoring import Queries, cosine_scores
from mixer_plugin.evaluation.rerank.methods import Rerank, get_rerank
from mixer_plugin.evaluation.rerank.ranked import rank_reranked
from mixer_plugin.evaluation.results import Key, ResultRow, Results, trial_std
from mixer_plugin.evaluation.settings import (
    Groups,
    SettingMask,
    check_settings,
    find_groups,
    query_sides,
)
from mixer_plugin.evaluation.statistics import cluster_bootstrap
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.normalized import UnitSource, unit_source
from mixer_plugin.matching.rules import Rule, check_rules
from mixer_plugin.matching.score_norm import find_cohort, standardised
from mixer_plugin.matching.scores import check_calibration, check_related

_SHARDS = ("auto", "rows", "gallery")
_GALLERY_BYTES = 2**33


def evaluate(
    features: FeatureSet,
    protocol: str | Protocol,
    *,
    settings: Sequence[str] | None = None,
    query: str | None = None,
    rules: Sequence[str] = ("erased", "mixer"),
    calibration: str | Sequence[str | None] | None = None,
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
        rules: Rules of ``mixer_plugin.matching.scores.scores``.
        calibration: One, or several for a row each: None, ``znorm``, ``center``.
        rerank: ``k-reciprocal``, ``k-reciprocal@queries``, ``aim``, ``bridge``, or one of them
            with options (``mixer_plugin.evaluation.rerank.methods``). What a setting removes for a
            query does not exist for it, not as a neighbour's neighbour either. Takes no ``znorm``
            and no ``mixer-calibrated``.
        trials: Number of gallery draws; None: what the protocol says.
        device: Where to compute; None: where the features are.
        shard: Where ``torch.distributed`` is initialised, every process calls this with the same
            features and gets the same numbers as one alone: ``rows`` divides the queries among
            them, ``gallery`` the gallery (each then uses one thread), ``auto`` the queries unless
            the gallery takes more than 8 GiB.

    Returns:
        A row per setting, rule, query modality and calibration.

    Raises:
        MixERValueError: An unknown name, related features needed but absent, no query of the
            modality, or features that do not fit the protocol.
        MixERError: The official permutation is needed and not found.
    """
    if shard not in _SHARDS:
        raise MixERValueError(f"Unknown shard {shard!r}.{closest(shard, _SHARDS)}")
    if isinstance(protocol, str):
        protocol = get_protocol(protocol)
    settings = _names("settings", protocol.settings if settings is None else settings)
    check_settings(settings)
    rules = _names("rules", rules)
    chosen = check_rules(rules)
    check_related(features, chosen)
    calibrations = _calibrations(calibration)
    query = protocol.query if query is None else query
    sides = _sides(query, features)
    method = None if rerank is None else get_rerank(rerank)
    if method is not None and "znorm" in calibrations:
        raise MixERValueError(
            "Re-ranking takes neighbours from both sides of a pair, but 'znorm' scores are one "
            "query's own; use calibration None or 'center'."
        )
    scaled = [name for name, rule in chosen.items() if rule.standardised]
    if method is not None and scaled:
        raise MixERValueError(
            f"Re-ranking takes cosines or means of them, but scores of rule {scaled[0]!r} are "
            "standardised; use rule 'mixer', with calibration 'center' or None."
        )
    protocol.check(features, settings=settings, query=query)
    draws = protocol.draws(features, trials)
    if not all(len(draw) for draw in draws):
        raise MixERValueError(
            f"Protocol {protocol.id!r} draws no gallery item of these features; its gallery "
            "cameras must be among theirs."
        )
    share = all_processes()
    labels = (features.ids, features.cams, features.modality)
    held = [part for part in (features.erased, features.related) if part is not None]
    if not same_everywhere(share, labels, held):
        raise MixERValueError(
            "The processes were given different features; give each of them all of them, and "
            "evaluate() divides the work."
        )
    if device is not None:
        features = features.to(device)
    cams, modality, ids = (
        value.cpu().numpy() for value in (features.cams, features.modality, features.ids)
    )
    identity = np.unique(ids, return_inverse=True)[1].reshape(-1)
    groups = find_groups(modality, cams)
    views = protocol.views(settings, groups)
    asked = [protocol.queries(features, side) for side in sides]
    sources = _sources(features, chosen, calibrations, draws, asked)
    rows: list[ResultRow] = []
    per_query: dict[Key, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
    for side, at in zip(sides, asked, strict=True):
        if not len(at):
            raise MixERValueError(
                f"Protocol {protocol.id!r} asks with no {side.name.lower()} image of these "
                "features; check its queries, or ask for the other query."
            )
        queries = Queries.of_rows(at, groups, identity, int(side), features.erased.device)
        listed = _listed(draws, views, groups, int(side))
        by_rows, by_columns = _divide(share, shard, listed, features, chosen)
        if method is not None:  # every process re-ranks everything; ranks are then divided
            by_rows, by_columns = share, ALONE
        gallery = arrange(listed, groups, identity, features.erased.device, by_columns)
        found: dict[tuple[str, str | None], QueryMetrics] = {}
        for source, names in sources:
            if method is not None:
                ranked = rank_reranked(
                    *(method, queries, draws, groups, identity, source, chosen, views),
                    dedup=protocol.cmc == "dedup",
                    share=by_rows,
                )
            else:
                ranked = rank(
                    queries,
                    gallery,
                    cosine_scores(source, gallery, chosen, list(names), by_columns),
                    [(rule, made) for rule in rules for made in names],
                    views,
                    dedup=protocol.cmc == "dedup",
                    rows=by_rows,
                    columns=by_columns,
                )
            found |= {(rule, names[made]): value for (rule, made), value in ranked.items()}
        for index, each in enumerate(views):
            size = _gallery_size(each, groups, draws, int(side))
            for rule in rules:
                for given in calibrations:
                    key = (each.name, rule, side.name.lower(), given)
                    if protocol.no_positive == "error":
                        _check_positives(found[rule, given].positives[:, index], key, at)
                    values, ap = _summarise(found[rule, given], index, ids[at])
                    if method is not None:
                        values["rerank"] = method.describe(len(at))
                    rows.append(_row(protocol.id, key, values, size, len(draws)))
                    per_query[key] = at, ap
    return Results(rows, protocol.describe(features, len(draws)), per_query)


def _sources(
    features: FeatureSet,
    rules: dict[str, Rule],
    calibrations: Sequence[str | None],
    draws: Sequence[NDArray[np.int64]],
    asked: Sequence[NDArray[np.int64]],
) -> list[tuple[UnitSource, dict[str | None, str | None]]]:
    """The features to multiply, and what calibration of the products is which of those asked."""
    plain = unit_source(features, rules)
    sources = []
    of_scores = {name: name for name in calibrations if name != "center"}
    if of_scores:
        sources.append((_standardised(plain, rules, draws, asked), of_scores))
    if "center" in calibrations:
        of_features: dict[str | None, str | None] = {None: "center"}
        centred = plain.centered(plain.rows(_union(plain, draws)))
        sources.append((_standardised(centred, rules, draws, asked), of_features))
    return sources


def _standardised(
    source: UnitSource,
    rules: dict[str, Rule],
    draws: Sequence[NDArray[np.int64]],
    asked: Sequence[NDArray[np.int64]],
) -> UnitSource:
    """With the statistics of the union of the draws, where a rule needs them."""
    if not any(rule.standardised for rule in rules.values()):
        return source
    union = _union(source, draws)
    own = torch.full_like(source.features.modality, -1)
    own[union] = union
    cohort = find_cohort(source, union, rules.values())
    return standardised(source, cohort, own, _union(source, [*draws, *asked]))


def _union(source: UnitSource, rows: Sequence[NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.unique(np.concatenate(rows))).to(source.features.erased.device)


def _divide(
    share: Share,
    shard: str,
    draws: Sequence[NDArray[np.int64]],
    features: FeatureSet,
    rules: dict[str, Rule],
) -> tuple[Share, Share]:
    """Which part of the queries, and which of the gallery, this process works on."""
    if shard == "auto":
        widths = [features.erased.shape[1]]
        if features.related is not None and any(rule.needs_related for rule in rules.values()):
            widths.append(features.related.shape[1])
        columns = len(np.unique(np.concatenate(draws)))
        fits = 4 * columns * (sum(widths) + LEAST_ROWS) <= _GALLERY_BYTES
        shard = "rows" if fits else "gallery"
    return (share, ALONE) if shard == "rows" else (ALONE, share)


def _check_positives(positives: NDArray[np.int64], key: Key, at: NDArray[np.int64]) -> None:
    trial, query = np.nonzero(positives == 0)
    if len(query):
        raise MixERValueError(
            f"{len(np.unique(query))} queries have no positive in setting {key[0]!r}, such as row "
            f"{at[query[0]]} in trial {trial[0]}, and the protocol says no_positive='error'; "
            "leave them out of the features, or use no_positive='drop'."
        )


def _listed(
    draws: list[NDArray[np.int64]], views: list[SettingMask], groups: Groups, modality: int
) -> list[NDArray[np.int64]]:
    """The draws without the cameras that no view lists for any query of the modality.

    What is left out is never scored: ``cross`` alone costs half of a mixed setting. Statistics of
    ``znorm`` are per modality of the gallery, of which all or nothing goes.
    """
    asking = groups.modality == modality
    held = np.any([each.gallery[asking].any(axis=0) for each in views], axis=0)
    kept = [draw[held[groups.of_row[draw]]] for draw in draws]
    return kept if all(map(len, kept)) else draws


def _row(
    protocol: str, key: Key, values: dict[str, Any], gallery_size: float, trials: int
) -> ResultRow:
    setting, rule, query, calibration = key
    return ResultRow(
        protocol=protocol,
        setting=setting,
        rule=rule,
        query=query,
        calibration=calibration,
        gallery_size=gallery_size,
        trials=trials,
        **values,
    )


def _summarise(
    metrics: QueryMetrics, index: int, ids: NDArray[np.int64]
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """The means of one view, by field of ``ResultRow``, and AP per query over the trials."""
    curve = cmc(metrics.first[:, index])  # [T, ranks]
    ap, inp = (nan_mean(values[:, index], axis=-1) for values in (metrics.ap, metrics.inp))
    ties = {
        "mAP_optimistic": metrics.ap_optimistic[:, index],
        "mAP_pessimistic": metrics.ap_pessimistic[:, index],
    }
    per_query = nan_mean(metrics.ap[:, index], axis=0)
    positives = metrics.positives[:, index]
    valid = float((positives > 0).sum(axis=1).mean())
    shares = dict(zip(("r1", "r5", "r10", "r20"), nan_mean(curve, axis=0).tolist(), strict=True))
    return {
        **shares,
        **{name: float(nan_mean(nan_mean(value, axis=-1))) for name, value in ties.items()},
        "mAP": float(nan_mean(ap)),
        "mINP": float(nan_mean(inp)),
        "r1_std": trial_std(curve[:, 0]),
        "mAP_std": trial_std(ap),
        "mINP_std": trial_std(inp),
        "mAP_ci": cluster_bootstrap(per_query, ids),
        "queries_valid": valid,
        "queries_dropped": len(ids) - valid,
        "mean_positives": float(nan_mean(np.where(positives > 0, positives, np.nan))),
    }, per_query


def _gallery_size(
    each: SettingMask, groups: Groups, draws: Sequence[NDArray[np.int64]], modality: int
) -> float:
    # All cameras of one modality see the same gallery before removal: any of its rows will do.
    held = each.gallery[np.flatnonzero(groups.modality == modality)[0]]
    return float(np.mean([held[groups.of_row[draw]].sum() for draw in draws]))


def _names(what: str, given: Sequence[str]) -> list[str]:
    names = [given] if isinstance(given, str) else list(given)
    if not names:
        raise MixERValueError(f"{what} is empty; give at least one name.")
    return list(dict.fromkeys(names))


def _calibrations(given: str | Sequence[str | None] | None) -> list[str | None]:
    names: list[str | None]
    names = [given] if given is None or isinstance(given, str) else list(dict.fromkeys(given))
    if not names:
        raise MixERValueError("calibration is empty; None is no calibration.")
    for name in names:
        check_calibration(name)
    return names


def _sides(query: str, features: FeatureSet) -> tuple[Modality, ...]:
    sides = query_sides(query)
    for side in sides:
        if not (features.modality == side).any():
            raise MixERValueError(
                f"There is no {side.name.lower()} image to query with among the {len(features)} "
                "features; check modality, or ask for the other query."
            )
    return sides
