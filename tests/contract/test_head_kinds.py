"""Deep, attending and shared heads, and those on ordinary labels, keep the contract everywhere."""

from __future__ import annotations

import pytest
import torch

from tests.contract import test_contract as contract
from tests.contract.conftest import FIRST
from tests.contract.variants import OTHERS

QUICK = ("saai/deep-shared", "generic/cross")
ADAMW = {"optimizer": torch.optim.AdamW}
EVERYWHERE = [
    ("test_train_outputs_are_bit_equal_and_metrics_keep_their_values", {"mode": "e2e"}),
    ("test_mode_f_leaves_base_weights_and_buffers_bit_identical", ADAMW),
    ("test_e2e_gradients_reach_trunk_and_stage", {"config": None}),
    ("test_deepcopy_and_pickle_run_on_their_own_weights", {"mode": "f"}),
    ("test_unwrap_leaves_no_trace", {"mode": "e2e", "how": "deepcopy"}),
    (
        "test_a_batch_of_one_modality_trains_with_a_gradient_for_every_head",
        {"mode": "f", "modalities": (0,)},
    ),
]


def rows():
    """Every adapter, on maps and on tokens; its further forms are for ``make endurance``."""
    for name in OTHERS:
        further = name.count("/") > 1 and "/vit/" not in name
        marks = [pytest.mark.endurance] * further + [pytest.mark.slow] * (name not in QUICK)
        yield pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [*rows()])
def test_other_heads_keep_the_contract_on_every_base(name):
    for test, options in EVERYWHERE:
        getattr(contract, test)(toy=OTHERS[name], **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(f"{name}/deep-shared", marks=pytest.mark.endurance) for name in FIRST[1:]),
        f"{FIRST[0]}/deep-shared",
        "generic/cross",
    ],
)
def test_other_heads_compile(name):
    contract.test_compiled_equals_eager(toy=OTHERS[name], mode="e2e")
