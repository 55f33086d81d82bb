"""Attaches MixER to a model in place, and takes it off again without a trace."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters import Adapter, resolve_adapter
from mixer_plugin.adapters.evaluation_call import evaluation_trouble
from mixer_plugin.adapters.stages import (
    attended_channels,
    check_stages,
    stage_channels,
    stage_parts,
)
from mixer_plugin.adapters.thin import thinned
from mixer_plugin.checkpoints import load_base_state_dict, load_checkpoint
from mixer_plugin.config import MixERConfig, check_mode
from mixer_plugin.errors import (
    MixERRuntimeError,
    MixERTypeError,
    MixERValueError,
    MixERWarning,
)
from mixer_plugin.forward.mixed import (
    RESET,
    MixedModule,
    bare_model,
    freeze,
    mixed_class,
    mixer_of,
)
from mixer_plugin.forward.record import MixERFeatures
from mixer_plugin.forward.refuse import refuse
from mixer_plugin.forward.self_check import SelfCheck
from mixer_plugin.forward.taps import TAP_HOOKS, add_tap
from mixer_plugin.heads import CrossAttention, LowRankPath, RelatedHead, private_random
from mixer_plugin.losses import unit
from mixer_plugin.module import MixER


def wrap_with_mixer(
    model: nn.Module,
    mode: str = "e2e",
    *,
    num_classes: int | None = None,
    adapter: str | Adapter | type[Adapter] = "auto",
    config: MixERConfig | str | os.PathLike[str] | None = None,
    seed: int | None = None,
) -> nn.Module:
    """Attaches the MixER heads and losses to a model, in place, and returns the same object.

    Wrap first, then make the optimizer, then DDP, then ``torch.compile``. The model keeps its type,
    its parameters' names and order, and its eval outputs; the heads are registered last, as
    ``model.mixer``. Nothing is drawn from the global random state.

    Args:
        model: a bare ``nn.Module`` (not inside DataParallel, DDP, FSDP or ``torch.compile``).
        mode: ``e2e`` (gradients reach the base) or ``f`` (exactly none does).
        num_classes: training identities; read off the model's classifier by default.
        adapter: ``auto`` (by structure), a registered name, or an :class:`Adapter`.
        config: options, or the path of a YAML file of them.
        seed: of the new weights; by default derived, without drawing, from PyTorch's own seed.

    Raises:
        MixERError: for a wrong argument, an unknown structure, or a second wrap; the model is then
            as it was.
        OSError: if the YAML file cannot be read.

    Example:
        >>> from mixer_plugin.baselines import create_baseline
        >>> model = create_baseline("saai-base", num_classes=10, trunk="small")
        >>> wrap_with_mixer(model, mode="f") is model
        True
    """
    refuse(model)
    if isinstance(config, (str, os.PathLike)):
        config = MixERConfig.from_yaml(config)
    config = MixERConfig() if config is None else config
    if not isinstance(config, MixERConfig):
        raise MixERTypeError(f"config is {config!r}; expected a MixERConfig or a YAML path.")
    check_mode(mode, config)
    found = resolve_adapter(model, adapter)
    found.validate(model)
    if trouble := evaluation_trouble(model, found):
        warnings.warn(f"Training works, evaluation will not. {trouble}", MixERWarning, stacklevel=2)
    classes = found.num_classes(model) if num_classes is None else num_classes
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise MixERValueError(f"num_classes is {classes!r}; expected a whole number >= 1.")
    widths = found.widths(model)
    if widths[0] % widths[1]:
        raise MixERValueError(
            f"The erased feature has {widths[0]} columns and the related one {widths[1]}; "
            "expected a multiple. Check the adapter's widths and pool."
        )
    check_stages(found, model, config)
    seed = torch.initial_seed() % 2**31 if seed is None else seed
    mixer = _make_mixer(model, found, classes, config, mode, seed)
    mixer.train(model.training)

    # From here on nothing is expected to fail; if it does, everything is undone.
    before = list(model.state_dict())
    undo: list[Callable[[], None]] = []
    try:
        undo += (add_tap(model, tap) for tap in dict.fromkeys(mixer.tapped(model).values()))
        model.add_module("mixer", mixer)
        model.__class__ = mixed_class(type(model))  # type: ignore[arg-type]
        if [k for k in model.state_dict() if not k.startswith("mixer.")] != before:
            raise MixERRuntimeError("Attaching changed the model's own state-dict keys.")
    except BaseException:
        for remove in undo:
            remove()
        model._modules.pop("mixer", None)
        model.__class__ = getattr(type(model), "mixer_base", type(model))
        raise
    if config.frozen_base:
        freeze(model)
    return model


def restore(
    build: Callable[[], nn.Module],
    checkpoint: Mapping[str, Any] | str | os.PathLike[str],
    mode: str | None = "e2e",
    *,
    num_classes: int | None = None,
    adapter: str | Adapter | type[Adapter] = "auto",
    config: MixERConfig | str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Builds, wraps and loads a trained model: what a second process needs.

    Args:
        build: makes the network as the training's code does, wrapped or not.
        checkpoint: the loop's own file, as ``split_checkpoint`` takes it.
        mode: of the wrap, ``e2e`` or ``f``; None: no MixER, and heads in the file are passed over.
        num_classes: of ``wrap_with_mixer``, as in the training.
        adapter: likewise.
        config: likewise.

    Returns:
        The model in eval mode, on the CPU or wherever ``build`` put it.

    Raises:
        OSError: if the file cannot be opened.
        MixERError: if no adapter fits, or the checkpoint does not fit the model.
    """
    model = build()
    if mode is None:
        load_base_state_dict(model, checkpoint)
        return model.eval()
    if not isinstance(bare_model(model), MixedModule):
        options = {"num_classes": num_classes, "adapter": adapter, "config": config}
        wrap_with_mixer(model, mode, seed=0, **options)  # type: ignore[arg-type]
    load_checkpoint(model, checkpoint)
    return model.eval()


def reset_heads(model: nn.Module) -> nn.Module:
    """Clones the heads anew from the base's stage as it is now, and returns the same model.

    For heads that were cloned before the base got its weights, by a checkpoint loaded after
    ``wrap_with_mixer`` or by training. What the heads have learned is lost. Their parameters stay
    the same objects, so that an optimizer keeps them; what it remembers of them is not reset.

    Raises:
        MixERTypeError: if the model is not wrapped.
    """
    mixer, bare = mixer_of(model), bare_model(model)
    fresh = _make_mixer(
        bare, mixer.adapter, mixer.num_classes, mixer.config, mixer.mode, mixer.seed
    )
    counter = mixer.counter.clone()  # the steps of the warm-up were taken
    mixer.load_state_dict(fresh.state_dict())
    mixer.counter.copy_(counter)
    mixer.check = SelfCheck(mixer)
    return model


def _make_mixer(
    model: nn.Module,
    adapter: Adapter,
    num_classes: int,
    config: MixERConfig,
    mode: str,
    seed: int,
) -> MixER:
    stage, stage_taps = stage_parts(adapter, model, config)
    stage = thinned(stage, config.related_width)
    channels = stage_channels(adapter, model) if config.related_blocks == "low-rank" else None
    attends = config.related_fusion == "cross-attention"
    attended = attended_channels(adapter, model) if attends else None
    like = next((p for p in stage.parameters()), torch.empty(0))
    widths = adapter.widths(model)
    with private_random(like.device, seed):
        part = stage if channels is None else LowRankPath(*channels, config.related_rank)
        attention = None if attended is None else CrossAttention(attended)
        return MixER(
            lambda: RelatedHead(part, widths[1], attention),
            stage_taps,
            adapter=adapter,
            widths=widths,
            num_classes=num_classes,
            config=config,
            mode=mode,
            seed=seed,
            like=like,
        )


def unwrap_mixer(model: nn.Module) -> nn.Module:
    """Takes MixER off: class, keys, hooks and attributes are as before the wrap.

    The base's weights stay as they were trained. A base frozen by ``frozen_base`` stays in eval
    mode until its next ``train()``.

    Returns:
        The object that was wrapped; of a model inside DDP or ``torch.compile``, the one within.

    Raises:
        MixERTypeError: if the model is not wrapped.
        MixERRuntimeError: if another library has changed its class or its forward since.
    """
    mixer = mixer_of(model)
    bare = bare_model(model)
    if type(bare) is not mixed_class(bare.mixer_base):
        raise MixERRuntimeError(
            f"The model's class is {type(bare).__name__} now: another library, such as FSDP, has "
            "changed it since the wrap. Save base_state_dict(model) and load it into a new model."
        )
    patched = vars(bare).get("forward")
    if patched is not None and getattr(patched, "__func__", None) is not MixedModule.forward:
        raise MixERRuntimeError(
            "model.forward was set on the object after the wrap, and calls MixER. Take that off "
            "first, as accelerator.unwrap_model(model, keep_fp32_wrapper=False) or "
            "del model.forward does."
        )
    vars(bare).pop("forward", None)
    for tap in mixer.tapped(bare).values():
        _remove_hooks(bare.get_submodule(tap.path))
    bare._modules.pop("mixer")
    bare.__class__ = type(bare).mixer_base  # type: ignore[attr-defined]
    return bare


def _remove_hooks(module: nn.Module) -> None:
    """Removes our hooks by identity, since copies and unpickled models have no handles."""
    for name in ("_forward_pre_hooks", "_forward_hooks"):
        ours = [key for key, hook in getattr(module, name).items() if hook in TAP_HOOKS]
        for notes in (name, f"{name}_with_kwargs", f"{name}_always_called"):
            for key in ours:
                getattr(module, notes, {}).pop(key, None)


def mixer_loss(model: nn.Module, labels: Tensor, modality: Tensor | None = None) -> Tensor:
    """Returns the MixER loss of the last training forward.

    For loops that compute their loss outside the model (DDAG, DEEN, SGEIL, a generic one, or heads
    trained on a frozen base): ``loss = loss + mixer_loss(net, labels)``. The single terms are in
    ``model.mixer.terms``.

    Args:
        model: the wrapped model.
        labels: [B] int64 identities in [0, num_classes), in the forward's row order; among
            pseudo-labels (``model.mixer.set_num_classes``) also -1, for a row that no term counts.
        modality: [B] int64 (0 visible, 1 infrared) where the forward does not know it.

    Returns:
        float32 scalar.

    Raises:
        MixERError: without a training forward, twice for one forward, if the base's forward already
            adds the loss, or for labels or modality that do not fit.
    """
    mixer = mixer_of(model)
    if mixer.adds_loss_in_forward:
        raise MixERRuntimeError(
            f"The adapter {mixer.adapter.name!r} adds the MixER loss inside the forward already. "
            "Leave mixer_loss out of the loop."
        )
    if mixer.record is not None and not mixer.training:
        raise MixERRuntimeError(
            "The last forward ran in eval mode. Call model.train() before the forward whose loss "
            "you want."
        )
    return mixer.loss(labels, modality, model=bare_model(model))[0]


def mixer_features(model: nn.Module) -> MixERFeatures:
    """Erased, related and fused features of the last forward that MixER read.

    That is the last training forward, or the last one inside ``with model.mixer.matching():``.

    Raises:
        MixERError: if the model is not wrapped, there is no such forward, the rows' modality is not
            known, or no related head ran.
    """
    mixer = mixer_of(model)
    record = mixer.complete(bare_model(model), None)
    assert record.modality is not None
    if record.related_after is None:
        why = "matching(heads=False) runs no related head. Leave heads=False out."
        if not mixer.heads:
            why = f"control={mixer.config.control!r} has no head. Use extract_features."
        raise MixERRuntimeError(f"The last forward has no related feature: {why}")
    erased, related = record.erased_after, record.related_after
    return MixERFeatures(
        erased=erased,
        related=related,
        fused=torch.cat([unit(erased.float()), unit(related.float())], dim=1),
        modality=record.modality,
        rows=torch.arange(len(erased), device=erased.device),
    )


def mixer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The plug-in's trainable parameters, for their own clipping or optimizer group."""
    return [p for p in mixer_of(model).parameters() if p.requires_grad]


def base_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The base model's trainable parameters.

    In mode ``f``, clip these and :func:`mixer_parameters` apart: one joint norm would let the
    heads' gradients scale the base's.
    """
    own = {id(p) for p in mixer_of(model).parameters()}
    return [p for p in bare_model(model).parameters() if p.requires_grad and id(p) not in own]


def mixer_param_groups(model: nn.Module, lr: float, **options: Any) -> list[dict[str, Any]]:
    """Optimizer groups of the heads: ``optimizer.add_param_group(mixer_param_groups(net, lr)[0])``.

    Args:
        model: the wrapped model.
        lr: learning rate.
        **options: anything else the optimizer's groups take (weight_decay, …).
    """
    return [{"params": mixer_parameters(model), "lr": lr, **options}]


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Looks for the heads in an optimizer.

    Returns:
        The findings, none if all is well: heads frozen, missing, in two groups, or clones of a
        stage that has changed since; or heads at another learning rate than the base's classifier
        (public scripts give modules they do not know a tenth of it).
    """
    mixer = mixer_of(model)
    frozen = mixer.check.frozen(mixer)
    names = {id(p): n for n, p in mixer.named_parameters() if p.requires_grad}
    rates: dict[int, list[float]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates.setdefault(id(parameter), []).append(group["lr"])
    findings = []
    if frozen:
        findings.append(
            f"{len(frozen)} of {len(frozen) + len(names)} MixER parameters do not require a "
            f"gradient ({frozen[0]}, …): they will not train. A loop that freezes parameters by "
            "name must leave those under mixer. alone."
        )
    missing = [n for i, n in names.items() if i not in rates]
    if missing:
        findings.append(
            f"{len(missing)} of {len(names)} MixER parameters are in no optimizer group "
            f"({missing[0]}, …): they will not train. Make the optimizer after wrapping, or add "
            "mixer_param_groups(model, lr)[0] with optimizer.add_param_group."
        )
    doubled = [n for i, n in names.items() if len(rates.get(i, ())) > 1]
    if doubled:
        findings.append(
            f"{len(doubled)} MixER parameters are in more than one optimizer group "
            f"({doubled[0]}, …): they would be stepped twice."
        )
    bare = bare_model(model)
    if mixer.check.stale(mixer, mixer.cloned(bare)):
        findings.append(f"The base's stage has changed since wrap_with_mixer cloned it. {RESET}")
    path = mixer.adapter.classifier_path(bare)
    if path is not None:
        classifier = bare.get_submodule(path)
        base = [lr for p in classifier.parameters() for lr in rates.get(id(p), [])]
        heads = {lr for i in names for lr in rates.get(i, [])}
        if base and heads and heads != {base[0]}:
            own = ", ".join(f"{rate:.4g}" for rate in sorted(heads))
            findings.append(
                f"The MixER heads train at learning rate {own}, "
                f"the base's classifier {path!r} at {base[0]:.4g}. If that is not "
                "meant, give the heads their own group with mixer_param_groups."
            )
    return findings
