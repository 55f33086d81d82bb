"""What an error of attaching advises is done here, and works."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixer_plugin import mixer_loss, mixer_parameters, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter, Tap, mean_pool
from mixer_plugin.errors import MixERError
from tests.contract.toys import PlainNet, make_batch


class BlockByBlock(PlainNet):
    """Calls the children of its stage one by one, as AGW does."""

    def forward(self, images, modality=None):
        x = self.drop(self.stem(images))
        for block in self.layer4:
            x = block(x)
        feature = self.neck(self.avgpool(x).flatten(1))
        return (feature, self.fc(feature)) if self.training else feature


class TwoStreams(PlainNet):
    """Takes both modalities' images, and a switch."""

    def forward(self, x1, x2, modal=0):
        x = torch.cat([x1, x2]) if modal == 0 else (x1 if modal == 1 else x2)
        return super().forward(x)


class Overwriting(PlainNet):
    """Writes into its embedding after it was read."""

    def forward(self, images, modality=None):
        pooled = self.avgpool(self.layer4(self.stem(images)))
        feature = self.neck(pooled.mul_(2).flatten(1))
        return (feature, self.fc(feature)) if self.training else feature


class PooledInForward(PlainNet):
    """Pools by a function, into a neck."""

    def forward(self, images, modality=None):
        feature = self.neck(self.layer4(self.stem(images)).mean((2, 3)))
        return (feature, self.fc(feature)) if self.training else feature


class Power(nn.Module):
    """Pooling with a parameter, on the stage's map."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3), keepdim=True).pow(1 / self.p)


def train(net, adapter, *images, rows="grouped", **told):
    batch = make_batch(rows=rows)
    model = wrap_with_mixer(net, adapter=adapter, num_classes=6).train()
    _, logits = model(*(images or (batch.images,)), **told)
    known = adapter.modality is not None or adapter.one_modality_in_eval
    loss = F.cross_entropy(logits, batch.labels)
    loss = loss + mixer_loss(model, batch.labels, None if known else batch.modality)
    loss.backward()
    assert all(p.grad is not None for p in mixer_parameters(model))


class Holder(nn.Module):
    """Holds blocks that the network runs, and has a forward that it never calls."""

    def __init__(self, blocks):
        super().__init__()
        for number, block in enumerate(blocks):
            self.add_module(str(number), block)

    def __iter__(self):
        return iter(self.children())

    def forward(self, x):
        for block in self:
            x = block(x)
        return x


def test_blocks_that_run_one_by_one_are_understood_or_named():
    train(BlockByBlock(), GenericAdapter("layer4", "avgpool"))
    net = BlockByBlock()
    net.layer4 = Holder(net.layer4)
    with pytest.raises(MixERError, match=r"ran 0 times.*stage=\('layer4.0', 'layer4.1', …\)"):
        train(net, GenericAdapter("layer4", "avgpool"))
    net = BlockByBlock()
    net.layer4 = Holder(net.layer4)
    train(net, GenericAdapter(tuple(f"layer4.{i}" for i in range(4)), "avgpool"))


def test_a_tap_copies_what_the_model_overwrites():
    with pytest.raises(MixERError) as refusal:
        train(Overwriting(), GenericAdapter("layer4", "avgpool"))
    assert "GenericAdapter(…, clone=True)" in str(refusal.value)
    train(Overwriting(), GenericAdapter("layer4", "avgpool", clone=True))
    own = GenericAdapter("layer4", "avgpool")
    own.erased_before = own.erased_after = eval(  # the advice, word by word
        re.search(r"Tap\(.*\)", str(refusal.value))[0], {"Tap": Tap}
    )
    train(Overwriting(), own)


def test_a_neck_that_pools_nothing_is_told_from_a_pooling_with_parameters():
    with pytest.raises(MixERError, match=r"such as mean_pool of"):
        train(PooledInForward(), GenericAdapter("layer4", "neck"))
    train(PooledInForward(), GenericAdapter("layer4", "neck", pool=mean_pool))
    net = PlainNet()
    net.avgpool = Power()
    with pytest.raises(MixERError, match=r"stage=\('layer4', 'avgpool'\)"):
        train(net, GenericAdapter("layer4", "avgpool"))
    train(net, GenericAdapter(("layer4", "avgpool"), "avgpool", pool=nn.Flatten()))


@pytest.mark.parametrize("told", [{}, {"modal": 0}])
def test_a_switch_is_no_modality_of_rows(told):
    batch = make_batch(rows="blocks")
    halves = batch.images[batch.modality == 0], batch.images[batch.modality == 1]
    with pytest.raises(MixERError) as refusal:
        train(TwoStreams(), GenericAdapter("layer4", "avgpool", modality="modal"), *halves, **told)
    advice = re.search(r"GenericAdapter\(…, inputs=\"(.*)\"\)", str(refusal.value))[1]
    adapter = GenericAdapter("layer4", "avgpool", inputs=advice)
    train(TwoStreams(), adapter, *halves, rows="blocks", **told)
