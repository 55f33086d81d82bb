"""Tries an adapter on a network in the caller's own process, as a test of one's own does."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mixer_plugin.adapters import Adapter, GenericAdapter, resolve_adapter
from mixer_plugin.baselines import create_loop, list_baselines
from mixer_plugin.baselines.loops import Batch, Loop
from mixer_plugin.conformance import invariants
from mixer_plugin.conformance.any_loop import RECIPE, any_loop
from mixer_plugin.conformance.case import Case
from mixer_plugin.conformance.reading import (
    extracts_features,
    knows_rows_and_labels,
    reads_the_embedding,
)
from mixer_plugin.errors import MixERValueError, MixERWarning

IMAGE_SIZE = (96, 48)  # of a network whose adapter names none

ADVICE = {
    "attaches": "Mend what the reason names.",
    "keeps_the_model": "An adapter looks at the model and changes nothing of it: set no attribute "
    "and no module in validate, widths, taps or prepare_clone.",
    "keeps_the_outputs": "pool and run_stage must not write into what they take. Where the network "
    "writes into a tensor that is read, use Tap(path, side, clone=True).",
    "trains_apart_in_mode_f": "pool and run_stage may use no parameter and no buffer of the base: "
    "detach them (GeM('gem.p') does), or make the module a part of the stage.",
    "sends_gradients_where_it_should": "Read tensors that lie between the images and the loss. "
    "pool and run_stage may not detach what they take, and may use no parameter of the base.",
    "costs_nothing_in_eval": "Let embed call the model alone, and no head of model.mixer.",
    "unwraps_without_a_trace": "Keep nothing on the model or in hooks of your own.",
    "survives_copies": "Functions and classes that the adapter holds must stand in a "
    "module, and not be lambdas or local; it may hold no tensor and no module of the model.",
    "explains_mistakes": "labels and row_modality must give one value per row, and pool finite "
    "values: roots need a floor above zero.",
    "knows_rows_and_labels": "Let row_modality give 0 for visible and 1 for infrared rows, in the "
    "order of the tapped embedding, or None where the loop alone knows; and labels the identities.",
    "reads_the_embedding": "Name the last stage before the embedding, the pooling that the network "
    "uses, and the places before and after its neck. Where the network does more between stage and "
    "pooling, such as attention: make it a part of the stage, or pass between=True.",
    "extracts_features": "embed must return one row per image in the order of the images, by the "
    "model's own evaluation of the modality that it is given.",
}


def check_adapter(
    build: Callable[[], nn.Module],
    adapter: str | Adapter | type[Adapter] = "auto",
    *,
    size: tuple[int, int] | None = None,
    call: Callable[[nn.Module, Batch], Any] | None = None,
    num_classes: int | None = None,
    between: bool = False,
    machinery: bool = False,
) -> tuple[str, ...]:
    """Tries every invariant of attaching on a network, as ``mixer-plugin check`` does, and more.

    In both modes it trains a few steps, evaluates, extracts, unwraps and copies. Nothing is drawn
    from the global random state.

    Args:
        build: makes the bare network, on the CPU.
        adapter: what ``wrap_with_mixer`` would be given.
        size: (height, width) of the images; default: the ``trial`` of a ``GenericAdapter``, else
            96 × 48.
        call: ``call(net, batch)`` runs one training forward and returns its outputs. The batch has
            ``images`` [B, 3, H, W], and int64 [B] ``labels``, ``modality`` (0 visible, 1 infrared)
            and ``cams`` (1 or 3); visible rows stand before the infrared ones of the same
            identities. Default: as the adapter says that the network is called.
        num_classes: training identities, at least 2; default: read off the network's classifier.
        between: the network does something between stage and pooling (attention, masks), so that
            clones of the stage need not give its embedding.
        machinery: also takes a step in ``torch.compile`` and in DDP, which takes longer.

    Returns:
        Names of the invariants that hold: all of them.

    Raises:
        MixERValueError: names the first invariant that does not hold, what was expected and found,
            and what to do.

    Example:
        >>> from mixer_plugin.baselines import create_baseline
        >>> from mixer_plugin.testing import check_adapter
        >>> build = lambda: create_baseline("ddag", num_classes=6, trunk="small")
        >>> "trains_apart_in_mode_f" in check_adapter(build, "ddag", size=(32, 16))
        True
    """
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(0)
        model = build()
        case = _attach(model, adapter, size, call, num_classes, between)
        reads = functools.partial(reads_the_embedding, between=between)
        known = list(invariants.INVARIANTS)
        if not machinery:
            long = known.index(invariants.survives_copies_and_machinery)
            known[long] = invariants.survives_copies
        tried = (reads_the_embedding, knows_rows_and_labels, extracts_features, *known)
        for invariant in tried:
            name, line = invariant.__name__, (invariant.__doc__ or "").partition("\n")[0]
            title = line.partition(": ")[2].rstrip(".")
            try:
                reads(case) if invariant is reads_the_embedding else invariant(case)
            except Exception as error:
                raise _broken(model, case.adapter, name, title, error) from error
    return ("attaches", *(invariant.__name__ for invariant in tried))


def _attach(
    model: nn.Module,
    adapter: str | Adapter | type[Adapter],
    size: tuple[int, int] | None,
    call: Callable[[nn.Module, Batch], Any] | None,
    num_classes: int | None,
    between: bool,
) -> Case:
    """The case of a network that the adapter attaches to without a warning."""
    if not between:
        warnings.simplefilter("error", MixERWarning)
    try:
        found = resolve_adapter(model, adapter)
        if size is None and isinstance(found, GenericAdapter):
            size = found.trial
        found.validate(model)
        classes = found.num_classes(model) if num_classes is None else num_classes

        def new_loop() -> Loop:
            if call is None and found.name in list_baselines():
                return create_loop(found.name)
            return any_loop(found, model, classes, call)

        case = Case(model, found, new_loop, RECIPE, size or IMAGE_SIZE, classes)
        case.wrapped()
    except Exception as error:  # of the adapter's own code as well
        title = "the adapter fits the network, and is attached without a warning"
        raise _broken(model, adapter, "attaches", title, error) from error
    return case


def _broken(model: Any, adapter: Any, name: str, title: str, error: Exception) -> MixERValueError:
    kind = "" if isinstance(error, invariants.Broken) else f"{type(error).__name__}: "
    cls = adapter if isinstance(adapter, type) else type(adapter)
    named = adapter if isinstance(adapter, str) else getattr(adapter, "name", "") or cls.__name__
    return MixERValueError(
        f"The adapter {named!r} of {type(model).__name__} breaks {name!r}.\n"
        f"Expected: {title}.\nFound: {kind}{error}\nWhat to do: "
        f"{ADVICE[name.removesuffix('_and_machinery')]}"
    )
