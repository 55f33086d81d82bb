"""Toys, wrapped and trained."""

from __future__ import annotations

import dataclasses

import torch

from mixer_plugin import MixERConfig, wrap_with_mixer


def build(toy, seed=0):
    torch.manual_seed(seed)
    return toy.build()


def wrap(toy, model, mode="e2e", **options):
    if toy.options:
        config = options.get("config") or MixERConfig()
        options["config"] = dataclasses.replace(config, **toy.options)
    return wrap_with_mixer(model, mode, adapter=toy.adapter(), **options)


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("mixer.")}


def assert_equal(a, b):
    assert list(a) == list(b)
    for key in a:
        assert torch.equal(a[key], b[key]), key


def train(toy, model, optimizer, steps=9):  # into a second epoch
    torch.manual_seed(11)
    model.train()
    loop = toy.loop()
    for step in range(steps):
        if step % 7 == 0:
            loop.start_epoch(model, step // 7)
        batch = toy.batch(None)  # from the global random state, as loaders and augmentations do
        loss = toy.step_loss(model, batch, loop)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.stepped(model)


def traces(model):
    return {
        "class": type(model),
        "keys": list(model.state_dict()),
        "dict": {n: sorted(m.__dict__) for n, m in model.named_modules()},
        "hooks": {
            n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()
        },
    }
