"""Trains the related heads alone, on a frozen model's cached maps: mode (f) without the loop."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mixer_plugin.attach import mixer_parameters
from mixer_plugin.checkpoints import base_state_dict
from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.errors import MixERRuntimeError, MixERValueError, check_least
from mixer_plugin.forward.mixed import bare_model, mixer_of
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.io.options import check_options, option
from mixer_plugin.io.torch_file import read_torch_file
from mixer_plugin.module import MixER
from mixer_plugin.probing.maps import CachedMaps
from mixer_plugin.run_card import mark_of

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """How heads are trained on cached maps: AdamW, linear warm-up, half a cosine down to zero.

    Attributes:
        p: Identities per batch.
        k: Images per identity and modality; a batch has 2·p·k rows.
        iterations: Optimizer steps. Too few give next to nothing.
        lr: Peak learning rate.
        warmup: Steps of linear warm-up.
        weight_decay: Weight decay of AdamW.

    Raises:
        MixERValueError: A value is out of its range.
    """

    p: int = option(8, minimum=1)
    k: int = option(4, minimum=1)
    iterations: int = option(800, minimum=1)
    lr: float = option(3e-3, minimum=0)
    warmup: int = option(50, minimum=0)
    weight_decay: float = option(5e-4, minimum=0)

    def __post_init__(self) -> None:
        check_options(self)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.iterations - self.warmup, 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


def train_heads(
    model: nn.Module,
    maps: CachedMaps,
    labels: Tensor | None = None,
    *,
    recipe: HeadRecipe | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> None:
    """Trains ``model.mixer`` in place; the base is not run and stays as it is.

    The losses are those of a loop around the frozen model (eq. 16 in mode "f"), from maps that were
    rounded to float16. A step is a function of (seed, step) and of what came before: a run
    continued from its checkpoint ends in the same bits. Nothing is drawn from the global random
    state.

    Args:
        model: ``wrap_with_mixer(model, "f", config=MixERConfig(frozen_base=True))``.
        maps: Maps that ``cache_maps`` made with this model's weights.
        labels: int64 [N] in [0, C), the identities of the maps' images; None: by their own ids, in
            ascending order.
        recipe: How they are trained; None: the defaults.
        seed: Seed of the batches.
        checkpoint: File that is written every ``checkpoint_every`` steps and after the last; if it
            exists, the training continues from it.
        checkpoint_every: Steps from one writing to the next, at least 1.
        on_step: Called with (step, loss) after each step, counted from 0.

    Raises:
        MixERError: The model is not wrapped so, the maps are of other weights, labels do not fit,
            ``checkpoint_every`` is below 1, or the checkpoint is another run's.
    """
    check_least("checkpoint_every", checkpoint_every)
    recipe = HeadRecipe() if recipe is None else recipe
    mixer = mixer_of(model)
    _check(model, mixer, maps)
    if labels is None:
        labels = torch.unique(maps.ids, return_inverse=True)[1]
    if len(labels) != len(maps):
        raise MixERValueError(f"Got {len(labels)} labels for maps of {len(maps)} images.")
    sampler = IdentitySampler(
        labels, maps.modality, p=recipe.p, k=recipe.k, iterations=recipe.iterations, seed=seed
    )
    device = next(mixer.parameters()).device
    parameters = mixer_parameters(model)
    optimizer = torch.optim.AdamW(
        parameters,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),  # one pass over the weights, not ten
    )
    path = None if checkpoint is None else Path(checkpoint)
    run = mark_of(
        {"labels": labels},
        version=_VERSION,
        maps=maps.mark,
        seed=seed,
        recipe=asdict(recipe),
        mixer=mixer.config.to_dict(),
        shapes={name: list(value.shape) for name, value in mixer.state_dict().items()},
    )
    start = 0 if path is None else _resume(path, run, mixer, optimizer)
    bare = bare_model(model)
    training = bare.training
    bare.train()  # a frozen base stays in eval mode
    try:
        for step in range(start, recipe.iterations):
            rows = sampler.batch(step)
            loss = _loss(bare, mixer, maps, rows, labels, seed, step, device)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done = step + 1
            if path is not None and (done % checkpoint_every == 0 or done == recipe.iterations):
                _save(path, run, mixer, optimizer, done)
            if on_step is not None:
                on_step(step, loss.detach())
    finally:
        bare.train(training)


def _loss(
    model: nn.Module,
    mixer: MixER,
    maps: CachedMaps,
    rows: Tensor,
    labels: Tensor,
    seed: int,
    step: int,
    device: torch.device,
) -> Tensor:
    drawn = np.random.default_rng([seed, 2, step]).integers(maps.copies, size=len(rows))
    record = maps.record(rows + len(maps) * torch.from_numpy(drawn), device)
    with torch.enable_grad():
        return mixer.loss_on(mixer.with_related(model, record), labels[rows].to(device))[0]


def _check(model: nn.Module, mixer: MixER, maps: CachedMaps) -> None:
    if mixer.mode != "f" or not mixer.config.frozen_base or not mixer.heads:
        raise MixERValueError(
            f"The model is wrapped with mode={mixer.mode!r}, frozen_base="
            f"{mixer.config.frozen_base}, {len(mixer.heads)} heads; heads are trained on cached "
            'maps with wrap_with_mixer(model, "f", config=MixERConfig(frozen_base=True)).'
        )
    if mark_of(dict(base_state_dict(model))) != maps.weights:
        raise MixERValueError(
            "The maps are of other weights than this model's. Cache them again with cache_maps."
        )
    taps = {name: str(tap) for name, tap in mixer.tapped(bare_model(model)).items()}
    if not taps.items() <= maps.taps.items():
        raise MixERValueError(
            "The maps were read elsewhere than these heads read the model: other related_stages, "
            "related_blocks or related_fusion. Cache them again with cache_maps."
        )


def _save(path: Path, run: str, mixer: MixER, optimizer: torch.optim.Optimizer, step: int) -> None:
    values = {
        "version": _VERSION,
        "run": run,
        "step": step,
        "mixer": mixer.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_write(path) as file:
        torch.save(values, file)


def _resume(path: Path, run: str, mixer: MixER, optimizer: torch.optim.Optimizer) -> int:
    """Number of steps that a checkpoint has made; 0 if there is none."""
    if not path.exists():
        return 0
    advice = "Delete it to begin anew."
    values = read_torch_file(path, "a checkpoint", advice, MixERRuntimeError)
    if not isinstance(values, dict) or values.get("run") != run:
        raise MixERValueError(
            f"{path} is of another training of heads: other maps, labels, recipe, seed or "
            "configuration. Delete it to begin anew, or name another file."
        )
    mixer.load_state_dict(values["mixer"])
    optimizer.load_state_dict(values["optimizer"])
    return int(values["step"])
