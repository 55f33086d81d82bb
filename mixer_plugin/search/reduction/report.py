"""What fewer dimensions and fewer bits cost: mAP and R1 of each setting, by ``evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.evaluation.results import Results
from mixer_plugin.evaluation.tables import markdown_table, percent, to_json
from mixer_plugin.features import FeatureSet
from mixer_plugin.features.precision import PRECISIONS, stored_as
from mixer_plugin.search.reduction.reduce import Reduction, fit_reductions

DIMS = (2048, 1024, 512, 256, 128)
_METRICS = ("mAP", "r1")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Figures of one way to keep features, in one setting.

    Attributes:
        erased: Dimensions of the erased features.
        related: Of the related ones, None without.
        centered: Whether the PCA subtracted a mean; None: there was no PCA.
        precision: ``float32``, ``float16`` or ``int8``.
        bytes: Of an image's features.
        setting: Setting of the evaluation.
        query: ``infrared`` or ``visible``.
        mAP: Mean average precision, a fraction.
        r1: Share of queries with a positive at rank 1, a fraction.
        mAP_lost: mAP of the features as they were given, minus this one.
        r1_lost: The same of R1.
    """

    erased: int
    related: int | None
    centered: bool | None
    precision: str
    bytes: int
    setting: str
    query: str
    mAP: float
    r1: float
    mAP_lost: float
    r1_lost: float


@dataclass(frozen=True)
class ReductionReport:
    """Costs of all ways and settings; those of the features as they were given come first.

    Attributes:
        costs: One for each way and setting.
        rule: The rule that was evaluated.
        protocol: Id of the protocol.
        fitted_on: Number of images that the reductions were fitted on, and which.
    """

    costs: list[Cost]
    rule: str
    protocol: str
    fitted_on: str

    def to_markdown(self) -> str:
        """A table with a row per way: percent in the first, differences to it in the others."""
        ways: dict[tuple, list[Cost]] = {}
        for cost in self.costs:
            way = cost.erased, cost.related, cost.centered, cost.precision
            ways.setdefault(way, []).append(cost)
        first = next(iter(ways.values()))
        several = len({cost.query for cost in first}) > 1
        named = [c.setting + (f" ({c.query})" if several else "") for c in first]
        head = ["features", "precision", "bytes per image"]
        head += [f"{name} {metric}" for name in named for metric in ("mAP", "R1")]
        body = []
        for costs in ways.values():
            cells = [_name(costs[0]), costs[0].precision, f"{costs[0].bytes:,}"]
            for cost in costs:
                if costs is first:
                    cells += [percent(cost.mAP), percent(cost.r1)]
                else:
                    cells += [
                        percent(x, signed=True) for x in (0 - cost.mAP_lost, 0 - cost.r1_lost)
                    ]
            body.append(cells)
        return (
            f"{markdown_table(head, body, labels=2)}\n"
            f"Rule {self.rule}, protocol {self.protocol}. First row: percent; the others: "
            f"difference to it in points, negative where it is lost. PCA fitted on "
            f"{self.fitted_on}.\n"
        )

    def to_json(self) -> str:
        """All figures in full precision."""
        costs = [asdict(cost) for cost in self.costs]
        about = {"rule": self.rule, "protocol": self.protocol, "fitted_on": self.fitted_on}
        return to_json(about | {"costs": costs})


def reduction_report(
    features: FeatureSet,
    protocol: str | Protocol = "full",
    *,
    dims: Sequence[int] = DIMS,
    fit: FeatureSet | None = None,
    rule: str | None = None,
    settings: Sequence[str] | None = None,
    query: str | None = None,
) -> ReductionReport:
    """Evaluates features as they are and reduced, each in all precisions.

    Args:
        features: The images to evaluate; not reduced.
        protocol: As of ``evaluate``.
        dims: Dimensions to try; those that no feature exceeds, or that there are too few images to
            fit, are left out.
        fit: Images to fit on, such as the training images'; None: ``features``.
        rule: Rule; None: ``mixer``, or ``erased`` without related features.
        settings: As of ``evaluate``.
        query: As of ``evaluate``.

    Returns:
        The report. Both kinds of PCA are in it, without and with a mean; the second in float32.

    Raises:
        MixERValueError: The features are reduced already, none of ``dims`` can be tried, or
            ``evaluate`` cannot use the arguments.
    """
    source = features if fit is None else fit
    widest = max(x.shape[1] for x in (source.erased, source.related) if x is not None)
    wanted = sorted((d for d in dims if d < min(widest, len(source))), reverse=True)
    if not wanted:
        raise MixERValueError(
            f"None of {', '.join(map(str, dims)) or 'no dimensions'} can be tried: the widest "
            f"feature has {widest} dimensions, and there are {len(source)} images to fit on; both "
            "must be more."
        )
    rule = rule or ("erased" if features.related is None else "mixer")
    fitted = {c: fit_reductions(source, wanted, center=c) for c in (False, True)}
    ways: list[tuple[Reduction | None, bool | None]] = [(None, None)]
    ways += [(fitted[c][i], c) for i in range(len(wanted)) for c in (False, True)]

    def measure(given: FeatureSet) -> Results:
        return evaluate(given, protocol, rules=[rule], settings=settings, query=query)

    whole = measure(features)
    costs = []
    for reduction, centered in ways:
        reduced = features if reduction is None else reduction.apply(features)
        for precision in ("float32",) if centered else PRECISIONS:
            as_given = reduction is None and precision == "float32"
            found = whole if as_given else measure(_rounded(reduced, precision))
            costs += _costs(found, whole, reduced, centered, precision)
    which = "the images evaluated" if fit is None else "other images"
    return ReductionReport(costs, rule, whole.rows[0].protocol, f"{len(source)} images, {which}")


def _costs(
    found: Results, whole: Results, features: FeatureSet, centered: bool | None, precision: str
) -> list[Cost]:
    related = None if features.related is None else features.related.shape[1]
    erased = features.erased.shape[1]
    return [
        Cost(
            erased=erased,
            related=related,
            centered=centered,
            precision=precision,
            bytes=(erased + (related or 0)) * PRECISIONS[precision].itemsize,
            setting=row.setting,
            query=row.query,
            **{name: getattr(row, name) for name in _METRICS},
            **{f"{name}_lost": getattr(old, name) - getattr(row, name) for name in _METRICS},
        )
        for row, old in zip(found.rows, whole.rows, strict=True)
    ]


def _rounded(features: FeatureSet, precision: str) -> FeatureSet:
    related = features.related
    return replace(
        features,
        erased=stored_as(features.erased, precision),
        related=None if related is None else stored_as(related, precision),
    )


def _name(cost: Cost) -> str:
    widths = " + ".join(str(each) for each in (cost.erased, cost.related) if each is not None)
    if cost.centered is None:
        return f"{widths}, as given"
    return f"{widths}, {'centred PCA' if cost.centered else 'PCA'}"
