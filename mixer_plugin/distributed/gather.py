"""The rows of all processes, with gradient: losses that compare rows see the whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mixer_plugin.distributed.processes import count_processes as count_processes
from mixer_plugin.errors import MixERRuntimeError, MixERValueError


def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes, in the order of their ranks, with gradient.

    Every process of the default group calls this at the same point of its step. No loss needs
    scaling. With f_r the rows of process r of W, every process computes the same loss
    L(f_1, …, f_W; v) with parameters v behind the gather and w before it. The backward sums over
    processes what each has for f_r, which is W times dL/df_r, so process r holds
    W dL/df_r · df_r/dw for w and dL/dv for v. DDP's mean over processes makes of these
    sum_r dL/df_r · df_r/dw = dL/dw and dL/dv: what one process would have on the whole batch. A
    loss that differs between processes comes out as its mean over them, as in DDP without gather.

    Forward and backward are one collective each, besides the exchange of row counts, so that
    processes cannot get out of step between the tensors.

    Args:
        *tensors: [B_r, …], all with the same number of rows, which may differ between processes
            and may be zero; floating ones carry gradient, of any precision.

    Returns:
        One [B_1 + … + B_W, …] per tensor, of its dtype; with one process the tensors themselves.

    Raises:
        MixERValueError: the tensors differ in rows, or in columns between processes.
        MixERRuntimeError: another process ended or did not come.
    """
    rows = {tuple(tensor.shape[:1]) for tensor in tensors}
    if len(rows) != 1 or rows == {()}:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors) or "nothing"
        raise MixERValueError(
            f"gather_rows got {shapes}; expected tensors with the same number of rows."
        )
    if count_processes() == 1:
        return tensors
    gathered: tuple[Tensor, ...] = _Gather.apply(*tensors)
    return gathered


@contextlib.contextmanager
def meeting(name: str) -> Iterator[None]:
    """Explains a failed collective: another process has ended or did not take part.

    Args:
        name: what the processes meet in.

    Raises:
        MixERRuntimeError: in place of the backend's error.
    """
    try:
        yield
    except RuntimeError as error:
        raise MixERRuntimeError(
            f"Process {dist.get_rank()} of {dist.get_world_size()} waited in {name} for the "
            f"others, and one has ended or did not come ({error}). Look for the first error among "
            "the other processes. If there is none, they did not all take the same path through "
            "this step: a loss or a norm that one of them skips."
        ) from error


@contextlib.contextmanager
def main_buffers(model: nn.Module) -> Iterator[None]:
    """Within the block every process has the first one's buffers; afterwards its own again.

    DDP sends them at the beginning of a training forward. After it, the running statistics of each
    process follow its own rows.

    Raises:
        MixERRuntimeError: another process ended or did not come.
    """
    own = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.no_grad(), meeting("the buffers of the first process"):
            for buffer, _ in own:
                dist.broadcast(buffer, 0)
        yield
    finally:
        with torch.no_grad():
            for buffer, value in own:
                buffer.copy_(value)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        packed = torch.cat([_as_bytes(tensor) for tensor in tensors], dim=1)
        with meeting("gather_rows"):
            counts = _exchange_counts(packed)
            pieces = _exchange(packed, counts)
        whole = torch.cat([piece[:count] for piece, count in zip(pieces, counts, strict=True)])
        begin = sum(counts[: dist.get_rank()])
        ctx.own = slice(begin, begin + counts[dist.get_rank()])
        ctx.floating = [tensor.is_floating_point() for tensor in tensors]
        outputs = _from_bytes(whole, tensors)
        ctx.mark_non_differentiable(
            *(out for out, floating in zip(outputs, ctx.floating, strict=True) if not floating)
        )
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given = [grad for grad, floating in zip(grads, ctx.floating, strict=True) if floating]
        widest = torch.float32
        for grad in given:
            widest = torch.promote_types(widest, grad.dtype)
        # Half precision would lose what a sum over many processes needs.
        flat = torch.cat([_columns(grad).to(widest) for grad in given], dim=1)
        with meeting("the backward of gather_rows"):
            dist.all_reduce(flat)
        sizes = [_columns(grad).shape[1] for grad in given]
        own = iter(torch.split(flat[ctx.own], sizes, dim=1))
        return tuple(
            next(own).reshape(-1, *grad.shape[1:]).to(grad.dtype) if floating else None
            for grad, floating in zip(grads, ctx.floating, strict=True)
        )


def _columns(tensor: Tensor) -> Tensor:
    return tensor.flatten(1) if tensor.dim() > 1 else tensor[:, None]


def _as_bytes(tensor: Tensor) -> Tensor:
    """[B, …] to uint8 [B, bytes of a row]: one collective serves every dtype."""
    return _columns(tensor.detach()).contiguous().view(torch.uint8)


def _from_bytes(whole: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    sizes = [_as_bytes(tensor).shape[1] for tensor in like]
    return tuple(
        columns.clone(memory_format=torch.contiguous_format)
        .view(tensor.dtype)
        .view(len(whole), *tensor.shape[1:])
        for columns, tensor in zip(torch.split(whole, sizes, dim=1), like, strict=True)
    )


def _exchange_counts(packed: Tensor) -> list[int]:
    own = torch.tensor([packed.shape], device=packed.device)
    shapes = torch.cat(_all_gather(own)).tolist()
    if len({width for _, width in shapes}) > 1:
        raise MixERValueError(
            "gather_rows got rows of different sizes on the processes "
            f"({', '.join(str(width) for _, width in shapes)} bytes); expected tensors of the same "
            "widths and precision everywhere."
        )
    return [rows for rows, _ in shapes]


def _exchange(packed: Tensor, counts: list[int]) -> list[Tensor]:
    padding = packed.new_zeros(max(counts) - len(packed), packed.shape[1])
    return _all_gather(torch.cat([packed, padding]))


def _all_gather(tensor: Tensor) -> list[Tensor]:
    """One tensor per process, in the order of ranks."""
    # NCCL sends from GPUs alone; features of an extraction lie on the CPU.
    sent = tensor.cuda() if dist.get_backend() == "nccl" else tensor
    pieces = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, sent)
    return [piece.to(tensor.device) for piece in pieces]
