"""The model of a command, of :func:`add_model_arguments`."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mixer_plugin.adapters import Adapter, GenericAdapter
from mixer_plugin.attach import restore
from mixer_plugin.checkpoints import load_base_state_dict, load_checkpoint
from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import MixERValueError, MixERWarning
from mixer_plugin.forward.mixed import MixedModule, bare_model
from mixer_plugin.io.yaml_file import read_values
from mixer_plugin.probing.models import build_named

_OF_FUNCTIONS = ("weights", "wrap", "adapter", "stage", "embed", "neck", "classes", "mixer")
_OF_WRAPS = ("stage", "neck", "classes", "mixer")
_OF_FILES = ("size", "mean", "std")


@dataclass(frozen=True)
class NamedModel:
    """What is run. ``built``: how a network of table3 was built."""

    model: nn.Module
    bare: bool
    output: str | None = None
    adapter: str | Adapter = "auto"
    built: Any = None


def given_once(options: argparse.Namespace, name: str, short: str) -> None:
    """Brings the two forms of an argument to one, ``options.name``.

    Raises:
        MixERValueError: Neither is given, or both are.
    """
    given = [value for value in (getattr(options, short), getattr(options, name)) if value]
    if len(given) != 1:
        raise MixERValueError(
            f"Give --{name} once: " + ("it is missing." if not given else f"{given} are two.")
        )
    setattr(options, name, given[0])


def check_model(options: argparse.Namespace) -> None:
    """Refuses options that say nothing of this kind of model."""
    table3 = Path(options.model).is_file()
    if not table3 and ":" not in options.model:
        raise MixERValueError(
            f"{options.model} is no file and names no function; expected module:function, "
            "torchvision:NAME, or the file of a network of table3."
        )
    if table3:
        refuse_options(options, _OF_FUNCTIONS, "the file says how its network is built")
        refuse_options(options, _OF_FILES, "the file says what images its network takes")
    elif options.bare:
        refuse_options(
            options, ("wrap", *_OF_WRAPS), "they are of a model with MixER, not of --bare"
        )
        if options.embed and options.adapter:
            raise MixERValueError("Give --embed or --adapter: both say where the embedding is.")
    elif not options.wrap:
        refuse_options(options, (*_OF_WRAPS, "adapter", "embed"), "they are of --wrap or --bare")
    elif not options.weights:
        raise MixERValueError("--wrap makes new heads: give --weights, the trained checkpoint.")
    elif options.adapter and (options.stage or options.embed or options.neck):
        raise MixERValueError("Give --adapter, or the paths --stage, --embed and --neck.")


def refuse_options(options: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    """Raises :class:`MixERValueError` for options that would change nothing."""
    given = [f"--{n}" for n in names if getattr(options, n, None) not in (None, False)]
    if given:
        raise MixERValueError(f"{', '.join(given)} would change nothing: {why}. Leave them out.")


def find_model(options: argparse.Namespace) -> NamedModel:
    """The model that the arguments name, in eval mode on the CPU; errors as of its parts."""
    return _table3(options) if Path(options.model).is_file() else _built(options)


def _table3(options: argparse.Namespace) -> NamedModel:
    """A network that ``table3`` trained."""
    from mixer_plugin.benchmarks.experiment.trained_network import load_trained

    model, built = load_trained(options.model)
    return NamedModel(model, options.bare or built.mode is None, built=built)


def _built(options: argparse.Namespace) -> NamedModel:
    """The model of a function, with its weights."""

    def build() -> nn.Module:
        return build_named(options.model)

    if options.model.startswith("torchvision:") and not options.weights:
        warnings.warn(
            f"{options.model} has random weights: nothing is fetched. Give --weights.",
            MixERWarning,
            stacklevel=2,
        )
    adapter = options.adapter or "auto"
    if options.bare:
        model = _loaded(build, options.weights, load_base_state_dict)
        return NamedModel(model, True, options.embed, adapter)

    def build_bare() -> nn.Module:
        model = build()
        if isinstance(bare_model(model), MixedModule):
            raise MixERValueError(f"{options.model} wraps its network itself; leave --wrap out.")
        return model

    if options.wrap:
        if options.stage or options.embed or options.neck:
            stage = tuple((options.stage or "layer4").split(","))
            adapter = GenericAdapter(stage, options.embed, neck=options.neck)
        config = MixERConfig.from_dict(read_values(options.mixer or ()))
        classes = {"num_classes": options.classes, "adapter": adapter, "config": config}
        return NamedModel(restore(build_bare, options.weights, options.wrap, **classes), False)
    model = _loaded(build, options.weights, load_checkpoint)
    if not isinstance(bare_model(model), MixedModule):
        raise MixERValueError(
            f"{options.model} built a {type(bare_model(model)).__name__} without MixER. Give "
            "--wrap f or --wrap e2e and the --weights of its training, or --bare for its own "
            "embedding."
        )
    return NamedModel(model, False)


def _loaded(
    build: Callable[[], nn.Module], weights: str | None, load: Callable[[nn.Module, str], Any]
) -> nn.Module:
    model = build()
    if weights is not None:
        load(model, weights)
    return model.eval()
