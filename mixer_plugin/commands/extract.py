"""``mixer-plugin extract``."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mixer_plugin.adapters import Adapter, GenericAdapter
from mixer_plugin.attach import restore
from mixer_plugin.checkpoints import load_base_state_dict, load_checkpoint
from mixer_plugin.commands import advice_if_interrupted, timed_progress
from mixer_plugin.config import MixERConfig
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.layouts import LAYOUTS, read_images, recognise, whole_layout
from mixer_plugin.data.datasets.own_images import OwnImages, read_own_images
from mixer_plugin.distributed.device import device_trouble
from mixer_plugin.distributed.processes import process_group
from mixer_plugin.errors import MixERValueError, MixERWarning
from mixer_plugin.extraction import Reading, extract_to_file
from mixer_plugin.features.growing_file import check_target, part_folder
from mixer_plugin.forward.mixed import MixedModule, bare_model
from mixer_plugin.io.yaml_file import read_values
from mixer_plugin.probing.models import build_named

_OF_FUNCTIONS = ("weights", "wrap", "adapter", "stage", "embed", "neck", "classes", "mixer")
_OF_WRAPS = ("stage", "neck", "classes", "mixer")
_OF_FILES = ("size", "mean", "std")
_OF_LAYOUTS = ("split", "layout", "trial")
_OF_OWN = ("modality", "cameras")


@dataclass(frozen=True)
class _Model:
    """What is run. ``built``: how a network of table3 was built."""

    model: nn.Module
    bare: bool
    output: str | None = None
    adapter: str | Adapter = "auto"
    built: Any = None


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.epilog = (
        "Features are written as they come, and the same command continues after an interruption. "
        "Several processes share the images: torchrun --nproc-per-node N -m mixer_plugin.cli "
        "extract … writes the same file."
    )
    add = command.add_argument
    add("checkpoint", nargs="?", help="short for --model, of a network of table3")
    add("root", nargs="?", help="short for --images, of a data set")
    add("--out", required=True, help="FeatureSet file (.npz) to write")
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
    add = command.add_argument_group("the images").add_argument
    add("--images", help="folder of crops, CSV of paths, or folder of a data set")
    add("--modality", help="where nothing says it: visible, infrared, or auto, by the pixels")
    add("--cameras", help="CSV of the modality of each camera or folder")
    add("--split", help="of a data set: train or test (default); SYSU also val")
    add("--layout", help="of a data set (default: recognised by what is there)")
    add("--trial", type=int, help="RegDB's split, 1 to 10 (default: the network's, else 1)")
    add = command.add_argument_group("reading").add_argument
    add("--size", help="HEIGHTxWIDTH of the images (default 256x128; table3: its own)")
    add("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="default: ImageNet's")
    add("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="default: ImageNet's")
    add("--batch", type=int, default=128, help="images at once (default 128)")
    add("--workers", type=int, default=2, help="threads that read images (default 2)")
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--precision", default="fp32", help="fp32 (default), bf16 or fp16")


def run(options: argparse.Namespace) -> int:
    """Extracts the features of images and writes them.

    Raises:
        MixERError: Options do not fit together, or the model or the images are not what they
            should be.
        OSError: A file cannot be read or written.
    """
    _check(options)
    reading = _reading(options)
    check_target(Path(options.out))
    _check_model(options)
    found = _table3(options) if Path(options.model).is_file() else _built(options)
    if found.built is not None:
        built = found.built
        reading = _reading(options, size=built.image_size, mean=built.mean, std=built.std)
    own = _images(options, found.built)
    images = own.images
    advice = f"Finished images are in {part_folder(Path(options.out))}; the same command continues."
    with advice_if_interrupted(advice), process_group(options.device) as share:
        widths = extract_to_file(
            found.model.to(options.device),
            images,
            options.out,
            reading=reading,
            bare=found.bare,
            output=found.output,
            adapter=found.adapter,
            times=own.times,
            progress=timed_progress("extracted") if share.index == 0 else None,
        )
        if share.index == 0:
            print(f"{options.out}: {_summary(images, widths)}")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Brings both forms to one and refuses options that exclude each other, before any work."""
    options.as_layout = options.root is not None
    for name, short in (("model", "checkpoint"), ("images", "root")):
        given = [value for value in (getattr(options, short), getattr(options, name)) if value]
        if len(given) != 1:
            raise MixERValueError(
                f"Give --{name} once: " + ("it is missing." if not given else f"{given} are two.")
            )
        setattr(options, name, given[0])
    if trouble := device_trouble(options.device):
        raise MixERValueError(trouble)


def _check_model(options: argparse.Namespace) -> None:
    """Refuses options that say nothing of this kind of model."""
    table3 = Path(options.model).is_file()
    if not table3 and ":" not in options.model:
        raise MixERValueError(
            f"{options.model} is no file and names no function; expected module:function, "
            "torchvision:NAME, or the file of a network of table3."
        )
    if table3:
        _refuse(options, _OF_FUNCTIONS, "the file says how its network is built")
        _refuse(options, _OF_FILES, "the file says what images its network takes")
    elif options.bare:
        _refuse(options, ("wrap", *_OF_WRAPS), "they are of a model with MixER, not of --bare")
        if options.embed and options.adapter:
            raise MixERValueError("Give --embed or --adapter: both say where the embedding is.")
    elif not options.wrap:
        _refuse(options, (*_OF_WRAPS, "adapter", "embed"), "they are of --wrap or --bare")
    elif not options.weights:
        raise MixERValueError("--wrap makes new heads: give --weights, the trained checkpoint.")
    elif options.adapter and (options.stage or options.embed or options.neck):
        raise MixERValueError("Give --adapter, or the paths --stage, --embed and --neck.")


def _refuse(options: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    given = [f"--{name}" for name in names if getattr(options, name) not in (None, False)]
    if given:
        raise MixERValueError(f"{', '.join(given)} would change nothing: {why}. Leave them out.")


def _reading(options: argparse.Namespace, **known: Any) -> Reading:
    given = {name: getattr(options, name) for name in ("batch", "workers", "precision")}
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


def _table3(options: argparse.Namespace) -> _Model:
    """A network that ``table3`` trained."""
    from mixer_plugin.benchmarks.experiment.trained_network import load_trained

    model, built = load_trained(options.model)
    return _Model(model, options.bare or built.mode is None, built=built)


def _built(options: argparse.Namespace) -> _Model:
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
        return _Model(model, True, options.embed, adapter)

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
        return _Model(restore(build_bare, options.weights, options.wrap, **classes), False)
    model = _loaded(build, options.weights, load_checkpoint)
    if not isinstance(bare_model(model), MixedModule):
        raise MixERValueError(
            f"{options.model} built a {type(bare_model(model)).__name__} without MixER. Give "
            "--wrap f or --wrap e2e and the --weights of its training, or --bare for its own "
            "embedding."
        )
    return _Model(model, False)


def _loaded(
    build: Callable[[], nn.Module], weights: str | None, load: Callable[[nn.Module, str], Any]
) -> nn.Module:
    model = build()
    if weights is not None:
        load(model, weights)
    return model.eval()


def _images(options: argparse.Namespace, built: Any) -> OwnImages:
    """The images: of a data set where the folder is one or is said to be, else one's own."""
    root = Path(options.images)
    if options.as_layout or options.layout or whole_layout(root) is not None:
        _refuse(options, _OF_OWN, f"{root} is read as a data set, whose layout says it")
        return OwnImages(_of_layout(options, built))
    _refuse(options, _OF_LAYOUTS, f"{root} is no data set in a released layout")
    given: dict[str, Any] = {name: getattr(options, name) for name in _OF_OWN}
    given |= {"workers": max(options.workers, 1), "progress": timed_progress("looked-at")}
    try:
        return read_own_images(root, **given)
    except MixERValueError as error:
        layout = recognise(root)[0] if root.is_dir() else None
        if layout is None:
            raise
        raise MixERValueError(
            f"{error} It also has parts of {LAYOUTS[layout].name}: if it is that, give "
            f"--layout {layout}, which says what is missing."
        ) from error


def _of_layout(options: argparse.Namespace, built: Any) -> ImageList:
    layout = {"layout": options.layout, "trial": options.trial}
    split = options.split or "test"
    if built is None:
        return read_images(options.images, split, **layout)
    from mixer_plugin.benchmarks.experiment.images import images_of

    return images_of(options.model, built, options.images, split, **layout)[0]


def _summary(images: ImageList, widths: dict[str, int | None]) -> str:
    known = np.unique(images.ids[images.ids >= 0])
    unknown = int((images.ids < 0).sum())
    return (
        f"{len(images)} images, erased {widths['erased']}, related {widths['related'] or 'none'}, "
        f"{len(known)} identities{f' ({unknown} images of unknown persons)' if unknown else ''}, "
        f"{len(np.unique(images.cams))} cameras, {int(images.modality.sum())} infrared"
    )
