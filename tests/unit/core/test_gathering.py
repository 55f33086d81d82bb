"""Gathering and synchronised norms in one process, and with a gather that stands for several."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from mixer_plugin import MixERConfig, MixERError, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop, list_baselines
from mixer_plugin.baselines.loops import mined_blocks, mined_rows
from mixer_plugin.baselines.sgeil import SGEILLoop
from mixer_plugin.distributed.gather import gather_rows
from mixer_plugin.distributed.sync_batchnorm import SyncNorm, synchronise_norms, unsynchronise_norms
from mixer_plugin.features.shared import own_batches
from tests.contract.toys import CLASSES, IMAGE, make_batch


def build(name, config=None):
    options = {"image_size": IMAGE} if name.startswith("saai") else {}
    torch.manual_seed(0)
    model = create_baseline(name, CLASSES, trunk="small", **options)
    return wrap_with_mixer(model, config=config, seed=0).train()


def loop_of(name, mix=0.0):
    return SGEILLoop(mix=mix) if name == "sgeil" else create_loop(name)


def test_one_process_gets_its_own_tensors_back():
    a, b = torch.randn(3, 2, requires_grad=True), torch.arange(3)
    found = gather_rows(a, b)
    assert found[0] is a
    assert found[1] is b


@pytest.mark.parametrize(
    "tensors", [(), (torch.zeros(()),), (torch.zeros(2, 3), torch.zeros(3, 3))]
)
def test_rows_that_do_not_belong_together(tensors):
    with pytest.raises(MixERError, match="same number of rows"):
        gather_rows(*tensors)


def step(name, *, config=None, gather=None):
    """Loss and gradients of one step, with the random state that it leaves."""
    model, loop = build(name, config), loop_of(name, mix=0.5)
    if gather is not None:
        model.gather = gather
    batch = make_batch(1, p=2, k=2, rows=loop.rows)
    torch.manual_seed(1)
    loop.start_epoch(model, 0)
    loss = loop(model, batch).loss
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, torch.get_rng_state()


@pytest.mark.parametrize("name", list_baselines())
def test_in_one_process_gather_changes_no_bit(name):
    plain = step(name)
    gathered = step(name, config=MixERConfig(gather=True), gather=gather_rows)
    assert torch.equal(plain[0], gathered[0])
    assert list(plain[1]) == list(gathered[1])
    for key, value in plain[1].items():
        assert torch.equal(value, gathered[1][key]), key
    assert torch.equal(plain[2], gathered[2])


@pytest.mark.parametrize("name", list_baselines())
def test_every_baseline_mines_what_its_gather_gives(name):
    """A gather that forgets half of the rows must be seen in the loss."""

    def half(*tensors):
        return tuple(tensor[: max(len(tensor) // 2, 1)] for tensor in tensors)

    assert not torch.equal(step(name)[0], step(name, gather=half)[0])


def test_blocks_keep_visible_rows_before_infrared_ones():
    net = nn.Linear(1, 1)
    rows = torch.tensor([1, 2, -1, -2])
    (same,) = mined_blocks(net, rows)
    assert same is rows

    def twice(*tensors):
        return tuple(torch.cat([tensor, tensor * 10]) for tensor in tensors)

    net.gather = twice
    assert mined_blocks(net, rows)[0].tolist() == [1, 2, 10, 20, -1, -2, -10, -20]
    assert mined_rows(net, rows)[0].tolist() == [1, 2, -1, -2, 10, 20, -10, -20]


@pytest.mark.parametrize("drawn", [0.0, 1.0])
def test_the_first_process_draws_whether_a_batch_is_mixed(drawn):
    model, loop = build("sgeil"), SGEILLoop(mix=0.5)
    batch = make_batch(1, p=2, k=2, rows=loop.rows)
    loop.start_epoch(model, 0)

    def first_drew(*tensors):
        return tuple(torch.full_like(t, drawn) if t.shape == (1,) else t for t in tensors)

    model.gather = first_drew
    for seed in range(4):
        torch.manual_seed(seed)
        assert (loop(model, batch).labels is None) == (drawn < 0.5)


@pytest.mark.parametrize("name", ["saai-base", "sgeil"])
def test_norms_are_swapped_in_place_and_back(name):
    model = build(name)
    norms = {
        n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    }
    state, classes = list(model.state_dict()), {n: type(m) for n, m in norms.items()}
    assert any(n.startswith("mixer.heads.visible.stage") for n in norms)
    assert any(n.startswith("mixer.heads.visible.norm") for n in norms)
    assert name != "sgeil" or any(n.endswith("_shape") for n in norms)

    assert synchronise_norms(model) == len(norms)
    assert synchronise_norms(model) == 0
    for path, norm in norms.items():
        assert model.get_submodule(path) is norm
        assert isinstance(norm, SyncNorm)
        assert isinstance(norm, classes[path])
    assert list(model.state_dict()) == state
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert sum(isinstance(m, SyncNorm) for m in twin.modules()) == len(norms)

    assert unsynchronise_norms(model) == len(norms)
    assert {n: type(m) for n, m in norms.items()} == classes


def test_subclasses_of_a_norm_are_left_alone():
    class Own(nn.BatchNorm2d):
        pass

    model = nn.Sequential(Own(3), nn.LayerNorm(3), nn.BatchNorm2d(3))
    assert synchronise_norms(model) == 1
    assert type(model[0]) is Own


@pytest.mark.parametrize("mode", [True, False])
def test_in_one_process_a_swapped_norm_changes_no_bit(mode):
    model, swapped = build("saai-base").train(mode), build("saai-base").train(mode)
    synchronise_norms(swapped)
    batch = make_batch(1, p=2, k=2)
    arguments = (batch.images, batch.labels) if mode else (batch.images,)
    for net in (model, swapped):
        net.output = net(*arguments, cam_ids=batch.cams)
    first, second = (net.output[0] if mode else net.output for net in (model, swapped))
    assert torch.equal(first, second)
    for (key, a), b in zip(model.state_dict().items(), swapped.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_the_shares_of_a_loader_make_the_whole():
    class Numbers(torch.utils.data.Dataset):
        def __init__(self):
            self.loaded = []

        def __len__(self):
            return 11

        def __getitem__(self, index):
            self.loaded.append(index)
            return index

    data = Numbers()
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    assert [b.tolist() for b in own_batches(loader, 1, 4)] == [[2, 3], [10]]
    assert data.loaded == [2, 3, 10]
    shuffled = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
    assert len(list(own_batches(shuffled, 1, 4))) == 2
    assert len(data.loaded) == 3 + 11  # it had to be run through
    assert list(own_batches(iter("abcdef"), 2, 4)) == ["c"]
