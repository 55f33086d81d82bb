"""``probe``: all probes of frozen features, and their report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.protocols import Protocol, get_protocol
from mixer_plugin.evaluation.tables import to_json
from mixer_plugin.features import FeatureSet
from mixer_plugin.probing.constraints import constraints
from mixer_plugin.probing.factors import Factors, probe_factors
from mixer_plugin.probing.identity import probe_identity
from mixer_plugin.probing.independence import probe_independence
from mixer_plugin.probing.modality import probe_modality
from mixer_plugin.probing.options import ProbeOptions
from mixer_plugin.probing.resumable import kept
from mixer_plugin.probing.tables import markdown
from mixer_plugin.run_card import mark_of

VERSION = 1
"""Raised whenever the same features would give other figures."""

BEFORE = " before the neck"


@dataclass(frozen=True)
class ProbeReport:
    """The results of all probes, as plain JSON values.

    Attributes:
        about: What was probed: images, widths, options, protocol.
        modality: By feature, rows of ``ModalityProbe``.
        identity: By feature, rows of ``IdentityProbe``.
        factors: By feature, rows of ``FactorProbe``; empty without the generator's truth.
        independence: By place (after or before the neck), rows of ``Independence``.
        constraints: Rows of the paper's eq. 3.
        evaluation: Rows of ``evaluate`` for the rules erased, related and mixer.
    """

    about: dict[str, Any]
    modality: dict[str, list[dict[str, Any]]]
    identity: dict[str, list[dict[str, Any]]]
    factors: dict[str, list[dict[str, Any]]]
    independence: dict[str, list[dict[str, Any]]]
    constraints: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]

    def to_markdown(self) -> str:
        """Tables for people."""
        return markdown(asdict(self))

    def to_json(self) -> str:
        """JSON in full precision; NaN becomes null."""
        return to_json(asdict(self))


def probe(
    features: FeatureSet,
    *,
    before: Mapping[str, Tensor] | None = None,
    factors: Factors | None = None,
    protocol: str | Protocol = "full",
    options: ProbeOptions | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ProbeReport:
    """Probes features and evaluates them.

    Args:
        features: N images of both modalities, with the features that matching uses.
        before: Features of the same images before the neck, [N, D], by name: ``erased``,
            ``related``.
        factors: What the images were generated from (``read_factors``).
        protocol: Protocol of the evaluation.
        options: How to probe; None: the defaults.
        folder: Finished sections are kept there, and used again for the same features and options.
        say: Called with a line on each section.

    Returns:
        The results of all probes.

    Raises:
        MixERValueError: The features before the neck do not fit, fewer than three identities have
            images of both modalities, or the features do not fit the protocol.
    """
    options = ProbeOptions() if options is None else options
    protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
    views = _views(features, before or {})
    labels = {name: getattr(features, name) for name in ("ids", "cams", "modality")}

    def section(
        name: str, used: dict[str, Any], compute: Callable[[], list[Any]], **settings: Any
    ) -> list[dict[str, Any]]:
        settings = settings or {"options": asdict(options)}
        mark = mark_of(labels | used, version=VERSION, part=name, **settings)
        return kept(folder, name, mark, lambda: [_plain(row) for row in compute()], say)

    compute: Callable[[], list[Any]]
    found: dict[str, dict[str, Any]] = {"modality": {}, "identity": {}, "factors": {}}
    for name, x in views.items():
        for kind, of in (("modality", probe_modality), ("identity", probe_identity)):
            compute = partial(of, x, features, options)
            found[kind][name] = section(f"{kind} of {name}", {"x": x}, compute)
        if factors is not None:
            used = {"x": x, "factors": factors.values, "known": factors.known}
            compute = partial(probe_factors, x, features, factors, options)
            found["factors"][name] = section(f"factors of {name}", used, compute)
    independence = {}
    for place, suffix in (("after the neck", ""), ("before the neck", BEFORE)):
        pair = {name: views.get(name + suffix) for name in ("erased", "related")}
        a, b = pair.values()
        if a is not None and b is not None:
            compute = partial(probe_independence, a, b, features, options)
            independence[place] = section(f"independence {place}", pair, compute)
    rules = ("erased",) if features.related is None else ("erased", "related", "mixer")
    evaluation = section(
        "evaluation",
        {"erased": features.erased, "related": features.related},
        lambda: list(evaluate(features, protocol, rules=rules).rows),
        contract=protocol.describe(features),
        paths=features.paths,
    )
    return ProbeReport(
        about={
            "images": len(features),
            "infrared": int(features.modality.sum()),
            "identities": len(set(features.ids.tolist())),
            "cameras": len(set(features.cams.tolist())),
            "widths": {name: x.shape[1] for name, x in views.items()},
            "options": asdict(options),
            "protocol": protocol.id,
            "cues": None if factors is None else factors.settings,
        },
        **found,
        independence=independence,
        constraints=constraints(
            found["modality"]["erased"],
            independence.get("after the neck", ()),
            found["identity"].get("related", ()),
        ),
        evaluation=evaluation,
    )


def _views(features: FeatureSet, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The features to probe, by name."""
    views = {"erased": features.erased}
    if features.related is not None:
        views["related"] = features.related
    for name, value in before.items():
        if name not in views:
            raise MixERValueError(
                f"before has {name!r}; expected some of {', '.join(views)}, whose features after "
                "the neck are there."
            )
        # The check of a FeatureSet: finite, a row for each image.
        views[name + BEFORE] = replace(features, erased=value, related=None).erased
    return views


def _plain(row: Any) -> dict[str, Any]:
    return asdict(row) | ({"selectivity": row.selectivity} if hasattr(row, "selectivity") else {})
