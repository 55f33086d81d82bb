"""What MixER adds to a network: related heads, the modality classifier, gradient reversal."""

from __future__ import annotations

import contextlib
import copy
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return -scale.to(grads[0].dtype) * grads[0], None


def reverse_gradient(x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Identity in the forward pass, gradient times ``-scale`` in the backward (Ganin 2015)."""
    return _Reverse.apply(x, torch.as_tensor(scale, device=x.device))


def counter_dropout(x: Tensor, rate: float, counter: Tensor) -> Tensor:
    """Dropout whose mask is a hash of (counter, position): it draws from no random state.

    The base network's random numbers stay what they are without the plug-in, and a checkpoint that
    holds the counter resumes with the same masks.

    Args:
        x: any shape.
        rate: probability of a zero, in [0, 1).
        counter: int64 scalar tensor; another value gives another mask.
    """
    if rate == 0:
        return x
    h = torch.arange(x.numel(), device=x.device) + counter * 0x9E3779B1
    for factor in (0x45D9F3B, 0x119DE1F3):  # products stay below 2^63
        h = ((h ^ (h >> 16)) & 0xFFFFFFFF) * factor & 0xFFFFFFFF
    keep = (h ^ (h >> 16)) >= int(rate * 2**32)
    return x * keep.view_as(x) / (1 - rate)


@contextlib.contextmanager
def private_random(device: torch.device, seed: int) -> Iterator[Callable[[], bool]]:
    """Runs a block on its own random numbers and puts all global states back.

    These are PyTorch's on the CPU and on the device, NumPy's and Python's.

    Yields:
        A function that tells whether the block has drawn a number so far.
    """
    cuda = device.type == "cuda"
    python, numpy = random.getstate(), np.random.get_bit_generator()  # type: ignore[attr-defined]
    own = np.random.PCG64(seed)
    try:
        np.random.set_bit_generator(own)  # type: ignore[attr-defined]
        random.seed(seed)
        with torch.random.fork_rng(devices=[device] if cuda else []):
            torch.default_generator.manual_seed(seed)
            if cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            start = _random_states(device, own)
            yield lambda: _random_states(device, own) != start
    finally:
        random.setstate(python)
        np.random.set_bit_generator(numpy)  # type: ignore[attr-defined]


def _random_states(device: torch.device, numpy: np.random.PCG64) -> tuple[object, ...]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.empty(0)
    of_torch = [state.numpy().tobytes() for state in (torch.get_rng_state(), cuda)]
    return (*of_torch, repr(numpy.state), random.getstate())


def clone_stage(stage: nn.Module) -> nn.Module:
    """Copies a stage with its weights and buffers, all trainable.

    Of its hooks the copy keeps those that compute a weight (weight_norm, spectral_norm, pruning).
    """
    # A computed weight has a graph, which no copy can take along.
    computed = {
        id(value): value.detach().clone()
        for module in stage.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    clone = copy.deepcopy(stage, computed)
    for module in clone.modules():
        weights = [hook for hook in module._forward_pre_hooks.values() if _makes_weight(hook)]
        for name in _HOOKS:
            if getattr(module, name, None):
                setattr(module, name, OrderedDict())
        for hook in weights:
            module.register_forward_pre_hook(hook)
    return clone.requires_grad_(True).train()


def _makes_weight(hook: object) -> bool:
    return isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod))


class BesideBase(nn.Module):
    """A part of a related head that also reads the base's own stage map of the same images.

    ``part(x, stage_map)``: ``x`` is the stage's input, or what the part before has made of it.
    """


class LowRankPath(BesideBase):
    """The base's own stage map plus a low-rank path on the stage's input: a light related stage.

    The last norm's weight starts at zero (Goyal et al., 2017, sec. 5.1), so that the map starts as
    the base's own.

    Args:
        inputs: channels of the stage's input.
        outputs: channels of the stage's map.
        rank: channels inside; 0: a quarter of the input's, at least 4.
    """

    def __init__(self, inputs: int, outputs: int, rank: int = 0) -> None:
        super().__init__()
        rank = rank or max(inputs // 4, 4)
        self.reduce = _conv_and_norm(inputs, rank, 1)
        self.mix = _conv_and_norm(rank, rank, 3)
        self.expand = _conv_and_norm(rank, outputs, 1)
        nn.init.zeros_(self.expand[1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor, stage_map: Tensor) -> Tensor:
        """[B, inputs, H, W] and the base's [B, outputs, h, w] → [B, outputs, h, w]."""
        path = F.relu(self.reduce(x))
        height, width = stage_map.shape[2:]
        if path.shape[2:] != (height, width):
            path = F.adaptive_avg_pool2d(path, (height, width))
        return stage_map + self.expand(F.relu(self.mix(path)))


def _conv_and_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class CrossAttention(BesideBase):
    """A related map plus what each of its positions finds in the base's own, the erased map.

    Before pooling, as in the paper's sec. B.3.4, which leaves open how: queries are made of the
    related map, keys and values of the erased one, each behind a norm (Vaswani et al., 2017). The
    output projection starts at zero, so that the map starts as the related head's own.

    Inside there are a quarter of the channels, in heads of 64: on ResNet-50 both modalities' parts
    are 8.4 million parameters, and Table B.5 has 9.2 million more than without.

    Args:
        channels: C of both maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(channels // 4, 4)
        self.heads = max(width // 64, 1)
        width -= width % self.heads
        self.norm_related = nn.LayerNorm(channels)
        self.norm_erased = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, width, bias=False)
        self.key_value = nn.Linear(channels, 2 * width, bias=False)
        self.out = nn.Linear(width, channels, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, stage_map: Tensor) -> Tensor:
        """The related and the base's map, both [B, C, H, W] or tokens [B, T, C] → as ``x``."""
        query = self._in_heads(self.query(self.norm_related(_places(x))))
        erased = self.key_value(self.norm_erased(_places(stage_map)))
        key, value = (self._in_heads(part) for part in erased.chunk(2, dim=2))
        found = F.scaled_dot_product_attention(query, key, value)
        found = self.out(found.transpose(1, 2).flatten(2))
        return x + (found if x.dim() == 3 else found.transpose(1, 2).reshape(x.shape))

    def _in_heads(self, x: Tensor) -> Tensor:
        """[B, T, width] to [B, heads, T, width / heads]."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


def _places(x: Tensor) -> Tensor:
    """A map's positions, or tokens, [B, T, C]."""
    return x if x.dim() == 3 else x.flatten(2).transpose(1, 2)


class Chain(nn.ModuleList):
    """Stages that related heads clone together and run one after the other."""


def parts_of(stage: nn.Module) -> tuple[nn.Module, ...]:
    """What runs one after the other: one stage, or those of a chain."""
    return tuple(stage) if isinstance(stage, Chain) else (stage,)


class RelatedHead(nn.Module):
    """The branch of one modality: stages of its own and its own BatchNorm neck."""

    def __init__(
        self, stage: nn.Module, width: int, attention: CrossAttention | None = None
    ) -> None:
        """Clones ``stage`` (the base's, a part of it, several as a chain, or a low-rank path).

        ``width`` is the number of columns of the pooled feature; ``attention`` is cloned, too.
        """
        super().__init__()
        self.stage = clone_stage(stage)
        self.attention = None if attention is None else clone_stage(attention)
        self.norm = nn.BatchNorm1d(width)
        self.norm.bias.requires_grad_(False)  # as in the necks of the six public codebases

    def parts(self) -> tuple[nn.Module, ...]:
        """What it runs one after the other."""
        parts = parts_of(self.stage)
        return parts if self.attention is None else (*parts, self.attention)

    @contextlib.contextmanager
    def batch_of(self, rows: int) -> Iterator[None]:
        """Protects BatchNorm's statistics from a batch of one row, which has no variance."""
        training = [m for m in self.modules() if m.training] if rows < 2 else []
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in training or eval mode as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class LinearHead(nn.Module):
    """A bias-free linear map, the form of every classifier in the authors' code."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Draws the weight, [outputs, inputs], from N(0, 0.001²), as re-ID classifiers do."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.normal_(self.weight, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] → [B, outputs], in the input's precision: losses are float32 on any model."""
        return F.linear(x, self.weight.to(x.dtype))


def modality_classifier(inputs: int, hidden: int) -> nn.Module:
    """[B, inputs] → [B, 2]: bias-free and linear, or with one hidden layer of that many units."""
    if not hidden:
        return LinearHead(inputs, 2)
    first = LinearHead(inputs, hidden)
    # At the classifiers' usual 0.001 hardly a gradient would pass two layers.
    nn.init.kaiming_normal_(first.weight)
    return nn.Sequential(first, nn.ReLU(), LinearHead(hidden, 2))
