"""The options of a model, and the model that they say."""

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
from mixer_plugin.extraction import Reading
from mixer_plugin.forward.mixed import MixedModule, bare_model
from mixer_plugin.io.yaml_file import read_values
from mixer_plugin.probing.models import build_named

_OF_FUNCTIONS = ("weights", "wrap", "adapter", "stage", "embed", "neck", "classes", "mixer")
_OF_WRAPS = ("stage", "neck", "classes", "mixer")
_OF_FILES = ("size", "mean", "std")


@dataclass(frozen=True)
class LoadedModel:
    """What is run.

    Attributes:
        model: In eval mode, on the CPU.
        bare: Whether it runs without MixER's heads.
        output: Of a bare model, the module whose output is its embedding.
        adapter: Of a bare model without ``output``.
        built: How a network of table3 was built; None: another one.
    """

    model: nn.Module
    bare: bool
    output: str | None = None
    adapter: str | Adapter = "auto"
    built: Any = None


def add_model_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the options that say which model runs."""
    add = command.add_argument_group("the model").add_argument
    add("--model", help="module:function, a call of it, torchvision:NAME, or CELL.pt of table3")
    add("--weights", help="the training loop's checkpoint (default: as the function builds it)")
    add("--bare", action="store_true", help="without MixER: erased is its own embedding")
    add("--embed", help="module whose output is the embedding; with --bare also: output")
    add("--wrap", choices=("f", "e2e"), help="wrap what the function builds, as the training did")
    add("--adapter", help="of a model that is not wrapped (default: recognised)")
    add("--stage", help="of --wrap: path of the last stage, or several with commas")
    add("--neck", help="of --wrap: path of a BatchNorm neck behind the embedding")
    add("--classes", type=int, help="of --wrap: training identities (default: read off the model)")
    add("--mixer", nargs="+", metavar="NAME=VALUE", help="of --wrap: options of MixERConfig")


def add_reading_arguments(command: argparse.ArgumentParser) -> Callable[..., Any]:
    """Adds the options that say how images are read; returns what adds more of them."""
    add = command.add_argument_group("reading").add_argument
    add("--size", help="HEIGHTxWIDTH of the images (default 256x128; table3: its own)")
    add("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="default: ImageNet's")
    add("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="default: ImageNet's")
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--precision", default="fp32", help="fp32 (default), bf16 or fp16")
    return add


def load_model(options: argparse.Namespace, **known: Any) -> tuple[LoadedModel, Reading]:
    """The model, and how its images are read, with what is known of that besides.

    Raises:
        MixERError: Options do not fit together, or the model is not what it should be.
        OSError: A file cannot be read.
    """
    _check_model(options)
    if not Path(options.model).is_file():
        return _built(options), read_options(options, **known)
    found = _table3(options)
    built = found.built
    shape = {"size": built.image_size, "mean": built.mean, "std": built.std}
    return found, read_options(options, **shape, **known)


def _check_model(options: argparse.Namespace) -> None:
    """Refuses options that say nothing of this kind of model."""
    table3 = Path(options.model).is_file()
    if not table3 and ":" not in options.model:
        raise MixERValueError(
            f"{options.model} is no file and names no function; expected module:function, "
            "torchvision:NAME, or the file of a network of table3."
        )
    if table3:
        refuse(options, _OF_FUNCTIONS, "the file says how its network is built")
        refuse(options, _OF_FILES, "the file says what images its network takes")
    elif options.bare:
        refuse(options, ("wrap", *_OF_WRAPS), "they are of a model with MixER, not of --bare")
        if options.embed and options.adapter:
            raise MixERValueError("Give --embed or --adapter: both say where the embedding is.")
    elif not options.wrap:
        refuse(options, (*_OF_WRAPS, "adapter", "embed"), "they are of --wrap or --bare")
    elif not options.weights:
        raise MixERValueError("--wrap makes new heads: give --weights, the trained checkpoint.")
    elif options.adapter and (options.stage or options.embed or options.neck):
        raise MixERValueError("Give --adapter, or the paths --stage, --embed and --neck.")


def refuse(options: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    """Raises ``MixERValueError`` where any of these options is given."""
    given = [f"--{name}" for name in names if getattr(options, name) not in (None, False)]
    if given:
        raise MixERValueError(f"{', '.join(given)} would change nothing: {why}. Leave them out.")


def read_options(options: argparse.Namespace, **known: Any) -> Reading:
    """How images are read, with what is known besides.

    Raises:
        MixERValueError: An option is out of range.
    """
    given: dict[str, Any] = {"precision": options.precision}
    given |= {n: tuple(v) for n in ("mean", "std") if (v := getattr(options, n)) is not None}
    if options.size is not None:
        try:
            height, width = map(int, options.size.split("x"))
        except ValueError:
            raise MixERValueError(
                f"--size is {options.size!r}; expected HEIGHTxWIDTH, e.g. 256x128."
            ) from None
        given["size"] = (height, width)
    return Reading(**given, **known)


def _table3(options: argparse.Namespace) -> LoadedModel:
    """A network that ``table3`` trained."""
    from mixer_plugin.benchmarks.experiment.trained_network import load_trained

    model, built = load_trained(options.model)
    return LoadedModel(model, options.bare or built.mode is None, built=built)


def _built(options: argparse.Namespace) -> LoadedModel:
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
        return LoadedModel(model, True, options.embed, adapter)

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
        return LoadedModel(restore(build_bare, options.weights, options.wrap, **classes), False)
    model = _loaded(build, options.weights, load_checkpoint)
    if not isinstance(bare_model(model), MixedModule):
        raise MixERValueError(
            f"{options.model} built a {type(bare_model(model)).__name__} without MixER. Give "
            "--wrap f or --wrap e2e and the --weights of its training, or --bare for its own "
            "embedding."
        )
    return LoadedModel(model, False)


def _loaded(
    build: Callable[[], nn.Module], weights: str | None, load: Callable[[nn.Module, str], Any]
) -> nn.Module:
    model = build()
    if weights is not None:
        load(model, weights)
    return model.eval()
