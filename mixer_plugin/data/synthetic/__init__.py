"""Procedural person images whose factors are known: shared, visible-only, infrared-only, nuisance.

With all other settings equal, an image depends on (seed, split, index of the identity, camera,
modality, number of the image) alone: not on the chunk in which it is rendered, nor on how many
identities the set has. How strongly each group of factors shows is one table,
``mixer_plugin.data.synthetic.factors.STRENGTH``.

The orientation of the clothes' stripes and the side of the bag are identity cues: do not train with
a horizontal flip on these images.
"""

from __future__ import annotations

from mixer_plugin.data.synthetic.config import VERSION, SyntheticConfig, digest
from mixer_plugin.data.synthetic.factors import STRENGTH
from mixer_plugin.data.synthetic.images import identity_factors, render, render_shapes
from mixer_plugin.data.synthetic.layouts import layout_config
from mixer_plugin.data.synthetic.plan import INFRARED_CAMERAS, SPLITS, VISIBLE_CAMERAS, plan
from mixer_plugin.data.synthetic.write import WrittenSet, write_layout

__all__ = [
    "INFRARED_CAMERAS",
    "SPLITS",
    "STRENGTH",
    "VERSION",
    "VISIBLE_CAMERAS",
    "SyntheticConfig",
    "WrittenSet",
    "digest",
    "identity_factors",
    "layout_config",
    "plan",
    "render",
    "render_shapes",
    "write_layout",
]
