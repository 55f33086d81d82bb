"""A store of crops, whose features a small network has made, and the options of that network."""

from __future__ import annotations

import pytest

from mixer_plugin.cli import main
from tests.unit.extraction.own_folders import crops

NETWORK = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 3, 2)
        self.pool = nn.AdaptiveAvgPool2d((4, 2))

    def forward(self, images):
        return self.pool(self.first(images).relu()).flatten(1)


build = Small
"""
MODEL = ("--model", "small_network:build", "--bare", "--embed", "output", "--size", "32x16")


def crops_in_a_store(folder):
    """Makes ``crops`` (12 images), the network's module and the store ``gate`` in a folder."""
    (folder / "small_network.py").write_text(NETWORK)
    crops(folder / "crops", persons=3, each=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        assert main(["extract", *MODEL, "--images", "crops", "--out", "crops.npz"]) == 0
        assert main(["store", "add", "gate", "crops.npz"]) == 0
    return folder
