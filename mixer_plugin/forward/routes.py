"""The one place that decides which gradients flow."""

from __future__ import annotations

from dataclasses import dataclass

from mixer_plugin.config import MixERConfig


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Where the gradients of one training step go; see :func:`route_gradients`.

    Attributes:
        base: the base's own loss moves the base: its forward builds a graph.
        erased: MixER's losses on the erased feature move the base.
        related_input: how gradients pass from the related heads into the trunk: ``detach`` (they
            do not), ``flow`` or ``reverse`` (times ``-reversal``).
        orthogonal_both: L_o moves the erased feature as well as the related one.
        fusion_base: eq. 15 is added on the erased feature alone, for the base.
        fusion_joint: eq. 15 on the fused feature moves the erased half as well as the related one.
    """

    base: bool
    erased: bool
    related_input: str
    orthogonal_both: bool
    fusion_base: bool
    fusion_joint: bool


def route_gradients(mode: str, config: MixERConfig, *, training: bool = True) -> Routes:
    """Decides which loss moves which weights.

    H: the related heads. S: the base's stage (and necks behind it). T: the trunk before the stage.
    "L_f erased" and "L_f fused" are eq. 15 on the erased feature alone and on the fused feature.
    L_m passes a gradient reversal on its way into the base. ``-`` is no gradient: exactly zero.

    | mode | option                                                 | base's own | L_mrid, L_cc | L_o   | L_m | L_f erased | L_f fused |
    |------|--------------------------------------------------------|------------|--------------|-------|-----|------------|-----------|
    | f    |                                                        | T S        | H            | H     | -   | -          | H         |
    | f    | frozen_base=True                                       | -          | H            | H     | -   | -          | H         |
    | f    | related_input="flow"                                   | T S        | H            | H     | -   | -          | H         |
    | f    | orthogonal_side="both"                                 | T S        | H            | H     | -   | -          | H         |
    | f    | fusion_gradient="joint"                                | T S        | H            | H     | -   | -          | H         |
    | f    | related_fusion="cross-attention"                       | T S        | H            | H     | -   | -          | H         |
    | e2e  |                                                        | T S        | H            | H     | T S | T S        | H         |
    | e2e  | related_input="flow"                                   | T S        | T H          | T H   | T S | T S        | T H       |
    | e2e  | related_input="reverse"                                | T S        | T H          | T H   | T S | T S        | T H       |
    | e2e  | orthogonal_side="both"                                 | T S        | H            | T S H | T S | T S        | H         |
    | e2e  | fusion_gradient="joint"                                | T S        | H            | H     | T S | -          | T S H     |
    | e2e  | related_fusion="cross-attention"                       | T S        | H            | H     | T S | T S        | H         |
    | e2e  | related_fusion="cross-attention", related_input="flow" | T S        | T S H        | T S H | T S | T S        | T S H     |
    | e2e  | control="erased-triplet"                               | T S        | -            | -     | -   | T S        | -         |

    Cross-attention reads the base's own map as well as the stage's input, and both are cut, reversed
    or let through alike: hence the S where it flows. The same holds for related_blocks="low-rank".

    In mode "e2e", the terms of L_yme (eq. 10) that ``erased_identity`` adds on the erased feature
    move T and S as well. Outside training, MixER's losses move nothing of the base.

    Args:
        mode: ``e2e`` or ``f``.
        config: its ``related_input``, ``orthogonal_side``, ``fusion_gradient``, ``frozen_base`` and
            ``control`` count.
        training: False: as in evaluation.
    """  # noqa: E501
    into_base = mode == "e2e" and training
    has_heads = config.control != "erased-triplet"
    joint = into_base and has_heads and config.fusion_gradient == "joint"
    return Routes(
        base=not config.frozen_base,
        erased=into_base,
        related_input=config.related_input if into_base else "detach",
        orthogonal_both=into_base and config.orthogonal_side == "both",
        fusion_base=into_base and not joint,
        fusion_joint=joint,
    )
