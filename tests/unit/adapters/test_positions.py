"""Position embeddings of a checkpoint for another size of images are resized, or explained."""

from __future__ import annotations

import pytest
import torch

from mixer_plugin import load_base_state_dict, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.errors import MixERError
from tests.networks import PlainTokens

KEY = "base.pos_embed"


def pretrained(side=6):
    """A checkpoint for a square of patches, whose embedding rises from top to bottom."""
    torch.manual_seed(0)
    state = PlainTokens(size=(8 * side, 8 * side)).state_dict()
    rise = torch.linspace(0, 1, side).repeat_interleave(side)
    state[KEY] = torch.cat([torch.full((1,), 7.0), rise])[None, :, None].expand(1, -1, 16).clone()
    return state


def test_they_are_resized_to_the_models_patches():
    net = PlainTokens(size=(64, 16))
    wrap_with_mixer(
        net, adapter=GenericAdapter(("base.blocks.2", "base.norm"), classifier="classifier")
    )
    report = load_base_state_dict(net, {"model": pretrained()}, positions=(8, 2))
    assert report.resized == (KEY,)
    assert KEY in report.loaded
    assert "1 resized: base.pos_embed" in str(report)
    loaded = net.get_parameter(KEY)[0, :, 0]
    assert loaded[0] == 7
    grid = loaded[1:].reshape(8, 2)
    assert torch.equal(grid[:, 0], grid[:, 1])
    assert (grid.diff(dim=0) > 0).all()
    assert net.eval()(torch.zeros(2, 3, 64, 16)).shape == (2, 16)


def test_one_of_the_right_size_is_left_as_it_is():
    net, state = PlainTokens(size=(32, 32)), pretrained(4)
    report = load_base_state_dict(net, state, positions=(4, 4))
    assert report.resized == ()
    assert torch.equal(net.get_parameter(KEY), state[KEY])


def test_what_to_do_is_said_and_nothing_is_loaded():
    net = PlainTokens(size=(64, 16))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(
        MixERError, match=r"position embedding of 37 places.*has 17.*positions=\(rows"
    ):
        load_base_state_dict(net, pretrained())
    for positions in ((8, 3), (4, 2)):
        with pytest.raises(MixERError, match="the model has 17 places"):
            load_base_state_dict(net, pretrained(), positions=positions)
    odd = pretrained()
    odd[KEY] = odd[KEY][:, :14]
    with pytest.raises(MixERError, match="expected a square"):
        load_base_state_dict(net, odd, positions=(8, 2))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
