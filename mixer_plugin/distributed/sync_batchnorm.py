"""Batch normalisation over the rows of all processes, on any backend and device."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from mixer_plugin.distributed.gather import gather_rows, meeting
from mixer_plugin.distributed.processes import count_processes
from mixer_plugin.errors import MixERRuntimeError, MixERValueError


class SyncNorm:
    """First base of a synchronised norm's class; one process or eval mode is the plain norm."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C] or [B, C, …] to the same shape; the running statistics move by all rows'.

        Raises:
            MixERValueError: if all processes together have no more than one value per channel.
            MixERRuntimeError: if another process ended or did not come.
        """
        norm: Any = self
        if not norm.training or count_processes() == 1:
            return super().forward(input)  # type: ignore[misc]
        norm._check_input_dim(input)
        out, mean, variance, count = _Normalise.apply(input, norm.weight, norm.bias, norm.eps)
        if input.numel() // input.shape[1] < 2 and count < 2:
            raise MixERValueError(
                f"A synchronised norm got {int(count)} values per channel from all processes "
                "together; a variance needs two. Use a larger batch."
            )
        if norm.track_running_stats:
            _move_statistics(norm, mean, variance * count / (count - 1).clamp(min=1))
        return out


class SyncBatchNorm1d(SyncNorm, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with the training statistics of all processes' rows."""


class SyncBatchNorm2d(SyncNorm, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with the training statistics of all processes' rows."""


_SYNCED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
}


def synchronise_norms(model: nn.Module) -> int:
    """Lets every BatchNorm of a model take its training statistics over all processes' rows.

    PyTorch's own ``convert_sync_batchnorm`` makes new modules, which refuse CPU tensors. This swaps
    the class of ``nn.BatchNorm1d`` and ``nn.BatchNorm2d`` modules in place: parameters, buffers,
    state-dict keys, hooks and ``isinstance`` stay. Call it after ``wrap_with_mixer``, whose heads
    have norms too; before or after the optimizer and DDP. All processes must then run the same
    norms in each step; the related heads see to that themselves when a process lacks a modality.

    Returns:
        The number of norms swapped; subclasses of the two are left as they are.
    """
    return _swap(model, _SYNCED)


def unsynchronise_norms(model: nn.Module) -> int:
    """Takes :func:`synchronise_norms` back; returns the number of norms swapped."""
    return _swap(model, {synced: plain for plain, synced in _SYNCED.items()})


def _swap(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> int:
    found = [module for module in model.modules() if type(module) in classes]
    for module in found:
        module.__class__ = classes[type(module)]
    return len(found)


def rows_of_norms(modules: nn.Module, sizes: list[int], device: torch.device) -> list[int]:
    """How many rows the norms inside take their statistics over, in training.

    Args:
        modules: what holds the norms.
        sizes: numbers of rows that this process has for them.
        device: where to exchange them.

    Returns:
        The sizes summed over processes if the norms are synchronised, else the sizes themselves.

    Raises:
        MixERRuntimeError: if some of the norms are synchronised and some are not.
    """
    if count_processes() == 1:
        return sizes
    kinds = {isinstance(m, SyncNorm) for m in modules.modules() if isinstance(m, _BatchNorm)}
    if len(kinds) > 1:
        raise MixERRuntimeError(
            "Some norms of the related heads are synchronised and some are not. Call "
            "synchronise_norms(model) after wrap_with_mixer."
        )
    if True not in kinds:
        return sizes
    (everyones,) = gather_rows(torch.tensor([sizes], device=device))
    return [int(size) for size in everyones.sum(0)]


def _move_statistics(norm: Any, mean: Tensor, variance: Tensor) -> None:
    norm.num_batches_tracked.add_(1)
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)


class _Normalise(torch.autograd.Function):
    """Ioffe and Szegedy (2015), algorithm 1 and its gradients, with sums over processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance, count = _statistics(wide)
        scale = (variance + eps).rsqrt()
        out = (wide - _channels(mean, x)) * _channels(scale, x)
        if weight is not None:
            out = out * _channels(weight, x)
        if bias is not None:
            out = out + _channels(bias, x)
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.mark_non_differentiable(mean, variance, count)
        return out.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        wide = grad.to(mean.dtype)
        normed = (x.to(mean.dtype) - _channels(mean, x)) * _channels(scale, x)
        axes = _axes(x)
        own = torch.stack([wide.sum(axes), (wide * normed).sum(axes)])
        sums = own.clone()
        with meeting("the backward of a synchronised norm"):
            dist.all_reduce(sums)
        first, second = (_channels(row, x) for row in sums / count)
        grad_x = (wide - first - normed * second) * _channels(scale, x)
        # The processes' own sums: DDP takes the mean of these as of any parameter's.
        grad_weight = None if weight is None else own[1].to(weight.dtype)
        grad_bias = None if ctx.bias_dtype is None else own[0].to(ctx.bias_dtype)
        if weight is not None:
            grad_x = grad_x * _channels(weight, x)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None


def _statistics(wide: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance [C] and number of values per channel [1], over all processes.

    Means and centred squares are joined (Chan et al., 1979): a difference of sums of squares would
    cancel where a mean is far from zero.
    """
    values = wide.numel() // wide.shape[1]
    mean = wide.sum(_axes(wide)) / max(values, 1)
    squares = (wide - _channels(mean, wide)).square().sum(_axes(wide))
    own = torch.cat([mean.new_tensor([values]), mean, squares])
    pieces = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    with meeting("a synchronised norm"):
        dist.all_gather(pieces, own)
    counts, means, squared = torch.split(torch.stack(pieces), [1, len(mean), len(mean)], dim=1)
    count = counts.sum(0)
    joined = (counts * means).sum(0) / count.clamp(min=1)
    spread = squared.sum(0) + (counts * (means - joined).square()).sum(0)
    return joined, spread / count.clamp(min=1), count


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


def _channels(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.dim() - 2))
