"""The plan of an evaluation, checked before anything is ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.distributed.processes import ALONE, Share, same_everywhere
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.protocols.registry import Protocol, as_protocol
from mixer_plugin.evaluation.settings import (
    Groups,
    SettingMask,
    check_settings,
    find_groups,
    query_sides,
)
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.features.validation import check_distinct
from mixer_plugin.matching.rules import System, check_rules
from mixer_plugin.matching.scores import check_calibration, check_related

DEFAULT_RULES = ("erased", "mixer")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a ranking needs: systems, draws and the removals of each setting.

    Attributes:
        features: The images.
        protocol: The protocol.
        systems: (rule, calibration) of each row of a setting.
        query_rows: By modality int64 [Q], the rows of the queries.
        draws: Per trial int64 [gallery], rows.
        groups: Groups of the features.
        identity: int64 [N], index of each row's identity, from 0; an unknown person has its own.
        views: The settings.
        share: The processes that divide the work.
    """

    features: FeatureSet
    protocol: Protocol
    systems: tuple[System, ...]
    query_rows: dict[Modality, NDArray[np.int64]]
    draws: list[NDArray[np.int64]]
    groups: Groups
    identity: NDArray[np.int64]
    views: list[SettingMask]
    share: Share


def make_plan(
    features: FeatureSet,
    protocol: str | Protocol,
    systems: Sequence[System],
    *,
    settings: Sequence[str] | None = None,
    query: str | None = None,
    trials: int | None = None,
    share: Share = ALONE,
) -> Plan:
    """Checks the arguments of an evaluation and prepares what it needs.

    Arguments and errors are those of ``evaluate``. All processes of ``share`` call this, with the
    same features.
    """
    protocol = as_protocol(protocol)
    settings = _names("settings", protocol.settings if settings is None else settings)
    check_settings(settings)
    check_distinct(features.paths)
    check_related(features, check_rules([rule for rule, _ in systems]))
    for _, calibration in systems:
        check_calibration(calibration)
    query = protocol.query if query is None else query
    sides = query_sides(query)
    for side in sides:
        if not (features.modality == side).any():
            raise MixERValueError(
                f"There is no {side.name.lower()} image to query with among the {len(features)} "
                "features; check modality, or choose the other query modality."
            )
    protocol.check(features, settings=settings, query=query)
    draws = protocol.draws(features, trials)
    if not all(len(draw) for draw in draws):
        raise MixERValueError(
            f"Protocol {protocol.id!r} draws no gallery item of these features; its gallery "
            "cameras must be among theirs."
        )
    held = [part for part in (features.erased, features.related) if part is not None]
    if not same_everywhere(share, (features.ids, features.cams, features.modality), held):
        raise MixERValueError(
            "The processes were given different features; give each of them all of them, and "
            "evaluate() divides the work."
        )
    query_rows = {side: protocol.queries(features, side) for side in sides}
    for side, rows in query_rows.items():
        if not len(rows):
            own = features.ids[features.modality == int(side)]
            nobody = f" All its {len(own)} images are of unknown persons (identity below 0)."
            raise MixERValueError(
                f"Protocol {protocol.id!r} finds no {side.name.lower()} query in these features; "
                "check its queries, or choose the other query modality."
                + (nobody if len(own) and bool((own < 0).all()) else "")
            )
    cams, modality, ids = (
        value.cpu().numpy() for value in (features.cams, features.modality, features.ids)
    )
    groups = find_groups(modality, cams)
    return Plan(
        features=features,
        protocol=protocol,
        systems=tuple(systems),
        query_rows=query_rows,
        draws=draws,
        groups=groups,
        identity=_number(ids),
        views=protocol.views(settings, groups),
        share=share,
    )


def choose_systems(
    systems: Sequence[System] | None,
    rules: Sequence[str] | None,
    calibration: str | Sequence[str | None] | None,
) -> list[System]:
    """The (rule, calibration) pairs given, or every rule with every calibration; each once.

    Raises:
        MixERValueError: Both are given, there is nothing, or something is no pair.
    """
    if systems is None:
        if calibration is None or isinstance(calibration, str):
            calibration = (calibration,)
        if not calibration:
            raise MixERValueError("calibration is empty; None is no calibration.")
        rules = _names("rules", DEFAULT_RULES if rules is None else rules)
        systems = [(rule, name) for rule in rules for name in calibration]
    elif rules is not None or calibration is not None:
        raise MixERValueError(
            "systems names rules and calibrations in pairs; leave out rules and calibration, or "
            "give them without systems."
        )
    elif not systems or any(isinstance(each, str) or len(each) != 2 for each in systems):
        raise MixERValueError(
            f"systems must hold pairs (rule, calibration) such as ('mixer', None), got {systems!r}."
        )
    return list(dict.fromkeys((rule, calibration) for rule, calibration in systems))


def _number(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    numbers = np.unique(ids, return_inverse=True)[1].reshape(-1)
    unknown = np.flatnonzero(ids < 0)
    numbers[unknown] = len(ids) + np.arange(len(unknown))
    return np.unique(numbers, return_inverse=True)[1].reshape(-1) if len(unknown) else numbers


def _names(what: str, given: Sequence[str]) -> list[str]:
    names = [given] if isinstance(given, str) else list(dict.fromkeys(given))
    if not names:
        raise MixERValueError(f"{what} is empty; give at least one name.")
    return names
