"""The options of MixER: one frozen dataclass, readable from and writable to YAML."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from mixer_plugin.errors import MixERTypeError, MixERValueError, check_keys, closest

MODES = ("e2e", "f")
ORTHOGONAL = ("abs", "signed", "squared", "cka")
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a string"),
}
_BOUNDS = {
    "minimum": (operator.ge, ">=", "["),
    "above": (operator.gt, ">", "("),
    "maximum": (operator.le, "<=", "]"),
    "below": (operator.lt, "<", ")"),
}


class OptionTypeError(MixERTypeError, MixERValueError):
    """An option of the wrong type: both a ``TypeError`` and a ``ValueError``."""


def option(
    default: Any, text: str = "", *, choices: Any = (), noun: str = "", **bounds: float
) -> Any:
    """A field of an option dataclass, with the rules that :func:`check_options` checks.

    Args:
        default: its default value.
        text: what it does.
        choices: the strings that it may be.
        noun: what is expected, such as ``a probability``; empty: named after the annotation.
        **bounds: of a number, or of every number of a tuple: ``minimum`` and ``maximum``, or
            ``above`` and ``below`` where the bound itself is excluded.
    """
    check_keys("option", bounds, _BOUNDS)
    rules = {"help": text, "choices": choices, "noun": noun, "bounds": bounds}
    return field(default=default, metadata=rules)


def check_options(options: Any, where: str = "") -> None:
    """Checks every field that :func:`option` made; for the ``__post_init__`` of a dataclass.

    The annotation gives the type: ``bool``, ``int``, ``float``, ``str``, or a tuple of one of them
    (a list passes too), and ``… | None`` where None is allowed. Numbers must be finite; true and
    false are no numbers.

    Args:
        options: a dataclass instance.
        where: what the message calls it; empty: the name of its class.

    Raises:
        OptionTypeError: for a value of another type.
        MixERValueError: for a value outside its bounds or choices; names the closest choice.
    """
    for item in fields(options):
        value, rules = getattr(options, item.name), item.metadata
        kind, optional, _ = str(item.type).partition(" | None")
        if "bounds" not in rules or (optional and value is None):
            continue
        given = f"{where or type(options).__name__}.{item.name} is {value!r}"
        if rules["choices"]:
            if value not in rules["choices"]:
                raise MixERValueError(f"{given}.{closest(value, rules['choices'])}")
            continue
        values, each, known_length = [value], "", True
        if kind.startswith("tuple["):
            kind, *rest = kind[len("tuple[") : -1].split(", ")
            values = list(value) if isinstance(value, (tuple, list)) else [None]
            known_length = rest == ["..."] or len(values) == 1 + len(rest)
            each = "values, each " if rest == ["..."] else f"{1 + len(rest)} values, each "
        types, noun = _KINDS[kind]
        expected = each + (rules["noun"] or noun) + _interval(rules["bounds"])
        message = f"{given}; expected {expected}{', or none' if optional else ''}."
        if not known_length or not all(
            isinstance(v, types) and (kind == "bool" or not isinstance(v, bool)) for v in values
        ):
            raise OptionTypeError(message)
        tests = [(_BOUNDS[name][0], bound) for name, bound in rules["bounds"].items()]
        if kind in ("int", "float") and not all(
            math.isfinite(v) and all(test(v, bound) for test, bound in tests) for v in values
        ):
            raise MixERValueError(message)


def _interval(bounds: Mapping[str, float]) -> str:
    """`` >= 0`` or `` in [0, 1)``; empty without bounds."""
    found = [(*_BOUNDS[name][1:], bounds[name]) for name in _BOUNDS if name in bounds]
    if len(found) < 2:
        return "".join(f" {sign} {bound:g}" for sign, _, bound in found)
    (_, opening, low), (_, closing, high) = found
    return f" in {opening}{low:g}, {high:g}{closing}"


def _number(default: float, text: str) -> Any:
    return option(default, text, minimum=0)


@dataclass(frozen=True, kw_only=True)
class MixERConfig:
    """Weights, variants and controls of the MixER losses (paper eqs. 6 to 16).

    The defaults differ from eq. 16 read literally, which lowered cross-modal mAP on data with known
    factors (``docs/evidence.md``): the related branch reads detached trunk features, the orthogonal
    loss moves the related side only, the reversed gradient is scaled by 0.1 and rises slowly, and
    eq. 15 moves the base by the erased feature alone, the heads by the fused one, with weight 1.
    What the base becomes then does not depend on the heads. :meth:`paper` is the literal form.

    In mode ``f`` only what moves the heads matters: ``related_*``, ``orthogonal``,
    ``center_cluster_*``, ``fusion_*`` and their weights.

    Raises:
        MixERValueError: for a value outside its choices or range; names the field and the choices.
    """

    lambda_confusion: float = _number(0.4, "weight of L_m, eq. 11 (paper: 0.4)")
    lambda_orthogonal: float = _number(0.6, "weight of L_o, eq. 7 (paper: 0.6)")
    lambda_fusion: float = _number(1.0, "weight of L_f, eq. 15 (paper: 0.4)")
    related_blocks: str = option(
        "all",
        "what each related head is: a clone of the whole stage; of its last block alone; or the "
        "base's own stage map plus a low-rank path",
        choices=("all", "last", "low-rank"),
    )
    related_rank: int = _number(
        0, 'channels inside the low-rank path (needs related_blocks="low-rank"); 0: a quarter'
    )
    related_input: str = option(
        "detach",
        "what the related heads' gradient does to the trunk: detach, flow or reverse",
        choices=("detach", "flow", "reverse"),
    )
    reversal: float = _number(0.1, "scale of the reversed gradient of L_m")
    reversal_warmup: int = _number(1000, "training forwards over which `reversal` rises from 0")
    confusion_hidden: int = _number(0, "hidden units of the modality classifier; 0: it is linear")
    confusion_dropout: float = option(
        0.3, "dropout before the gradient reversal, in [0, 1)", minimum=0, below=1
    )
    orthogonal: str = option(
        "abs",
        "L_o is the mean of |cos|, cos (signed) or cos² (squared), or linear CKA (cka)",
        choices=ORTHOGONAL,
    )
    orthogonal_side: str = option(
        "related", "L_o moves the related side only, or both sides", choices=("related", "both")
    )
    center_cluster_scope: str = option(
        "per-modality",
        "L_cc of the related feature within each modality, or joint over 2C labels",
        choices=("per-modality", "joint"),
    )
    center_cluster_pull: float = _number(0.01, "slack of the pull to the centre (SAAI)")
    center_cluster_push: float = _number(0.7, "margin between centres (MPANet)")
    fusion_margin: float = _number(0.3, "margin α of eq. 15 (the paper gives none)")
    fusion_gradient: str = option(
        "apart",
        "apart: eq. 15 on the erased feature alone moves the base, eq. 15 on the fused one the "
        "related heads; joint: eq. 15 on the fused feature moves both",
        choices=("apart", "joint"),
    )
    fusion_center: bool = option(
        False, "eq. 15 on features centred by modality, as the calibration `center` matches them"
    )
    erased_identity: str = option(
        "auto",
        "L_yme, eq. 10, on the erased feature: auto adds the terms the base does not have already",
        choices=("auto", "add", "skip"),
    )
    frozen_base: bool = option(
        False,
        "train the heads on a finished model: the base runs in eval mode without gradients, "
        'whatever model.train() says (needs mode "f")',
    )
    gather: bool = option(
        False, "under torch.distributed, the losses compare the rows of all processes (gather_rows)"
    )
    control: str = option(
        "none",
        "shared-head: one more shared head with ordinary labels in place of the related heads; "
        "erased-triplet: eq. 15 on the erased feature alone",
        choices=("none", "shared-head", "erased-triplet"),
    )

    def __post_init__(self) -> None:
        check_options(self)
        rank = self.related_rank
        if rank and self.related_blocks != "low-rank":
            raise MixERValueError(
                f"related_rank={rank} is the low-rank path's, and related_blocks is "
                f'{self.related_blocks!r}. Set related_blocks="low-rank", or drop related_rank.'
            )
        if self.frozen_base and self.control == "erased-triplet":
            raise MixERValueError(
                'control="erased-triplet" trains the base itself and cannot go with '
                "frozen_base=True. Drop one of the two."
            )

    @classmethod
    def paper(cls, **changes: Any) -> MixERConfig:
        """Returns eq. 16 read literally: its weights, full gradients everywhere, eq. 7 signed."""
        literal: dict[str, Any] = {
            "lambda_fusion": 0.4,
            "fusion_gradient": "joint",
            "related_input": "flow",
            "reversal": 1.0,
            "reversal_warmup": 0,
            "confusion_dropout": 0.0,
            "orthogonal": "signed",
            "orthogonal_side": "both",
            "center_cluster_scope": "joint",
        }
        return cls.from_dict({**literal, **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MixERConfig:
        """Builds a configuration from a mapping.

        Raises:
            MixERValueError: for an unknown key; suggests the closest one.
        """
        check_keys("MixERConfig", values, (item.name for item in fields(cls)))
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> MixERConfig:
        """Reads a YAML file of ``key: value`` lines.

        Raises:
            MixERValueError: if the file is no mapping, or a key or value is wrong.
            OSError: if the file cannot be read.
        """
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise MixERValueError(
                f"{path} holds a {type(values).__name__}; expected `key: value` lines."
            )
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Writes all fields to a YAML file."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")
