"""A wrapped model as a plain module of tensors: images and modality in, three features out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mixer_plugin.adapters import Adapter, GenericAdapter
from mixer_plugin.adapters.base import LossInLoop
from mixer_plugin.adapters.evaluation_call import evaluation_trouble
from mixer_plugin.adapters.generic import TwoStream
from mixer_plugin.errors import MixERTypeError
from mixer_plugin.forward.mixed import bare_model, mixer_of
from mixer_plugin.forward.record import Record
from mixer_plugin.forward.run_heads import related_of_all
from mixer_plugin.losses import unit


class Embedder(nn.Module):
    """Runs a wrapped model by operations that do not depend on the rows' modalities.

    A base that takes one modality at a time runs on all rows as either modality, and each row keeps
    its own result; a base that takes both runs once, and the heads of both modalities run on all
    rows. The outputs are those of ``extract_features``.

    Args:
        model: wrapped, in eval mode; made by :func:`make_embedder`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, modality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of images.

        Args:
            images: [B, 3, H, W] float32, normalised as in the training.
            modality: [B] int64, 0 visible, 1 infrared.

        Returns:
            erased [B, De] and related [B, Dr], float32, as ``extract_features`` gives them, and
            fused [B, De + Dr], the L2-normalised halves side by side.
        """
        if mixer_of(self.model).adapter.one_modality_in_eval:
            sides = [self._features(images, modality, side) for side in (0, 1)]
            infrared = (modality == 1)[:, None]
            erased, related = (
                torch.where(infrared, second, first) for first, second in zip(*sides, strict=True)
            )
        else:
            erased, related = self._features(images, modality, None)
        return erased, related, torch.cat([unit(erased), unit(related)], dim=1)

    def _features(
        self, images: Tensor, modality: Tensor, side: int | None
    ) -> tuple[Tensor, Tensor]:
        """Erased and related features; with ``side`` as if all rows were of that modality."""
        model = self.model
        mixer = mixer_of(model)
        with mixer.matching(heads=False) as records:
            erased = _embed(model, mixer.adapter, images, modality, side, records)
        mixer.record = None
        own = modality if side is None else side
        related = [
            related_of_all(model, record, mixer.heads, adapter=mixer.adapter, modality=own)
            for record in records
        ]
        count = images.shape[0]
        return erased.float(), torch.stack([each[:count].float() for each in related]).mean(0)


def _embed(
    model: nn.Module,
    adapter: Adapter,
    images: Tensor,
    modality: Tensor,
    side: int | None,
    records: list[Record],
) -> Tensor:
    """``adapter.embed``, where a modality of all rows is a plain number."""
    if type(adapter).embed is GenericAdapter.embed:
        assert isinstance(adapter, GenericAdapter)
        if isinstance(adapter.inputs, TwoStream):
            adapter.inputs.run(model, images, side or 0)
        else:
            adapter.run(model, images, modality)
        return records[-1].erased_after
    if side is not None:
        assert isinstance(adapter, LossInLoop)
        return adapter.embed_one(model, images, side)
    return adapter.embed(model, images, modality)


def make_embedder(model: nn.Module) -> Embedder:
    """Copies a wrapped model to the CPU, in float32 and eval mode; the model is left as it is.

    Raises:
        MixERTypeError: if it is not wrapped, has no related heads, its forward takes more than the
            adapter gives, or its adapter evaluates one modality at a time in a way of its own.
    """
    mixer, bare = mixer_of(model), bare_model(model)
    adapter = mixer.adapter
    if not mixer.heads:
        raise MixERTypeError(
            f"control={mixer.config.control!r} has no related feature to export. Export the model "
            "itself: unwrap_mixer(copy.deepcopy(model))."
        )
    if trouble := evaluation_trouble(bare, adapter):
        raise MixERTypeError(trouble)
    generic = type(adapter).embed is GenericAdapter.embed
    in_loop = type(adapter).embed is LossInLoop.embed
    if adapter.one_modality_in_eval and not (generic or in_loop):
        raise MixERTypeError(
            f"The adapter {adapter.name!r} evaluates one modality at a time by an embed of its "
            "own, whose graph would depend on the batch. Derive it from LossInLoop and override "
            "embed_one(model, images, modality)."
        )
    twin = copy.deepcopy(bare).cpu().float().eval()
    adapter.prepare_export(twin)
    return Embedder(twin.requires_grad_(False))
