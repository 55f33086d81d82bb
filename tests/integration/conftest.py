"""``mixer-plugin evaluate``, and features for it."""

from __future__ import annotations

import pytest

from mixer_plugin.cli import main
from tests.integration.evaluate.evaluate_cases import make


@pytest.fixture
def stored(tmp_path):
    """A file of features."""
    make().save(tmp_path / "one.npz")
    return tmp_path / "one.npz"


@pytest.fixture
def run(capsys):
    """Runs the command; its status, and what it wrote on stdout and on stderr."""

    def call(*arguments):
        status = main(["evaluate", *map(str, arguments)])
        text = capsys.readouterr()
        return status, text.out, text.err

    return call


# What `make test` takes of this folder; `make test-all` takes all.
QUICK = (
    *("evaluate/test_evaluate", "public/test_public", "site/test_links", "site/test_reference"),
    *("table3/test_pipeline", "test_readme"),
)


def pytest_collection_modifyitems(items):
    for item in items:
        _, here, rest = item.nodeid.partition("tests/integration/")
        if here and not rest.startswith(QUICK):
            item.add_marker(pytest.mark.slow)
