"""Attaches MixER to any network, by the paths of its modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixer_plugin.adapters.base import Adapter, Call, Tap, children_in_a_row, submodule
from mixer_plugin.adapters.registry import register_adapter
from mixer_plugin.adapters.stages import trial
from mixer_plugin.errors import MixERValueError
from mixer_plugin.heads import clone_stage


@register_adapter
class GenericAdapter(Adapter):
    """Any CNN or vision transformer, given by the paths of its last stage and its embedding.

    A CNN: ``GenericAdapter("layer4", "avgpool")``. A transformer's stage is its last block and the
    norm behind it, its embedding the class token: ``GenericAdapter(("blocks.11", "norm"))`` (timm),
    ``GenericAdapter(("encoder.layers.encoder_layer_11", "encoder.ln"))`` (torchvision).

    Args:
        stage: path of the stage to clone per modality, or of modules that run one after the other
            and are cloned together.
        embedding: path of the module whose output is the erased embedding before the neck: [B, D],
            [B, D, 1, 1], or tokens [B, T, D], which are pooled as the related ones are. Default:
            ``pool`` where that is a path; the last module of the stage where it has several; else
            ``avgpool``.
        pool: path of the parameter-free module that turns a stage map into a feature, or a function
            of the map. Default: the class token (the first) of tokens, else ``embedding``.
        neck: path of a BatchNorm neck after the embedding, if the model has one.
        classifier: path of the identity classifier, from which the number of classes is read.
            Default: the last linear layer that takes the embedding.
        modality: name of the forward argument that holds the rows' modality (0 visible,
            1 infrared), or a function of the :class:`Call`; None if only the loop knows it, which
            then says ``mixer_loss(model, labels, modality)``.
        width: columns of the pooled feature, where they cannot be found out by a trial run.
        clone: copy what is read at once, because the model writes into it later.
        earlier: paths of the stages before ``stage``, first to last, for ``related_stages`` > 1.
            Default: those of the same name with lower numbers (layer3, blocks.10).

    Raises:
        MixERValueError: when wrapping, for a path that does not exist, a pooling with parameters,
            or a stage that cannot be sized.
    """

    name = "generic"

    def __init__(
        self,
        stage: str | Sequence[str] = "layer4",
        embedding: str | None = None,
        *,
        pool: str | Callable[[Tensor], Tensor] | None = None,
        neck: str | None = None,
        classifier: str | None = None,
        modality: str | Callable[[Call], Tensor] | None = None,
        width: int | None = None,
        clone: bool = False,
        earlier: Sequence[str] | None = None,
    ) -> None:
        self.parts = (stage,) if isinstance(stage, str) else tuple(stage)
        if not self.parts:
            raise MixERValueError("stage is empty; expected a path, or several.")
        several = self.parts[-1] if len(self.parts) > 1 else "avgpool"
        path = embedding or (pool if isinstance(pool, str) else several)
        self.stage = self.parts[0]
        # The stage's own last module is no pooling: it comes with the clones.
        self.pooling = class_token if pool is None and path in self.parts else pool or path
        self.classifier = classifier
        self.modality = modality
        self.width = width
        self.clone = clone
        self.earlier = None if earlier is None else tuple(earlier)
        self.erased_before = Tap(path, "output", clone)
        self.erased_after = Tap(neck or path, "output", clone)

    def matches(self, model: nn.Module) -> bool:
        """False: the caller gives the paths."""
        return False

    def taps(self, model: nn.Module) -> dict[str, Tap]:
        """As declared; what is read is copied at once where ``clone`` says so."""
        return {**super().taps(model), "stage_input": Tap(self.stage, "input", self.clone)}

    def stages(self, model: nn.Module) -> tuple[str, ...]:
        """As named, or by their numbers; the last path is that of the stage's first module."""
        if self.earlier is None:
            return super().stages(model)
        return (*self.earlier, self.stage)

    def stage_module(self, model: nn.Module) -> nn.Module:
        """The stage, several modules in a row as one."""
        modules = [submodule(model, path) for path in self.parts]
        return modules[0] if len(modules) == 1 else nn.Sequential(*modules)

    def stage_blocks(self, model: nn.Module) -> tuple[str, ...]:
        """Those of the first module of the stage, then of the next."""
        return tuple(block for path in self.parts for block in children_in_a_row(model, path))

    def validate(self, model: nn.Module) -> None:
        """Also checks the rest of the stage and the pooling."""
        super().validate(model)
        self.stage_module(model)
        for path in self.earlier or ():
            submodule(model, path)
        if isinstance(self.pooling, str):
            own = [name for name, _ in submodule(model, self.pooling).named_parameters()]
            if own:
                raise MixERValueError(
                    f"The pooling {self.pooling!r} has parameters ({own[0]}, …), which the related "
                    f"branch would share with the base. {self._other_pooling(model)}"
                )

    def _other_pooling(self, model: nn.Module) -> str:
        """Advice for a pooling with parameters: what works in its place."""
        stage = (*self.parts, cast(str, self.pooling))
        try:
            GenericAdapter(stage).widths(model)
        except MixERValueError:  # a neck or a layer that takes no stage map
            return (
                "Pass pool=, the function that makes a feature of the stage's map, such as "
                "pool=lambda x: x.mean((2, 3))."
            )
        return f"Make it part of the stage: stage={stage}."

    def classifier_path(self, model: nn.Module) -> str | None:
        """As named, or the last linear layer behind the stage that takes the embedding.

        None where several such layers have different numbers of columns.
        """
        if self.classifier is not None:
            return self.classifier
        found = self._takers(model)
        return next(reversed(found)) if len(set(found.values())) == 1 else None

    def num_classes(self, model: nn.Module) -> int:
        """Number of training identities; ``MixERValueError`` where several layers may tell it."""
        found = {} if self.classifier is not None else self._takers(model)
        if len(set(found.values())) > 1:
            layers = ", ".join(f"{name!r} ({columns} columns)" for name, columns in found.items())
            raise MixERValueError(
                f"Several linear layers take the embedding: {layers}. Name the classifier of "
                "identities: GenericAdapter(…, classifier=…)."
            )
        return super().num_classes(model)

    def _takers(self, model: nn.Module) -> dict[str, int]:
        """Columns of each linear layer behind the stage that takes the embedding.

        Where none is registered behind the stage, the last one of all.
        """
        width, _ = self.widths(model)
        own = tuple(f"{path}." for path in (*self.parts, "mixer"))
        names = [name for name, _ in model.named_modules()]
        found = {
            name: module.out_features
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module.in_features == width
            if not name.startswith(own)
        }
        behind = names[names.index(self.parts[-1]) :]
        return {name: found[name] for name in behind if name in found} or dict(
            [*found.items()][-1:]
        )

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Runs stage and pooling on tensors without data to see their width.

        The erased width is taken to be the related one.
        """
        if self.width is not None:
            return self.width, self.width
        stage = clone_stage(self.stage_module(model)).to("meta").eval()
        pooling = self.pooling
        if isinstance(pooling, str):
            pooling = clone_stage(submodule(model, pooling)).to("meta").eval()
        width, reasons = trial(stage, lambda x: pooling(stage(x)).flatten(1).shape[1])
        if width is not None:
            return width, width
        raise MixERValueError(
            f"The stage {', '.join(self.parts)!r} cannot be sized by a trial run "
            f"({'; '.join(reasons) or 'it has no convolution and no layer norm'}). "
            "Pass width=, the number of columns of its pooled feature."
        )

    def pool(self, model: nn.Module, stage_map: Tensor) -> Tensor:
        """The module at ``pool``, or the function, applied to the related map."""
        pooling = self.pooling
        if isinstance(pooling, str):
            pooling = submodule(model, pooling).forward  # not its hooks: they are the base's
        return pooling(stage_map).flatten(1)

    def row_modality(self, call: Call) -> Tensor | None:
        """From the named argument or the function; None leaves it to the loop."""
        if self.modality is None:
            return None
        if callable(self.modality):
            return self.modality(call)
        value = call.argument(self.modality)
        if value is None or torch.as_tensor(value).dim() == 0:
            given = "no argument" if value is None else f"one value ({value}) as"
            raise MixERValueError(
                f"The forward got {given} {self.modality!r}; the adapter reads the modality of "
                "each row from it. Pass a tensor [B] (0 visible, 1 infrared). Where it is "
                "a switch, as in model(visible, infrared, modal=0), give the adapter a function: "
                "modality=lambda call: torch.cat([torch.full((len(x),), m) for m, x in "
                "enumerate(call.args[:2])])."
            )
        return torch.as_tensor(value)

    def read(self, values, taps):  # type: ignore[no-untyped-def]
        """Flattens pooled maps [B, D, 1, 1] to features, and pools tokens [B, T, D]."""
        found = super().read(values, taps)
        for name in ("erased_before", "erased_after"):
            value = found[name]
            if value.dim() == 3:
                if isinstance(self.pooling, str):
                    raise MixERValueError(
                        f"The embedding {taps[name].path!r} gives tokens {list(value.shape)}. Pass "
                        "pool=, a function of tokens [B, T, D] to features [B, D]."
                    )
                value = self.pooling(value)
            found[name] = value.flatten(1)
        return found

    def embed(self, model: nn.Module, images: Tensor, modality: Tensor) -> Tensor:
        """The tapped embedding after the neck."""
        if isinstance(self.modality, str):
            model(images, **{self.modality: modality})
        else:
            model(images)
        return cast(Any, model).mixer.record.erased_after


def class_token(tokens: Tensor) -> Tensor:
    """The first token [B, D] of [B, T, D]."""
    return tokens[:, 0]
