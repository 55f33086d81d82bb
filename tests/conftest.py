"""How much of the tests runs, and which of them share a process of pytest-xdist."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# Their tests share nothing, and there are too many for one process.
SPREAD = ("tests/contract/test_contract.py",)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """A module's tests stay in one process, which makes their fixtures once."""
    for item in items:
        module = item.nodeid.split("::")[0]
        if module not in SPREAD:
            item.add_marker(pytest.mark.xdist_group(module))
