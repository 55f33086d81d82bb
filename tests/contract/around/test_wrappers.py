"""One step in what loops put around a model equals the plain step, for a toy of each codebase."""

from __future__ import annotations

import pytest

from mixer_plugin.conformance.case import Case
from mixer_plugin.conformance.wrappers import WRAPPERS, Broken, try_wrapper
from tests.contract.attached import build
from tests.contract.toys import CLASSES, IMAGE, TOYS

QUICK = ("saai", "generic")
SLOW = ("Lightning", "accelerate, bf16")


def rows():
    for toy in TOYS.values():
        if "/" in toy.name:
            continue  # a variant of another toy
        for name in WRAPPERS:
            if name == "Lightning" and toy.name not in QUICK:
                continue  # it calls what the others call, and takes longest
            if name == "torch.compile":
                continue  # test_compiled_equals_eager, test_a_compiled_step_with_its_loss_…
            quick = toy.name in QUICK and name not in SLOW
            yield pytest.param(
                toy, name, id=f"{toy.name}-{name}", marks=() if quick else pytest.mark.slow
            )


@pytest.mark.parametrize(("toy", "name"), [*rows()])
def test_a_step_in_a_wrapper_equals_the_plain_one(toy, name):
    case = Case(build(toy), toy.resolved, toy.loop, {}, IMAGE, CLASSES)
    assert try_wrapper(case, WRAPPERS[name]) == "equal"


def test_a_difference_is_found():
    toy = TOYS["generic"]
    case = Case(build(toy), toy.resolved, toy.loop, {}, IMAGE, CLASSES)

    def twice(case, model):
        return 2 * WRAPPERS["DataParallel"](case, model)

    with pytest.raises(Broken, match="loss"):
        try_wrapper(case, twice)
