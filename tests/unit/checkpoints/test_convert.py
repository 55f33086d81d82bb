"""``mixer-plugin convert``: the parts of a training loop's checkpoint, however it was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mixer_plugin import base_state_dict, mixer_state_dict, wrap_with_mixer
from mixer_plugin.attach import restore
from mixer_plugin.baselines import create_baseline
from mixer_plugin.checkpoints import load_checkpoint, split_checkpoint
from mixer_plugin.cli import main
from mixer_plugin.errors import MixERError, MixERRuntimeError, MixERTypeError, MixERValueError


def bare() -> nn.Module:
    return create_baseline("saai-base", num_classes=4, trunk="small", image_size=(32, 16))


def trained(mode: str = "e2e") -> nn.Module:
    """A wrapped network whose weights are none that a wrap makes."""
    torch.manual_seed(3)
    model = wrap_with_mixer(bare(), mode, seed=5)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.01)
    return model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return trained()


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", [None, "net", "state_dict", "model"])
@pytest.mark.parametrize("heads", [True, False])
def test_every_way_that_loops_save_in(
    model: nn.Module, tmp_path: Path, prefix: str, key: str | None, heads: bool
) -> None:
    held = model.state_dict() if heads else base_state_dict(model)
    state = {f"{prefix}{name}": value for name, value in held.items()}
    beside = {"epoch": 7, "mAP": np.float64(0.5), "optimizer": {"state": {}, "param_groups": []}}
    torch.save(state if key is None else {**beside, key: state}, tmp_path / "best.pth")
    words = ["convert", str(tmp_path / "best.pth"), "--base", str(tmp_path / "base.pth")]
    if heads:
        words += ["--mixer", str(tmp_path / "mixer.pth")]
    assert main(words) == 0
    # As a repository's own test script reads it.
    found = torch.load(tmp_path / "base.pth", weights_only=True)
    if key is not None:
        assert {name: found[name] for name in found if name != key} == {"epoch": 7, "mAP": 0.5}
        found = found[key]
    bare().load_state_dict(found)
    assert same(found, base_state_dict(model))
    if heads:
        found = torch.load(tmp_path / "mixer.pth", weights_only=True)
        assert same(found if key is None else found[key], mixer_state_dict(model))
        again = restore(bare, tmp_path / "best.pth", "e2e")
        assert not again.training
        assert same(again.state_dict(), model.state_dict())


def test_it_says_what_it_found(
    model: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "best.pth"
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"net": state, "epoch": 7}, path)
    assert main(["convert", str(path)]) == 0
    base, mixer = len(base_state_dict(model)), len(mixer_state_dict(model))
    assert capsys.readouterr().out == (
        f"{path}: a state dict under 'net': {base} tensors of the base, {mixer} of MixER; "
        "taken off: module.; beside it: epoch\n"
    )
    assert [each.name for each in tmp_path.iterdir()] == ["best.pth"]


def test_another_key_in_and_out(model: nn.Module, tmp_path: Path) -> None:
    path, out = tmp_path / "last.t", tmp_path / "ema.t"
    other = {name: value + 1 for name, value in base_state_dict(model).items()}
    torch.save({"net": model.state_dict(), "net_ema": other}, path)
    words = ["convert", str(path), "--key", "net_ema", "--base", str(out)]
    assert main([*words, "--under", "net"]) == 0
    assert same(torch.load(out)["net"], other)
    assert main(words) == 2  # it is there
    assert main([*words, "--plain", "--overwrite"]) == 0
    assert same(torch.load(out), other)


def test_a_part_of_a_larger_memory_is_written_alone(tmp_path: Path) -> None:
    flat = torch.zeros(1_000_000)
    torch.save({"weight": flat[:4], "mixer.weight": flat[4:]}, tmp_path / "flat.pth")
    words = ["convert", str(tmp_path / "flat.pth"), "--base", str(tmp_path / "base.pth")]
    assert main(words) == 0
    assert (tmp_path / "base.pth").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mixer", "x.pth"], "has no tensor of MixER; leave out --mixer"),
        (["--base", "best.pth"], "must be different files"),
        (["--base", "x.pth", "--mixer", "x.pth"], "must be different files"),
        (["--plain"], "give --base or --mixer"),
        (["--base", "x.pth", "--plain", "--under", "net"], "give one of them"),
        (["--key", "nett"], "No state dict under 'nett'. Did you mean 'net'?"),
    ],
)
def test_what_cannot_be_meant(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"net": {"weight": torch.zeros(1)}}, "best.pth")
    before = Path("best.pth").read_bytes()
    assert main(["convert", "best.pth", *words]) == 2
    assert message in capsys.readouterr().err
    assert Path("best.pth").read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["best.pth"]


def test_heads_without_a_wrap_and_a_wrap_without_heads(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    torch.save(model.state_dict(), path)
    with pytest.raises(MixERRuntimeError, match=r"best.pth: .*the model is not wrapped"):
        load_checkpoint(bare(), path)
    assert same(restore(bare, path, None).state_dict(), base_state_dict(model))
    torch.save(base_state_dict(model), path)
    with pytest.raises(MixERRuntimeError, match=r"no mixer\.\* keys"):
        restore(bare, path, "e2e")
    assert same(restore(bare, path, None).state_dict(), base_state_dict(model))
    made = trained()
    state = {name: value.clone() for name, value in made.state_dict().items()}
    with pytest.raises(MixERError, match="1 missing"):
        load_checkpoint(made, {name: v + 1 for name, v in list(state.items())[1:] if v.numel()})
    assert same(made.state_dict(), state)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(MixERTypeError, match="Found no state dict"):
        split_checkpoint({"epoch": 3})
    with pytest.raises(MixERValueError, match="with and without a prefix"):
        split_checkpoint({"a": torch.zeros(1), "module.a": torch.zeros(1)})
    (tmp_path / "text.pth").write_text("no checkpoint")
    assert main(["convert", str(tmp_path / "text.pth")]) == 2
    assert main(["convert", str(tmp_path / "absent.pth")]) == 2
