"""What every invariant is tested on."""

from __future__ import annotations

import pytest

from tests.contract.toys import TOYS

# Cheap invariants run on the first toy of every adapter. Of the costly ones `make test` takes some
# toys, a sweep over options one, a compiler none; `make test-all` takes all toys, and the compiler
# some; `make endurance` compiles the others.
FIRST = ("saai", "deen", "sgeil", "generic")
COSTLY = {
    "test_a_model_of_another_precision_has_float32_losses": FIRST,
    "test_autocast": ("saai", "generic"),
    "test_deepcopy_and_pickle_run_on_their_own_weights": FIRST,
    "test_end_to_end_the_base_becomes_the_same_whatever_the_heads": FIRST,
    "test_mode_f_leaves_base_weights_and_buffers_bit_identical": ("saai", "generic"),
    "test_the_reversal_rises_over_its_warm_up": FIRST,
    "test_unwrap_leaves_no_trace": FIRST,
    "test_every_option_changes_what_reaches_the_base": ("saai",),
    "test_every_option_of_the_heads_changes_the_loss": ("saai",),
    "test_compiled_equals_eager": (),
}


def compiled(toy, mode):
    """A compiler takes long: it gets one row of each adapter, and mode "f" of some."""
    return toy in FIRST or (mode == "e2e" and ("/" not in toy or toy.endswith("/vit")))


def in_every_run(toy, mode):
    """Whether `make test-all` compiles the row."""
    return toy == "generic" or (mode == "e2e" and toy in FIRST)


def pytest_collection_modifyitems(items):
    for item in items:
        if getattr(item, "originalname", "") == "test_compiled_equals_eager":
            row = (item.callspec.params["toy"], item.callspec.params["mode"])
            if not compiled(*row):
                item.add_marker(pytest.mark.skip(reason="another row of its adapter is compiled"))
            elif not in_every_run(*row):
                item.add_marker(pytest.mark.endurance)
        toy = getattr(getattr(item, "callspec", None), "params", {}).get("toy", "")
        if "/" in getattr(toy, "name", toy):
            item.add_marker(pytest.mark.slow)
        first = COSTLY.get(getattr(item, "originalname", ""))
        if first is not None and item.callspec.params["toy"] not in first:
            item.add_marker(pytest.mark.slow)


pytest.register_assert_rewrite("tests.contract.invariants")


@pytest.fixture(params=list(TOYS))
def toy(request):
    return TOYS[request.param]


@pytest.fixture(params=["e2e", "f"])
def mode(request):
    return request.param
