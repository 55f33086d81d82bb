"""The invariants that depend on what a related head is: lighter and deeper ones."""

from __future__ import annotations

import pytest
import torch

from tests.contract import test_contract as contract
from tests.contract.variants import LIGHTER, VARIANTS

# A neck and parts, expanded rows, several calls of the stage, a bare network, tokens, tokens that
# become a map.
ROWS = ("saai", "deen", "sgeil", "generic", "generic/vit", "saai-base/vit")
SOME = [name for name in LIGHTER if name.removesuffix("/last").removesuffix("/low-rank") in ROWS]
SOME += [f"{name}/{kind}" for name in ROWS for kind in ("deep", "cross")]
CASES = [
    ("test_wrap_returns_the_same_object_and_adds_only_mixer_keys", {"mode": "e2e"}),
    ("test_our_names_do_not_hit_the_name_filters_of_public_loops", {}),
    ("test_train_outputs_are_bit_equal_and_metrics_keep_their_values", {"mode": "f"}),
    ("test_mode_f_gradients_do_not_reach_the_base", {}),
    ("test_frozen_base_never_moves", {}),
    ("test_heads_do_not_run_in_eval_unless_asked", {}),
    ("test_related_rows_come_from_their_modalitys_head", {}),
    ("test_deepcopy_and_pickle_run_on_their_own_weights", {"mode": "e2e"}),
    ("test_state_dicts", {}),
    ("test_controls", {"control": "shared-head"}),
    (
        "test_a_batch_of_one_modality_trains_with_a_gradient_for_every_head",
        {"mode": "e2e", "modalities": (1,)},
    ),
    ("test_a_single_row_of_a_modality_leaves_its_statistics_alone", {}),
    ("test_unwrap_leaves_no_trace", {"mode": "f", "how": "pickle"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("test", "options"), CASES, ids=[name[5:] for name, _ in CASES])
@pytest.mark.parametrize("name", SOME)
def test_the_contract_holds(name, test, options):
    getattr(contract, test)(toy=VARIANTS[name], **options)


# These take longer, and what they test is not the adapter's.
LONGER = [
    ("test_compiled_equals_eager", {"mode": "e2e"}),
    ("test_autocast", {"mode": "e2e", "dtype": torch.bfloat16}),
    ("test_mode_f_leaves_base_weights_and_buffers_bit_identical", {"optimizer": torch.optim.AdamW}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("test", "options"), LONGER, ids=[name[5:] for name, _ in LONGER])
@pytest.mark.parametrize("name", ["generic/low-rank"])
def test_training_holds(name, test, options):
    getattr(contract, test)(toy=LIGHTER[name], **options)
