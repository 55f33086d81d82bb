"""The invariants of attaching, for every row of the toy table."""

from __future__ import annotations

import mixer_plugin

# One module with all of them: other models than the toys' are tested with it, too.
from tests.contract.invariants.copies import *  # noqa: F403
from tests.contract.invariants.gradients import *  # noqa: F403
from tests.contract.invariants.misuse import *  # noqa: F403
from tests.contract.invariants.retrieval import *  # noqa: F403
from tests.contract.invariants.same_model import *  # noqa: F403
from tests.contract.invariants.state import *  # noqa: F403
from tests.contract.invariants.unwrap import *  # noqa: F403

EXPORTS = [
    "wrap_with_mixer",
    "unwrap_mixer",
    "mixer_loss",
    "mixer_features",
    "mixer_param_groups",
    "mixer_parameters",
    "base_parameters",
    "check_optimizer",
    "reset_heads",
    "list_adapters",
    "register_adapter",
    "MixERConfig",
    "MixERError",
    "Modality",
    "FeatureSet",
    "extract_features",
    "scores",
    "evaluate",
    "base_state_dict",
    "load_base_state_dict",
    "mixer_state_dict",
    "__version__",
]


def test_exports_are_the_contract():
    assert sorted(mixer_plugin.__all__) == sorted(EXPORTS)
    assert all(hasattr(mixer_plugin, name) for name in EXPORTS)
