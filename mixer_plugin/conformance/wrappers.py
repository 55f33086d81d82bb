"""What training loops put around a wrapped model: one step in it equals the plain one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixer_plugin.conformance.case import Case
from mixer_plugin.errors import MixERError

Wrapper = Callable[[Case, nn.Module], Tensor]  # takes one step, with its backward; gives the loss


class Broken(Exception):
    """An invariant does not hold; the message says how."""


def require(holds: bool, otherwise: str) -> None:
    """Raises :class:`Broken`."""
    if not holds:
        raise Broken(otherwise)


def plain(case: Case, model: nn.Module, around: nn.Module | None = None) -> Tensor:
    """One step of the codebase's loop, on what was put around the model."""
    loss = case.total(model, case.step(model if around is None else around))
    torch.autograd.backward(loss)
    return loss.detach()


def plain_bfloat16(case: Case, model: nn.Module) -> Tensor:
    """:func:`plain` under bfloat16 autocast."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = case.total(model, case.step(model))
    torch.autograd.backward(loss)
    return loss.detach()


def compiled(case: Case, model: nn.Module) -> Tensor:
    """``torch.compile``, its backward included, without a code generator."""
    torch.compiler.reset()
    fast: Any = torch.compile(model, backend="aot_eager")
    return plain(case, model, fast)


def stage_checkpointed(case: Case, model: nn.Module) -> Tensor:
    """The stage runs again in the backward."""
    stage = model.get_submodule(case.adapter.stage_path(model))
    cls = type(stage)

    def call(self: nn.Module, *x: Any) -> Any:
        return checkpoint(cls.__call__, self, *x, use_reentrant=False)

    stage.__class__ = type("Checkpointed", (cls,), {"__call__": call})
    return plain(case, model)


def wholly_checkpointed(case: Case, model: nn.Module) -> Tensor:
    """The whole model runs again in the backward."""
    return plain(case, model, _Checkpointed(model))


class _Checkpointed(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(self.module, *args, use_reentrant=False, **kwargs)


def data_parallel(case: Case, model: nn.Module) -> Tensor:
    """``DataParallel``; without a GPU it has one replica."""
    return plain(case, model, nn.DataParallel(model))


def distributed(case: Case, model: nn.Module) -> Tensor:
    """``DistributedDataParallel`` in one process."""
    from torch.nn.parallel import DistributedDataParallel

    with _process_group():
        # Public networks hold weights that no forward uses. find_unused_parameters would take the
        # heads for unused too where the loop adds their loss after the forward.
        return plain(case, model, DistributedDataParallel(model, static_graph=True))


@contextlib.contextmanager
def _process_group() -> Iterator[None]:
    import torch.distributed as dist

    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{folder}/rendezvous"
        dist.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def averaged(case: Case, model: nn.Module) -> Tensor:
    """A copy that follows the model by ``AveragedModel``, and runs in training itself."""
    from torch.optim.swa_utils import AveragedModel

    follower = AveragedModel(model)
    loss = plain(case, model)
    follower.update_parameters(model)
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    require(bool(torch.isfinite(plain(case, follower.module))), "An averaged copy does not run.")
    for old, p in zip(before, model.parameters(), strict=True):
        same = old is None or (p.grad is not None and torch.equal(old, p.grad))
        require(same, "An averaged copy trains the model that it follows.")
    return loss


def accelerated(case: Case, model: nn.Module) -> Tensor:
    """Hugging Face accelerate, bfloat16: prepared, stepped, taken out again."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    prepared, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    loss = case.total(model, case.step(prepared))
    accelerator.backward(loss)
    bare = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    require(bare is model, "accelerate gives another model back.")
    return loss.detach()


def in_lightning(case: Case, model: nn.Module) -> Tensor:
    """The model inside a LightningModule, stepped by its Trainer."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def training_step(self, *_: Any) -> Tensor:
            self.loss = case.total(self.net, case.step(self.net))
            return self.loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    module = Module()
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_steps=1, barebones=True)
    data: Any = [0]
    trainer.fit(module, torch.utils.data.DataLoader(data))
    return module.loss.detach()


WRAPPERS: Mapping[str, Wrapper] = {
    "torch.compile": compiled,
    "stage checkpointed": stage_checkpointed,
    "model checkpointed": wholly_checkpointed,
    "DataParallel": data_parallel,
    "DDP": distributed,
    "AveragedModel": averaged,
    "accelerate, bf16": accelerated,
    "Lightning": in_lightning,
}


def try_wrapper(case: Case, wrapper: Wrapper) -> str:
    """What came of one step in a wrapper: ``equal``, or why not.

    What the base itself cannot do there is not the plug-in's to break.

    Raises:
        Broken: if loss or gradients differ from the plain step's.
    """
    try:
        wrapper(case, case.bare())
    except ImportError as error:
        return f"not tried, {error.name} is not installed"
    except Exception as error:
        return f"fails without the plug-in ({type(error).__name__})"
    reference, tolerance = (plain_bfloat16, 5e-2) if wrapper is accelerated else (plain, 1e-3)
    for mode in ("e2e", "f"):
        alone, model = case.wrapped(mode), case.wrapped(mode)
        expected = reference(case, alone)
        try:
            got = wrapper(case, model)
        except MixERError as refusal:
            return f"refused: {refusal}"
        close = torch.allclose(expected, got, rtol=tolerance)
        require(close, f"{wrapper.__name__}, {mode}: loss {got.item()}, plain {expected.item()}.")
        grads = [p.grad for p in alone.parameters() if p.grad is not None]
        whole = torch.nn.utils.get_total_norm(grads)
        for (name, p), q in zip(alone.named_parameters(), model.parameters(), strict=True):
            require(
                (p.grad is None) == (q.grad is None)
                and (
                    p.grad is None
                    or q.grad is None
                    or bool((p.grad - q.grad).norm() <= tolerance * (p.grad.norm() + whole * 1e-2))
                ),
                f"{wrapper.__name__}, {mode}: the gradient of {name} differs from the plain one.",
            )
    return "equal"
