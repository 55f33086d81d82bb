"""Adapters describe the structure of a foreign model to the plug-in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixer_plugin.errors import MixERRuntimeError, MixERValueError, closest
from mixer_plugin.releases import SYSU


@dataclass(frozen=True)
class Tap:
    """A place in the model whose tensor the plug-in reads during a forward.

    Attributes:
        path: dotted path of the sub-module.
        side: ``input`` (its first argument) or ``output``.
        clone: copy at once: the model later writes into this tensor.
    """

    path: str
    side: str = "output"
    clone: bool = False


@dataclass(frozen=True)
class Call:
    """One forward call of the wrapped model: its positional and its keyword arguments."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def argument(self, name: str) -> Any:
        """Value of a forward argument, by position or keyword; None where it keeps its default."""
        if name in self.kwargs:
            return self.kwargs[name]
        base = getattr(type(self.model), "mixer_base", type(self.model))
        names = list(inspect.signature(base.forward).parameters)[1:]
        position = names.index(name) if name in names else len(self.args)
        return self.args[position] if position < len(self.args) else None


class Adapter:
    """Describes one codebase; knows the structure of its model and never imports its package.

    A subclass sets the class attributes and overrides what differs. Shapes: B rows of a batch.

    Attributes:
        name: what ``wrap_with_mixer(adapter=…)`` and ``list_adapters`` call it.
        stage: dotted path of the stage that is cloned per modality.
        erased_before: where the erased feature before the neck is, [B, De].
        erased_after: where it is after the neck, [B, De].
        more_taps: further tensors that :meth:`pool` needs, by name.
        classifier: dotted path of the base's identity classifier.
        base_losses: terms that the base already optimises on the erased feature
            (``identity``, ``center_cluster``); they are not added again.
        one_modality_in_eval: the base's evaluation takes rows of one modality per forward.
    """

    name: str = ""
    stage: str = ""
    erased_before: Tap | None = None
    erased_after: Tap | None = None
    more_taps: Mapping[str, Tap] = {}
    classifier: str | None = None
    base_losses: frozenset[str] = frozenset()
    one_modality_in_eval: bool = False

    def matches(self, model: nn.Module) -> bool:
        """Whether the model has this codebase's structure (attribute paths, never class names)."""
        raise NotImplementedError

    def classifier_path(self, model: nn.Module) -> str | None:
        """Path of the identity classifier, if there is one."""
        return self.classifier

    def num_classes(self, model: nn.Module) -> int:
        """Number of training identities, read off the classifier.

        Raises:
            MixERValueError: if no classifier is known; pass ``num_classes=``.
        """
        path = self.classifier_path(model)
        if path is None:
            raise MixERValueError(
                f"The adapter {self.name!r} knows no classifier of this model. "
                "Pass num_classes= to wrap_with_mixer."
            )
        head = submodule(model, path)
        if not isinstance(getattr(head, "weight", None), Tensor):
            raise MixERValueError(
                f"{path!r} is a {type(head).__name__} without a weight. "
                "Pass num_classes= to wrap_with_mixer."
            )
        return len(cast(Tensor, head.weight))

    def stage_path(self, model: nn.Module) -> str:
        """Path of the stage, where it depends on the data-set variant of the model."""
        return self.stage

    def entry(self, model: nn.Module, path: str) -> str:
        """Path of the module whose input is that of the stage at ``path``: the stage's own.

        Where a network runs the blocks of a stage one by one, :func:`first_block`.
        """
        return path

    def stage_module(self, model: nn.Module) -> nn.Module:
        """The stage that is cloned."""
        return submodule(model, self.stage_path(model))

    def stages(self, model: nn.Module) -> tuple[str, ...]:
        """Paths of the base's stages from the first one to :meth:`stage_path`.

        Heads of ``related_stages`` > 1 are clones of the last of them, each called by
        :meth:`run_stage` on what the one before gives. What the base does between two stages
        (attention, …) is no part of the heads. By default by number: ``layer1``, … to ``layer4``.
        """
        path = self.stage_path(model)
        return (*numbered_before(model, path), path)

    def taps(self, model: nn.Module) -> dict[str, Tap]:
        """All tensors to read: ``stage_input``, ``erased_before``, ``erased_after`` and more."""
        assert self.erased_before is not None
        assert self.erased_after is not None
        return {
            "stage_input": Tap(self.entry(model, self.stage_path(model)), "input"),
            "erased_before": self.erased_before,
            "erased_after": self.erased_after,
            **self.more_taps,
        }

    def stage_blocks(self, model: nn.Module) -> tuple[str, ...]:
        """Paths of the blocks that the stage is: each takes what the one before it gives.

        A block is called as the stage is. By default the children of an ``nn.Sequential``, and one
        piece of any other module: what that runs, and in which order, only its own adapter knows.

        Raises:
            MixERValueError: if the adapter clones something else than the module at its stage path.
        """
        path = self.stage_path(model)
        if self.stage_module(model) is not submodule(model, path):
            raise MixERValueError(
                f"The adapter {self.name!r} clones another module than {path!r}, and does not say "
                'of which blocks it is. Use related_blocks="all" and related_fusion='
                '"concatenation", or override Adapter.stage_blocks.'
            )
        return children_in_a_row(model, path)

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Columns (De, Dr) of the erased and of the pooled related feature."""
        raise NotImplementedError

    def prepare_clone(self, stage: nn.Module, modality: int) -> None:
        """Called once on each new clone; freeze here what :meth:`run_stage` will never use.

        DistributedDataParallel waits for a gradient of every trainable parameter.

        Args:
            stage: the clone, of a stage or of its last block, all of it trainable.
            modality: what ``run_stage`` will be called with for it: 0 for the visible head and for
                a head that both modalities share, 1 for the infrared one.
        """

    def prepare_export(self, model: nn.Module) -> None:
        """Called on a copy to export; replace what picks rows by value, by ``torch.where``."""

    def run_stage(self, stage: nn.Module, x: Tensor, modality: int) -> Tensor:
        """Calls a clone of a stage on the rows of one modality (0 visible, 1 infrared).

        With ``related_blocks="last"`` it is a clone of the last block, on that block's input.
        """
        return stage(x)

    def pool(self, model: nn.Module, stage_map: Tensor) -> Tensor:
        """The base's own pooling of a stage map [B, C, H, W] → [B, Dr], its masks detached.

        An adapter that declares more taps gets what they read as keyword arguments of their names.
        """
        return stage_map.mean(dim=(2, 3))

    def row_modality(self, call: Call) -> Tensor | None:
        """[B] int64 (0 visible, 1 infrared) of this call's rows; None if only the loop knows."""
        raise NotImplementedError

    def reads(self, call: Call) -> bool:
        """Whether a forward has rows to read; MixER ignores others, such as those of prompts."""
        return True

    def labels(self, call: Call) -> Tensor | None:
        """[B] int64 labels where they reach the forward; None in the script family."""
        return None

    def adds_loss(self) -> str:
        """Where MixER's loss is added: ``forward``, which returns the loss; or the ``loop``."""
        return "loop"

    def with_loss(self, output: Any, total: Tensor, terms: Mapping[str, Tensor]) -> Any:
        """The training output of a forward that returns (loss, metrics), with MixER's loss added.

        Args:
            output: what the base's forward returned.
            total: MixER's loss, a scalar with gradient.
            terms: its parts by name, detached.
        """
        base, metrics = output
        return base + total, {**metrics, **terms}

    def embed(self, model: nn.Module, images: Tensor, modality: Tensor) -> Tensor:
        """The erased embedding [B, D] of images, as the base's own evaluation computes it.

        It may run the model more than once (mirrored images), on a wrapped or a bare model in eval
        mode. D may differ from De where evaluation concatenates more than training compares.
        """
        raise NotImplementedError

    def read(self, values: Mapping[str, list[Any]], taps: Mapping[str, Tap]) -> dict[str, Any]:
        """The tensor that counts, by name of the tap, out of one for each call of its module.

        Raises:
            MixERRuntimeError: if a tapped module did not run exactly once.
        """
        for name, calls in values.items():
            if len(calls) != 1:
                path = taps[name].path
                advice = (
                    "Use an adapter whose paths lie on the forward's way, or override Adapter.read."
                )
                if not calls and name == "stage_input":
                    advice = (
                        f"Where its children run one by one, name them: stage=('{path}.0', "
                        f"'{path}.1', …), and the embedding."
                    )
                raise MixERRuntimeError(
                    f"The module {path!r} (tap {name!r} of adapter {self.name!r}) ran "
                    f"{len(calls)} times in one forward; expected once. {advice}"
                )
        return {name: calls[0] for name, calls in values.items()}

    def validate(self, model: nn.Module) -> None:
        """Checks every path against the model, before anything is changed.

        Raises:
            MixERValueError: for a path that does not exist; names the closest one.
        """
        for tap in self.taps(model).values():
            submodule(model, tap.path)
        if self.classifier is not None:
            submodule(model, self.classifier)


class LossInForward(Adapter):
    """The ignite family: ``model(x, labels, cam_ids=…)`` returns ``(loss, metrics)``."""

    def row_modality(self, call: Call) -> Tensor | None:
        """From SYSU camera numbers: 3 and 6 are infrared; ``MixERValueError`` without them."""
        cams = call.argument("cam_ids")
        if cams is None:
            raise MixERValueError(
                f"{type(call.model).__name__}.forward got no cam_ids; the rows' modality is read "
                "from them (3 and 6 are infrared). Pass cam_ids=."
            )
        cams = torch.as_tensor(cams)
        return sum((cams == c) for c in SYSU.infrared).long()  # type: ignore[union-attr]

    def labels(self, call: Call) -> Tensor | None:
        """The forward's own ``labels`` argument."""
        return call.argument("labels")

    def adds_loss(self) -> str:
        """Inside the forward: the loop needs no edit."""
        return "forward"

    def embed(self, model: nn.Module, images: Tensor, modality: Tensor) -> Tensor:
        """``model(images, cam_ids=…)`` in eval mode; camera 3 stands for any infrared one."""
        return model(images, cam_ids=torch.where(modality == 1, 3, 1))


class LossInLoop(Adapter):
    """The script family: ``net(visible, infrared, …)``; labels stay in the loop.

    Attributes:
        switch: forward argument that chooses the modalities: 0 both, 1 visible, 2 infrared.
    """

    switch: str = "modal"
    one_modality_in_eval = True

    def row_modality(self, call: Call) -> Tensor | None:
        """Visible rows, then infrared ones, or one kind; ``MixERValueError`` without images."""
        chosen, rows = call.argument(self.switch) or 0, []
        for modality in (0, 1) if chosen == 0 else (chosen - 1,):
            name = f"x{modality + 1}"
            if (images := call.argument(name)) is None:
                raise MixERValueError(
                    f"{type(call.model).__name__}.forward got no {name}, by which the adapter "
                    f"{self.name!r} knows its rows. Override row_modality and embed_one."
                )
            rows.append(torch.full(images.shape[:1], modality))
        return torch.cat(rows)

    def embed(self, model: nn.Module, images: Tensor, modality: Tensor) -> Tensor:
        """Each modality's rows through its own stem, put back in order."""
        rows = [(modality == m).nonzero().flatten() for m in (0, 1)]
        found = [self.embed_one(model, images[r], m) for m, r in enumerate(rows) if len(r)]
        return torch.cat(found)[torch.cat(rows).argsort()]

    def embed_one(self, model: nn.Module, images: Tensor, modality: int) -> Tensor:
        """The embedding [B, D] of images of one modality (0 visible, 1 infrared)."""
        raise NotImplementedError


def submodule(model: nn.Module, path: str) -> nn.Module:
    """The sub-module at a dotted path.

    Raises:
        MixERValueError: if it does not exist; names the closest path.
    """
    try:
        return model.get_submodule(path)
    except AttributeError:
        parent = path.rpartition(".")[0]
        try:
            inside = model.get_submodule(parent)
        except AttributeError:
            inside, parent = model, ""
        options = [f"{parent}.{n}" if parent else n for n, _ in inside.named_children()]
        raise MixERValueError(
            f"No sub-module {path!r} in {type(model).__name__}.{closest(path, options)}"
        ) from None


def numbered_before(model: nn.Module, path: str) -> tuple[str, ...]:
    """Paths that end in a lower number than this one, and are sub-modules, in ascending order.

    They begin behind the last number that is missing.
    """
    name = path.rstrip("0123456789")
    found: list[str] = []
    for number in range(int(path[len(name) :] or 0)):
        earlier = f"{name}{number}"
        found = [*found, earlier] if has_submodules(model, earlier) else []
    return tuple(found)


def children_in_a_row(model: nn.Module, path: str) -> tuple[str, ...]:
    """Paths of the children of a plain ``nn.Sequential`` or ``nn.ModuleList``, or else the path."""
    module = submodule(model, path)
    if not runs_in_a_row(module):
        return (path,)
    return tuple(f"{path}.{name}" for name in module._modules) or (path,)


def runs_in_a_row(module: nn.Module) -> bool:
    """Whether a module's children are blocks that run one after the other, whoever calls them."""
    plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    return plain or isinstance(module, nn.ModuleList)


def first_block(model: nn.Module, path: str) -> str:
    """Path of the first module that runs inside a stage: their inputs are one tensor.

    It runs too where the network calls the children of an ``nn.Sequential`` one by one and never
    the sequential itself.
    """
    while (inner := children_in_a_row(model, path)[0]) != path:
        path = inner
    return path


def has_submodules(model: nn.Module, *paths: str) -> bool:
    """Whether every dotted path leads to a sub-module."""
    modules = dict(model.named_modules())
    return all(path in modules for path in paths)


def parts_and_mean(stage_map: Tensor, masks: Tensor | None) -> Tensor:
    """Mean of a related map under each of the base's part masks, detached, then over all of it.

    Args:
        stage_map: [B, D, H, W].
        masks: [B, P, H * W] or [B, P, H, W], as the base made them; None where it has no parts.

    Returns:
        [B, (P + 1) * D], parts first.
    """
    mean = stage_map.mean(dim=(2, 3))
    if masks is None:
        return mean
    pixels = stage_map.flatten(2).transpose(1, 2)
    masks = masks.detach().flatten(2).to(pixels.dtype)
    return torch.cat([(masks @ pixels / pixels.shape[1]).flatten(1), mean], dim=1)
