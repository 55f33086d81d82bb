"""What every invariant is tested on."""

from __future__ import annotations

import pytest

from tests.contract.toys import TOYS

pytest.register_assert_rewrite("tests.contract.invariants")


@pytest.fixture(params=list(TOYS))
def toy(request):
    return TOYS[request.param]


@pytest.fixture(params=["e2e", "f"])
def mode(request):
    return request.param
