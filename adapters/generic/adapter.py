"""Attaches MixER to any network, by the paths of its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixer_plugin.adapters.base import (
    Adapter,
    Call,
    Tap,
    children_in_a_row,
    first_block,
    submodule,
)
from mixer_plugin.adapters.generic.arguments import checked_losses, line_of, tap_of
from mixer_plugin.adapters.generic.classifier import takers_of
from mixer_plugin.adapters.generic.inputs import (
    Cameras,
    Runner,
    TwoStream,
    may_be_images,
    named_rows,
)
from mixer_plugin.adapters.generic.pooling import GeM, Pooling, class_token
from mixer_plugin.adapters.generic.returned import add_to_output
from mixer_plugin.adapters.generic.trial import (
    Trial,
    reading,
    try_evaluation,
    warn_of_differences,
)
from mixer_plugin.adapters.registry import register_adapter
from mixer_plugin.adapters.stages import has_matrix, trial
from mixer_plugin.errors import MixERValueError
from mixer_plugin.heads import clone_stage


@register_adapter
class GenericAdapter(Adapter):
    """Any CNN or vision transformer, given by the paths of its last stage and its embedding.

    A CNN: ``GenericAdapter("layer4", "avgpool")``. A transformer's stage is its last block and the
    norm behind it, its embedding the class token: ``GenericAdapter(("blocks.11", "norm"))`` (timm),
    ``GenericAdapter(("encoder.layers.encoder_layer_11", "encoder.ln"))`` (torchvision). A network
    of two streams that pools in its forward: ``GenericAdapter("base.layer4", "bottleneck:input",
    neck="bottleneck", pool=GeM(3.0), inputs="two-stream")``. ``mixer-plugin inspect`` proposes the
    line for a network.

    Args:
        stage: path of the stage to clone per modality, or of modules that run one after the other
            and are cloned together. The blocks of an ``nn.Sequential`` or ``nn.ModuleList`` may be
            called one by one by the network's forward: the first one's input is read.
        embedding: path of the module whose output is the erased embedding before the neck: [B, D],
            [B, D, 1, 1], or tokens [B, T, D], which are pooled as the related ones are;
            ``"path:input"`` reads its input. Default: ``pool`` where that is a path; the last
            module of the stage where it has several; else ``avgpool``.
        pool: path of the parameter-free module that turns a stage map into a feature, or a function
            of the map, such as ``GeM(3.0)``, ``mean_pool`` or ``class_token`` of
            ``mixer_plugin.adapters``. Default: ``class_token`` where the embedding is the output of
            a module of the stage; else the module at ``embedding``.
        neck: path of a BatchNorm neck after the embedding, if the model has one.
        classifier: path of the identity classifier, from which the number of classes is read.
            Default: the last linear layer that takes the embedding.
        modality: name of the forward argument that holds the rows' modality (0 visible,
            1 infrared), ``Cameras(…)`` for camera numbers, or a function of the :class:`Call`; None
            if only the loop knows it, which then says ``mixer_loss(model, labels, modality)``.
        width: columns of the pooled feature, where they cannot be found out by a trial run.
        clone: copy what is read at once, because the model writes into it later.
        earlier: paths of the stages before ``stage``, first to last, for ``related_stages`` > 1.
            Default: those of the same name with lower numbers (layer3, blocks.10).
        inputs: how images are evaluated. ``single``: ``model(images)``, with what ``modality``
            names. ``two-stream``: ``model(images, images, modal=1 or 2)``, see :class:`TwoStream`;
            the rows' modality is known from it too. Or a function ``run(model, images, modality)``
            that calls the model once on all rows, in their order.
        loss: ``loop``, which adds ``mixer_loss``; or ``forward``: the training forward returns the
            loss, alone, first in a tuple, or as ``loss`` in a mapping, and MixER's is added to it.
        labels: name of the forward argument that holds the labels where ``loss="forward"``.
        base_losses: terms that the base already optimises on the erased feature (``identity``,
            ``center_cluster``); they are not added again.
        trial: (height, width) of images on which wrapping tries an evaluation: that the forward
            takes them, that what is read is what the network returns in eval mode, and that clones
            of the stage give the same embedding. A difference is a ``MixERWarning``.

    Raises:
        MixERValueError: for an option that does not exist; when wrapping, for a path that does not
            exist, a pooling with parameters, a stage that cannot be sized, or a failed trial.
    """

    name = "generic"

    def __init__(
        self,
        stage: str | Sequence[str] = "layer4",
        embedding: str | None = None,
        *,
        pool: str | Pooling | None = None,
        neck: str | None = None,
        classifier: str | None = None,
        modality: str | Callable[[Call], Tensor] | None = None,
        width: int | None = None,
        clone: bool = False,
        earlier: Sequence[str] | None = None,
        inputs: str | TwoStream | Runner = "single",
        loss: str = "loop",
        labels: str = "labels",
        base_losses: Iterable[str] = (),
        trial: tuple[int, int] | None = None,
    ) -> None:
        self.parts = (stage,) if isinstance(stage, str) else tuple(stage)
        if not self.parts:
            raise MixERValueError("stage is empty; expected a path, or several.")
        several = self.parts[-1] if len(self.parts) > 1 else "avgpool"
        tap = tap_of(embedding or (pool if isinstance(pool, str) else several), clone)
        if tap.side == "input" and pool is None:
            raise MixERValueError(
                f"The embedding is the input of {tap.path!r}, which tells no pooling. Pass pool=, "
                "the path or the function that makes it of the stage's map, such as "
                "pool=mean_pool or pool=GeM(3.0), or class_token of tokens."
            )
        self.stage = self.parts[0]
        # The stage's own last module is no pooling: it comes with the clones.
        own = pool is None and tap.path in self.parts
        self.pooling: str | Pooling = class_token if own else pool or tap.path
        self.classifier = classifier
        self.inputs = TwoStream() if inputs == "two-stream" else inputs
        if isinstance(self.inputs, str) and self.inputs != "single":
            raise MixERValueError(
                f"inputs is {inputs!r}; expected 'single', 'two-stream', TwoStream(…) or a "
                "function run(model, images, modality)."
            )
        self.modality = modality
        self.width = width
        self.clone = clone
        self.earlier = None if earlier is None else tuple(earlier)
        self.loss, self.base_losses = checked_losses(loss, base_losses)
        self.label_argument = labels
        self.trial = trial
        self.one_modality_in_eval = isinstance(self.inputs, TwoStream)
        self.erased_before = tap
        self.erased_after = tap if neck is None else Tap(neck, "output", clone)
        self.line = line_of(GenericAdapter.__init__, locals())

    def __repr__(self) -> str:
        """The line that makes it, as far as its functions have names of this package."""
        return self.line

    def describe(self, model: nn.Module) -> str:
        """What it found in a model, in one line."""
        stage = ", ".join(self.parts)
        blocks = sum(has_matrix(submodule(model, path)) for path in self.stage_blocks(model))
        where = self._where()
        path = self.classifier_path(model)
        classes = f"{self.num_classes(model)} classes from {path}" if path else "no classifier"
        return f"stage {stage} ({blocks} block{'s' * (blocks != 1)}), {where}, {classes}"

    def _where(self) -> str:
        assert self.erased_before is not None
        assert self.erased_after is not None
        side = "before" if self.erased_before.side == "input" else "behind"
        neck = self.erased_after.path
        behind = f", neck {neck}" if neck != self.erased_before.path else ""
        return f"embedding {side} {self.erased_before.path}{behind}"

    def matches(self, model: nn.Module) -> bool:
        """False: the caller gives the paths."""
        return False

    def entry(self, model: nn.Module, path: str) -> str:
        """The first block inside the stage, which runs whoever calls it."""
        return first_block(model, path)

    def taps(self, model: nn.Module) -> dict[str, Tap]:
        """As declared; what is read is copied at once where ``clone`` says so."""
        stage_input = Tap(self.entry(model, self.stage), "input", self.clone)
        return {**super().taps(model), "stage_input": stage_input}

    def stages(self, model: nn.Module) -> tuple[str, ...]:
        """As named, or by their numbers; the last path is that of the stage's first module."""
        if self.earlier is None:
            return super().stages(model)
        return (*self.earlier, self.stage)

    def stage_module(self, model: nn.Module) -> nn.Module:
        """The stage, several modules in a row as one."""
        modules: list[nn.Module] = []
        for path in self.parts:
            module = submodule(model, path)
            modules += module if isinstance(module, nn.ModuleList) else [module]
        return modules[0] if len(modules) == 1 else nn.Sequential(*modules)

    def stage_blocks(self, model: nn.Module) -> tuple[str, ...]:
        """Those of the first module of the stage, then of the next."""
        return tuple(block for path in self.parts for block in children_in_a_row(model, path))

    def validate(self, model: nn.Module) -> None:
        """Also checks the rest of the stage, the pooling and the inputs, and tries an evaluation.

        Raises:
            MixERValueError: for what does not fit the model.
        """
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
        elif isinstance(self.pooling, GeM):
            self.pooling.of(model)
        if isinstance(self.inputs, TwoStream):
            self.inputs.names(model)
        if self.trial is not None:
            warn_of_differences(self.try_on(model, self.trial), self._where(), level=4)

    def try_on(self, model: nn.Module, size: tuple[int, int]) -> Trial:
        """Evaluates random images of (height, width) on a bare model; changes nothing of it."""
        return try_evaluation(self, model, size, self.run)

    def _other_pooling(self, model: nn.Module) -> str:
        """Advice for a pooling with parameters: what works in its place."""
        path = cast(str, self.pooling)
        stage = (*self.parts, path)
        named = list(submodule(model, path).named_parameters())
        if len(named) == 1 and named[0][1].numel() == 1:
            exponent = f"{path}.{named[0][0]}"
            return (
                f"Where that is an exponent, pass pool=GeM({exponent!r}); else make it part of the "
                f"stage: stage={stage}."
            )
        try:
            GenericAdapter(stage).widths(model)
        except MixERValueError:  # a neck or a layer that takes no stage map
            return (
                "Pass pool=, the function that makes a feature of the stage's map, such as "
                "mean_pool of mixer_plugin.adapters."
            )
        return f"Make it part of the stage: stage={stage}."

    def classifier_path(self, model: nn.Module) -> str | None:
        """As named, or the last linear layer behind the stage that takes the embedding.

        None where several such layers have different numbers of columns.
        """
        if self.classifier is not None:
            return self.classifier
        found = takers_of(model, self.widths(model)[0], self.parts)
        return next(reversed(found)) if len(set(found.values())) == 1 else None

    def num_classes(self, model: nn.Module) -> int:
        """Number of training identities; ``MixERValueError`` where several layers may tell it."""
        named = self.classifier is not None
        found = {} if named else takers_of(model, self.widths(model)[0], self.parts)
        if len(set(found.values())) > 1:
            layers = ", ".join(f"{name!r} ({columns} columns)" for name, columns in found.items())
            raise MixERValueError(
                f"Several linear layers take the embedding: {layers}. Name the classifier of "
                "identities: GenericAdapter(…, classifier=…)."
            )
        return super().num_classes(model)

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Runs stage and pooling on tensors without data to see their width.

        The erased width is taken to be the related one.

        Raises:
            MixERValueError: if no trial input fits; pass ``width=``.
        """
        if self.width is not None:
            return self.width, self.width
        stage = clone_stage(self.stage_module(model)).to("meta").eval()
        pooling: Any = self.pooling
        if isinstance(pooling, str):
            pooling = clone_stage(submodule(model, pooling)).to("meta").eval()
        elif isinstance(pooling, GeM):
            pooling = GeM()  # any exponent gives the same width
        width, reasons = trial(stage, lambda x: pooling(stage(x)).flatten(1).shape[1], model)
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
        elif isinstance(pooling, GeM):
            pooling = pooling.of(model)
        return pooling(stage_map).flatten(1)

    def row_modality(self, call: Call) -> Tensor | None:
        """From ``modality``, or from the inputs of two streams; None leaves it to the loop."""
        if callable(self.modality):
            return self.modality(call)
        if self.modality is not None:
            return named_rows(call, self.modality)
        return self.inputs.rows(call) if isinstance(self.inputs, TwoStream) else None

    def reads(self, call: Call) -> bool:
        """Not a forward of labels and flags alone."""
        return may_be_images([*call.args, *call.kwargs.values()])

    def labels(self, call: Call) -> Tensor | None:
        """The forward argument that ``labels`` names."""
        return call.argument(self.label_argument)

    def adds_loss(self) -> str:
        """As ``loss`` says."""
        return self.loss

    def with_loss(self, output: Any, total: Tensor, terms: Mapping[str, Tensor]) -> Any:
        """Adds to the loss that the forward returns: alone, first in a tuple, or in a mapping."""
        return add_to_output(output, total, terms)

    def read(self, values, taps):  # type: ignore[no-untyped-def]
        """Flattens pooled maps [B, D, 1, 1] to features, and pools tokens [B, T, D]."""
        found = super().read(values, taps)
        for name in ("erased_before", "erased_after"):
            found[name] = self._as_feature(found[name], taps[name])
        return found

    def _as_feature(self, value: Tensor, tap: Tap) -> Tensor:
        if value.dim() == 3:
            if isinstance(self.pooling, str):
                raise MixERValueError(
                    f"The embedding {tap.path!r} gives tokens {list(value.shape)}. Pass "
                    "pool=, a function of tokens [B, T, D] to features [B, D]."
                )
            value = self.pooling(value)
        # A compiled graph cannot give one view of a tensor twice, here and as the model's output.
        return value.flatten(1).clone() if torch.compiler.is_compiling() else value.flatten(1)

    def evaluation_arguments(self, model: nn.Module) -> tuple[int, tuple[str, ...]] | None:
        """How many arguments :meth:`run` gives a forward by position, and which by name.

        None for a call that only a function knows.
        """
        if type(self).run is not GenericAdapter.run or callable(self.inputs):
            return None
        if isinstance(self.inputs, TwoStream):
            return 0, tuple(self.inputs.arguments(model, None, 0))
        if isinstance(self.modality, Cameras):
            return 1, (self.modality.argument,)
        return 1, (self.modality,) if isinstance(self.modality, str) else ()

    def run(self, model: nn.Module, images: Tensor, modality: Tensor) -> Any:
        """Calls the model's forward once, as its evaluation does; of two streams, on one modality.

        Args:
            model: bare or wrapped, in eval mode.
            images: [B, 3, H, W].
            modality: [B] int64; of two streams all of one value.
        """
        if isinstance(self.inputs, TwoStream):
            return self.inputs.run(model, images, int(modality[0]))
        if callable(self.inputs):
            return self.inputs(model, images, modality)
        if isinstance(self.modality, Cameras):
            return model(images, **{self.modality.argument: self.modality.of(modality)})
        named = {self.modality: modality} if isinstance(self.modality, str) else {}
        return model(images, **named)

    def embed(self, model: nn.Module, images: Tensor, modality: Tensor) -> Tensor:
        """The tapped embedding after the neck; two streams run one after the other."""
        assert self.erased_after is not None
        taps = {"erased_after": self.erased_after}
        groups = [torch.arange(len(images), device=images.device)]
        if self.one_modality_in_eval:
            groups = [rows for m in (0, 1) if len(rows := (modality == m).nonzero().flatten())]
        found = []
        for rows in groups:
            with reading(model, taps) as values:
                self.run(model, images[rows], modality[rows])
            (value,) = Adapter.read(self, values, taps).values()
            found.append(self._as_feature(value, self.erased_after))
        return torch.cat(found)[torch.cat(groups).argsort()]
