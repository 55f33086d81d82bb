"""The options of MixER: one frozen dataclass, readable from and writable to YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from mixer_plugin.errors import MixERValueError, check_keys, closest
from mixer_plugin.losses import ORTHOGONAL

MODES = ("e2e", "f")
_CHOICES: dict[str, tuple[str, ...]] = {
    "related_blocks": ("all", "last", "low-rank"),
    "related_input": ("detach", "flow", "reverse"),
    "orthogonal": ORTHOGONAL,
    "orthogonal_side": ("related", "both"),
    "center_cluster_scope": ("per-modality", "joint"),
    "fusion_gradient": ("apart", "joint"),
    "erased_identity": ("auto", "add", "skip"),
    "control": ("none", "shared-head", "erased-triplet"),
}


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


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

    lambda_confusion: float = _option(0.4, "weight of L_m, eq. 11 (paper: 0.4)")
    lambda_orthogonal: float = _option(0.6, "weight of L_o, eq. 7 (paper: 0.6)")
    lambda_fusion: float = _option(1.0, "weight of L_f, eq. 15 (paper: 0.4)")
    related_blocks: str = _option(
        "all",
        "what each related head is: a clone of the whole stage; of its last block alone; or the "
        "base's own stage map plus a low-rank path",
    )
    related_rank: int = _option(
        0, 'channels inside the low-rank path (needs related_blocks="low-rank"); 0: a quarter'
    )
    related_input: str = _option(
        "detach", "what the related heads' gradient does to the trunk: detach, flow or reverse"
    )
    reversal: float = _option(0.1, "scale of the reversed gradient of L_m")
    reversal_warmup: int = _option(1000, "training forwards over which `reversal` rises from 0")
    confusion_hidden: int = _option(0, "hidden units of the modality classifier; 0: it is linear")
    confusion_dropout: float = _option(0.3, "dropout before the gradient reversal, in [0, 1)")
    orthogonal: str = _option(
        "abs", "L_o is the mean of |cos|, cos (signed) or cos² (squared), or linear CKA (cka)"
    )
    orthogonal_side: str = _option("related", "L_o moves the related side only, or both sides")
    center_cluster_scope: str = _option(
        "per-modality", "L_cc of the related feature within each modality, or joint over 2C labels"
    )
    center_cluster_pull: float = _option(0.01, "slack of the pull to the centre (SAAI)")
    center_cluster_push: float = _option(0.7, "margin between centres (MPANet)")
    fusion_margin: float = _option(0.3, "margin α of eq. 15 (the paper gives none)")
    fusion_gradient: str = _option(
        "apart",
        "apart: eq. 15 on the erased feature alone moves the base, eq. 15 on the fused one the "
        "related heads; joint: eq. 15 on the fused feature moves both",
    )
    fusion_center: bool = _option(
        False, "eq. 15 on features centred by modality, as the calibration `center` matches them"
    )
    erased_identity: str = _option(
        "auto",
        "L_yme, eq. 10, on the erased feature: auto adds the terms the base does not have already",
    )
    frozen_base: bool = _option(
        False,
        "train the heads on a finished model: the base runs in eval mode without gradients, "
        'whatever model.train() says (needs mode "f")',
    )
    gather: bool = _option(
        False,
        "under torch.distributed, the losses compare the rows of all processes (gather_rows)",
    )
    control: str = _option(
        "none",
        "shared-head: one more shared head with ordinary labels in place of the related heads; "
        "erased-triplet: eq. 15 on the erased feature alone",
    )

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise MixERValueError(f"MixERConfig.{name} is {value!r}.{closest(value, choices)}")
        for item in fields(self):
            if item.type == "float":
                value = getattr(self, item.name)
                if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                    raise MixERValueError(
                        f"MixERConfig.{item.name} is {value!r}; expected a number >= 0."
                    )
            if item.type == "bool" and not isinstance(getattr(self, item.name), bool):
                raise MixERValueError(
                    f"MixERConfig.{item.name} is {getattr(self, item.name)!r}; "
                    "expected true or false."
                )
        if self.confusion_dropout >= 1:
            raise MixERValueError(
                f"MixERConfig.confusion_dropout is {self.confusion_dropout}; expected [0, 1)."
            )
        for name in ("reversal_warmup", "confusion_hidden", "related_rank"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise MixERValueError(
                    f"MixERConfig.{name} is {value!r}; expected a whole number >= 0."
                )
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
