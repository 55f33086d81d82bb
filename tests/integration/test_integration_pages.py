"""Every line of Python on the integration pages, in a loop of the page's codebase's shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixer_plugin import base_state_dict, check_optimizer, mixer_parameters, mixer_state_dict
from mixer_plugin.data import SyntheticConfig, write_layout
from tests.integration.public.public_loops import (
    AMP,
    IN_SCRIPTS,
    LOOPS,
    PLACE,
    SIZE,
    TRAINING,
    fill,
    namespace,
)

PAGES = Path(__file__).resolve().parents[2] / "docs" / "integrations"

BLOCK = re.compile(r"<!-- (\w+) -->\n```python\n(.*?)```", re.DOTALL)


def blocks_of(name: str) -> dict[str, str]:
    """A page's blocks, by place."""
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    blocks = dict(BLOCK.findall(page))
    assert page.count("```python") == len(blocks), "a block without its place, or a place twice"
    return blocks


@pytest.fixture(scope="module")
def sysu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set in SYSU-MM01's layout."""
    config = SyntheticConfig(train_ids=4, val_ids=2, test_ids=6, height=SIZE[0], width=SIZE[1])
    return write_layout(tmp_path_factory.mktemp("data") / "sysu", config, "sysu").root


@pytest.mark.parametrize("name", LOOPS)
def test_the_pages_lines_run_in_the_loop_they_are_for(
    name: str,
    sysu: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(name)
    assert set(blocks) == {place for _, place in PLACE.findall(LOOPS[name])}
    values = namespace(name, sysu, tmp_path)
    exec(compile(fill(LOOPS[name], blocks), f"{name}.md", "exec"), values)
    net, optimizer = values["net"], values["optimizer"]
    assert net.mixer.adapter.name == ("generic" if name in ("mcja", "pmt") else name)
    assert check_optimizer(net, optimizer) == []
    state = mixer_state_dict(net)
    assert all(torch.isfinite(v).all() for v in state.values())
    assert int(net.mixer.counter) > 0
    assert all(p in optimizer.state for p in mixer_parameters(net)), "a head was never stepped"
    out = capsys.readouterr().out
    assert "tensors loaded" in out
    assert "mix-id" in out
    assert "Not in this table" not in out
    assert (tmp_path / f"{name}.npz").is_file()


@pytest.mark.parametrize("name", IN_SCRIPTS)
def test_heads_without_a_group_of_their_own_train_at_a_tenth_and_it_is_said(
    name: str, sysu: Path, tmp_path: Path
) -> None:
    values = namespace(name, sysu, tmp_path)
    left_out = {"ignored": "", "optimizer": ""}
    exec(fill(TRAINING[name], {**blocks_of(name), **left_out}), values)
    (line,) = check_optimizer(values["net"], values["optimizer"])
    assert "heads train at learning rate 0.01, the base's classifier 'classifier' at 0.1" in line


# What the public scripts have, or need to run at all, where the pages put something else.
PUBLIC = {
    "sgeil": {"clip": "torch.nn.utils.clip_grad_norm_(net.parameters(), args.gradclip)"},
    "mpanet": AMP,
    "mcja": {"amp": blocks_of("mcja")["amp"]},
    "idkl": {"build": "model.mutual_learning = False"},
}


@pytest.mark.parametrize("name", LOOPS)
def test_in_mode_f_the_base_becomes_what_it_does_without_the_pages_lines(
    name: str, sysu: Path, tmp_path: Path
) -> None:
    page, public = blocks_of(name), PUBLIC.get(name, {})
    page["build"] = page["build"].replace('"e2e"', '"f"')
    trained = partial(_trained, name, sysu, tmp_path)
    bare, wrapped = trained(public), trained(page)
    assert bare.keys() == wrapped.keys()
    assert all(torch.equal(value, wrapped[key]) for key, value in bare.items())
    if name == "sgeil":  # which one norm for all would not do
        joint = trained({**page, **public})
        assert not all(torch.equal(value, joint[key]) for key, value in bare.items())


def _trained(name: str, sysu: Path, folder: Path, blocks: Mapping[str, str]) -> dict[str, Tensor]:
    """The base's state after the loop, of both networks where there are two."""
    values = namespace(name, sysu, folder)
    values["args"].gradclip = 0.5  # less than the norms
    exec(fill(TRAINING[name], blocks), values)
    nets = {key: values[key] for key in ("net", "net_ema") if key in values}
    wrapped = "wrap_with_mixer" in blocks.get("build", "")
    assert all(hasattr(net, "mixer") == wrapped for net in nets.values())
    return {f"{n}.{k}": v for n, net in nets.items() for k, v in base_state_dict(net).items()}


def test_every_page_is_tested_and_listed() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert pages - {"forwards", "own-adapter"} == set(LOOPS)
    listed = (PAGES / "README.md").read_text(encoding="utf-8")
    assert all(f"({page}.md)" in listed for page in pages)
