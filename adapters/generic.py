"""Attaches MixER to a network nobody has written an adapter for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixer_plugin.adapters.base import Adapter, Call, Tap, submodule
from mixer_plugin.adapters.registry import register_adapter
from mixer_plugin.errors import MixERValueError
from mixer_plugin.heads import clone_stage


@register_adapter
class GenericAdapter(Adapter):
    """Any CNN with a last stage and a pooling module, given by their paths.

    Args:
        stage: path of the stage to clone per modality.
        embedding: path of the module whose output, flattened, is the erased embedding before the
            neck. Default: ``pool``.
        pool: path of the parameter-free pooling that turns a stage map into a feature, or a
            function of the map. Default: ``embedding``; both default to ``avgpool``.
        neck: path of a BatchNorm neck after the embedding, if the model has one.
        classifier: path of the identity classifier, from which the number of classes is read.
        modality: name of the forward argument that holds the rows' modality (0 visible,
            1 infrared), or a function of the :class:`Call`; None if only the loop knows it, which
            then says ``mixer_loss(model, labels, modality)``.

    Raises:
        MixERValueError: when wrapping, for a path that does not exist or a stage that cannot be
            sized.
    """

    name = "generic"

    def __init__(
        self,
        stage: str = "layer4",
        embedding: str | None = None,
        *,
        pool: str | Callable[[Tensor], Tensor] | None = None,
        neck: str | None = None,
        classifier: str | None = None,
        modality: str | Callable[[Call], Tensor] | None = None,
    ) -> None:
        path = embedding or (pool if isinstance(pool, str) else None) or "avgpool"
        self.stage = stage
        self.pooling = pool or path
        self.classifier = classifier
        self.modality = modality
        self.erased_before = Tap(path, "output")
        self.erased_after = Tap(neck or path, "output")

    def matches(self, model: nn.Module) -> bool:
        """Never by itself: paths are the caller's to give."""
        return False

    def validate(self, model: nn.Module) -> None:
        """Also checks the pooling's path."""
        super().validate(model)
        if isinstance(self.pooling, str):
            submodule(model, self.pooling)

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Runs stage and pooling on tensors without data to see their width.

        The erased width is taken to be the related one.
        """
        stage = clone_stage(submodule(model, self.stage)).to("meta").eval()
        kernel = next((p for p in stage.parameters() if p.dim() == 4), None)
        if kernel is None:
            raise MixERValueError(
                f"The stage {self.stage!r} ({type(stage).__name__}) has no convolution to read "
                "its input channels from. Register an adapter with a `widths` method."
            )
        pooling = self.pooling
        if isinstance(pooling, str):
            pooling = clone_stage(submodule(model, pooling)).to("meta").eval()
        with torch.no_grad():
            stage_map = stage(kernel.new_empty(2, kernel.shape[1], 32, 32))
            width = pooling(stage_map).flatten(1).shape[1]
        return width, width

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
        if value is None:
            raise MixERValueError(
                f"The forward got no argument {self.modality!r}, from which the adapter reads the "
                "rows' modality. Pass it, or wrap with another modality=."
            )
        return torch.as_tensor(value)

    def read(self, values, taps):  # type: ignore[no-untyped-def]
        """Flattens pooled maps [B, D, 1, 1] to features."""
        found = super().read(values, taps)
        for name in ("erased_before", "erased_after"):
            found[name] = found[name].flatten(1)
        return found

    def embed(self, model: nn.Module, images: Tensor, modality: Tensor) -> Tensor:
        """The tapped embedding after the neck."""
        if isinstance(self.modality, str):
            model(images, **{self.modality: modality})
        else:
            model(images)
        return cast(Any, model).mixer.record.erased_after
