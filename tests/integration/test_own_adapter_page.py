"""Every file on the page of one's own adapter attaches to a network of its form."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from mixer_plugin.testing import check_adapter
from tests.integration.test_integration_pages import blocks_of
from tests.networks import LossInside, PlainTokens, TwoStreams

NETWORKS = {
    "loss_in_the_loop": TwoStreams,
    "loss_in_the_forward": lambda: LossInside(trunk="small"),
    "single_input": PlainTokens,
    "generic_and_more": TwoStreams,
}
LINES = 25


def test_every_file_is_tried() -> None:
    assert set(blocks_of("own-adapter")) == set(NETWORKS)


@pytest.mark.parametrize("form", NETWORKS)
def test_a_file_of_the_page_attaches(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = blocks_of("own-adapter")[form]
    assert len(text.splitlines()) <= LINES
    (tmp_path / f"{form}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(form)
    assert len(check_adapter(NETWORKS[form], module.Mine(), size=(32, 16))) == 12
