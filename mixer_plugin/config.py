"""The options of MixER: one frozen dataclass, readable from and writable to YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.io.options import build, check_options, option
from mixer_plugin.io.yaml_file import naming, read_yaml_file

MODES = ("e2e", "f")
ORTHOGONAL = ("abs", "signed", "squared", "cka")


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
        MixERValueError: for a value outside its choices or range, naming the field and the choices;
            or for options that exclude each other.
        OptionTypeError: for a value of another type; it is a ``MixERValueError`` too.

    Example:
        >>> MixERConfig(related_stages=3).rule
        'mixer-calibrated'
        >>> MixERConfig.recommended().rule
        'fused-calibrated'
    """

    lambda_related: float = _number(1.0, "weight of L_ymr, eq. 14 (paper: 1)")
    lambda_confusion: float = _number(0.4, "weight of L_m, eq. 11 (paper: 0.4)")
    lambda_orthogonal: float = _number(0.6, "weight of L_o, eq. 7 (paper: 0.6)")
    lambda_fusion: float = _number(1.0, "weight of L_f, eq. 15 (paper: 0.4)")
    related_heads: str = option(
        "per-modality",
        "one head for each modality (the paper), or one that both share",
        choices=("per-modality", "shared"),
    )
    related_labels: str = option(
        "modality-identity",
        "what the related feature is trained on: the doubled labels of eq. 12 (the paper), or "
        "ordinary identities",
        choices=("modality-identity", "identity"),
    )
    related_stages: int = option(
        1, "how many of the base's last stages each head clones (1: the paper)", minimum=1
    )
    related_blocks: str = option(
        "all",
        "what each related head is: a clone of the whole stage; of its last block alone; or the "
        "base's own stage map plus a low-rank path",
        choices=("all", "last", "low-rank"),
    )
    related_width: float = option(
        1.0,
        "share of the channels inside the clones' residual blocks that stay, the strongest ones",
        above=0,
        maximum=1,
    )
    related_rank: int = _number(
        0, 'channels inside the low-rank path (needs related_blocks="low-rank"); 0: a quarter'
    )
    related_fusion: str = option(
        "concatenation",
        "what the related feature takes of the erased one before the two stand side by side: "
        "nothing (concatenation, the paper), or, before pooling, what its map finds in the base's "
        "own by attention (cross-attention, the paper's Table B.5)",
        choices=("concatenation", "cross-attention"),
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
        "auto",
        "L_cc of the related feature within each modality, or joint over all labels; auto: the "
        "former with doubled labels, the latter with ordinary ones",
        choices=("auto", "per-modality", "joint"),
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
        'shared-head: as related_heads="shared" with related_labels="identity"; '
        "erased-triplet: no related head, eq. 15 on the erased feature alone",
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

        if self.related_width < 1 and self.related_blocks == "low-rank":
            raise MixERValueError(
                f"related_width={self.related_width} thins clones, and the low-rank path clones "
                "nothing. Set related_rank, or related_width=1.0."
            )
        if self.related_stages > 1 and self.related_blocks != "all":
            raise MixERValueError(
                f"related_stages={self.related_stages} clones whole stages, and related_blocks is "
                f'{self.related_blocks!r}. Set related_blocks="all", or related_stages=1.'
            )

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of the related heads: one for each modality, one that is shared, or none."""
        if self.control == "erased-triplet":
            return ()
        shared = self.control == "shared-head" or self.related_heads == "shared"
        return ("shared",) if shared else ("visible", "infrared")

    @property
    def doubles_labels(self) -> bool:
        """Whether the related feature is trained on the doubled labels of eq. 12."""
        return self.related_labels == "modality-identity" and self.control != "shared-head"

    @property
    def clusters_apart(self) -> bool:
        """Whether L_cc of the related feature is taken within each modality."""
        if self.center_cluster_scope == "auto":
            return self.doubles_labels
        return self.center_cluster_scope == "per-modality"

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term of the loss, by its name; of the others it is 1."""
        return {
            "modality_identity": self.lambda_related,
            "confusion": self.lambda_confusion,
            "orthogonal": self.lambda_orthogonal,
            "fusion": self.lambda_fusion,
        }

    @property
    def rule(self) -> str:
        """The rule of ``scores`` that matches the features of this configuration best.

        Related features of one shared head on ordinary labels count for every pair, all others
        within a modality only: features of two heads lie apart, whatever their labels. The paper's
        own rule (sec. 3.3) is ``mixer``, without calibration.
        """
        together = self.head_names == ("shared",) and not self.doubles_labels
        return "fused-calibrated" if together else "mixer-calibrated"

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
    def recommended(cls, **changes: Any) -> MixERConfig:
        """Returns what gained most where training had levelled off (``docs/evidence.md``).

        One deep head for both modalities, on ordinary labels, and end to end no confusion loss;
        match its features by ``fused-calibrated``.
        """
        chosen: dict[str, Any] = {
            "related_stages": 3,
            "related_heads": "shared",
            "related_labels": "identity",
            "lambda_confusion": 0.0,
        }
        return cls.from_dict({**chosen, **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MixERConfig:
        """Builds a configuration from a mapping.

        Raises:
            MixERValueError: for an unknown key, with the closest one, or a wrong value.
            OptionTypeError: for a value of another type.
        """
        return build(cls, values, cls.__name__)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> MixERConfig:
        """Reads a YAML file of ``key: value`` lines.

        Raises:
            MixERValueError: if the file is no mapping, or a key or value is wrong.
            OSError: if the file cannot be read.
        """
        with naming(path):
            return build(cls, read_yaml_file(path), "")

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as plain values."""
        return asdict(self)

    def to_yaml(self, path: str | os.PathLike[str]) -> None:
        """Writes all fields to a YAML file; ``OSError`` if it cannot be written."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")


def check_mode(mode: str, config: MixERConfig) -> None:
    """Raises :class:`MixERValueError` unless the mode exists and fits the configuration."""
    check_name("mode", mode, MODES)
    if mode == "e2e" and config.frozen_base:
        raise MixERValueError('frozen_base=True trains the heads alone: use mode="f".')
    if mode == "f" and config.control == "erased-triplet":
        raise MixERValueError('control="erased-triplet" has no heads to train: use mode="e2e".')
