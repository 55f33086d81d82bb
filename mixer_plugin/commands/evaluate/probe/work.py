"""The work of ``mixer-plugin probe``."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mixer_plugin.attach import unwrap_mixer, wrap_with_mixer
from mixer_plugin.commands import advice_if_interrupted
from mixer_plugin.commands.shared.arguments import size_of
from mixer_plugin.commands.shared.telling import for_people, note, progress, show
from mixer_plugin.config import MixERConfig
from mixer_plugin.data.datasets.layouts import read_images
from mixer_plugin.data.loading.decode import ImageDataset
from mixer_plugin.data.loading.transforms import Augmentation, normalise
from mixer_plugin.distributed.device import device_trouble
from mixer_plugin.errors import MixERError, MixERValueError
from mixer_plugin.extraction import Reading
from mixer_plugin.features import FeatureSet
from mixer_plugin.features.files import write_npz
from mixer_plugin.forward.mixed import MixedModule, mixer_of
from mixer_plugin.io.array_file import read_arrays
from mixer_plugin.io.atomic_write import write_text
from mixer_plugin.io.yaml_file import read_values
from mixer_plugin.probing.factors import has_factors, read_factors
from mixer_plugin.probing.maps import cache_maps
from mixer_plugin.probing.models import FrozenModel, is_feature_file, named_model
from mixer_plugin.probing.options import ProbeOptions
from mixer_plugin.probing.report import ProbeReport, probe
from mixer_plugin.probing.training import HeadRecipe, train_heads
from mixer_plugin.probing.views import extract_views
from mixer_plugin.run_card import mark_of

_Given = tuple[FeatureSet, dict[str, Tensor], dict[str, Any]]  # after and before the neck, source
_OF_MODELS = ("stage", "embed", "neck", "size")


def run_probe(options: argparse.Namespace, of_images: Mapping[str, Any]) -> int:
    """Probes an input and prints the report.

    Args:
        options: The command's.
        of_images: The options on reading images and their defaults.

    Raises:
        MixERError: Options do not fit together, or an input is not what it should be.
        OSError: A file cannot be read or written.
    """
    settings = ProbeOptions(seed=options.seed, folds=options.folds, images=options.limit)
    out = None if options.out is None else Path(options.out)
    _check(options, of_images)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    kept = f"Finished parts are in {out}; the same command continues." if out else ""
    with advice_if_interrupted(kept):
        features, before, about = _given(options, out)
        factors = None
        if options.root is not None and has_factors(options.root):
            factors = read_factors(options.root, features)
        report = probe(
            features,
            before=before,
            factors=factors,
            protocol=options.protocol,
            options=settings,
            folder=None if out is None else out / "parts",
            say=partial(note, options),
        )
    show(options, for_people(report.to_markdown()), asdict(report))
    if out is not None:
        _write(out, report, options, about)
    return 0


def _check(options: argparse.Namespace, of_images: Mapping[str, Any]) -> None:
    """Refuses options that exclude each other, before any work."""
    if options.input is None and options.model is None:
        raise MixERValueError(
            "Give features (.npz), a network of table3 (.pt), or --model module:function."
        )
    if options.input is not None and not Path(options.input).exists():
        raise MixERValueError(f"{options.input} does not exist; give features or a network.")
    stored = _is_stored(options)
    if options.model is None:
        given = [f"--{name}" for name in _OF_MODELS if getattr(options, name) is not None]
        if given:
            raise MixERValueError(f"{', '.join(given)} say more of --model, which is not given.")
    if stored and options.train_heads:
        raise MixERValueError("Stored features have no maps to train heads on; give a network.")
    if stored:
        idle = [f"--{name}" for name, usual in of_images.items() if getattr(options, name) != usual]
        if options.root is not None and not has_factors(options.root):
            idle.append("--root, a folder without factors (synthetic.json),")
        if idle:
            raise MixERValueError(
                f"{' and '.join(idle)} would change nothing: stored features are probed as they "
                "are. Leave it out, or give a network."
            )
    if not stored and options.root is None:
        raise MixERValueError("A network needs images: give --root, the folder of a data set.")
    heads = (options.iterations, options.copies, options.mixer)
    if not options.train_heads and heads != (None, None, None):
        raise MixERValueError(
            "--iterations, --copies and --mixer say more of --train-heads; give it too."
        )
    _mixer_config(options)
    Reading(batch=options.batch, workers=options.workers)
    if trouble := device_trouble(options.device):
        raise MixERValueError(trouble)


def _is_stored(options: argparse.Namespace) -> bool:
    return options.model is None and is_feature_file(Path(options.input))


def _given(options: argparse.Namespace, out: Path | None) -> _Given:
    """The features that are probed: stored ones, or those of a network."""
    if _is_stored(options):
        return FeatureSet.load(options.input), {}, {"features": str(options.input)}
    frozen = _table3_model(options) if options.model is None else _named_model(options)
    frozen.model.to(options.device)
    if options.train_heads:
        frozen = _with_heads(options, frozen, out)
    return _extracted(options, frozen, out)


def _named_model(options: argparse.Namespace) -> FrozenModel:
    return named_model(
        options.model,
        None if options.input is None else Path(options.input),
        size=size_of(options.size or "256x128"),
        stage=options.stage or "layer4",
        embed=options.embed,
        neck=options.neck,
        seed=options.seed,
    )


def _table3_model(options: argparse.Namespace) -> FrozenModel:
    """A network that ``table3`` trained, on images of the trial that it was trained on."""
    from mixer_plugin.benchmarks.experiment.images import images_of
    from mixer_plugin.benchmarks.experiment.trained_network import load_trained

    model, built = load_trained(options.input)
    given = {"layout": options.layout, "trial": options.trial}
    _, options.trial = images_of(options.input, built, options.root, options.split, **given)
    return FrozenModel(
        model=model,
        adapter="auto",
        size=built.image_size,
        normalisation=Augmentation(mean=built.mean, std=built.std),
        about={"baseline": built.baseline, "mode": built.mode, "classes": built.classes},
    )


def _with_heads(options: argparse.Namespace, frozen: FrozenModel, out: Path | None) -> FrozenModel:
    """The model with heads of its own, trained on the training split's maps."""
    images = read_images(options.root, "train", layout=options.layout, trial=options.trial)
    labels = torch.from_numpy(images.labels()[0])
    if isinstance(frozen.model, MixedModule):
        adapter = mixer_of(frozen.model).adapter
        model = unwrap_mixer(frozen.model)
    else:
        adapter, model = frozen.adapter, frozen.model
    classes, config = int(labels.max()) + 1, _mixer_config(options)
    wrap_with_mixer(
        model,
        "f",
        num_classes=classes,
        adapter=adapter,
        config=config,
        seed=options.seed,
    )
    model.eval()
    copies = 1 if options.copies is None else options.copies
    iterations = 800 if options.iterations is None else options.iterations
    recipe = HeadRecipe(iterations=iterations, p=min(8, classes))
    training = mark_of({}, recipe=asdict(recipe), seed=options.seed, mixer=config.to_dict())
    told = progress(options, "trained", "steps")
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        maps = cache_maps(
            model,
            images,
            folder / "maps",
            size=frozen.size,
            # Further copies are not flipped, which would hide an identity cue of generated images.
            augmentation=replace(frozen.normalisation, flip=0.0, pad=4, grey="mix", erase=0.4),
            copies=copies,
            seed=options.seed,
            batch=options.batch,
            workers=options.workers,
            progress=progress(options, "cached", "maps"),
        )
        train_heads(
            model,
            maps.placed(options.device),
            labels,
            recipe=recipe,
            seed=options.seed,
            checkpoint=folder / f"heads-{maps.mark[:8]}-{training[:8]}.pt",
            on_step=lambda step, loss: told(step + 1, recipe.iterations),
        )
    mixer = read_values(options.mixer or ())
    heads = {"recipe": asdict(recipe), "copies": copies, "classes": classes, "mixer": mixer}
    return replace(frozen, model=model, adapter=adapter, about={**frozen.about, "heads": heads})


def _mixer_config(options: argparse.Namespace) -> MixERConfig:
    """Of the heads that are trained, on the frozen network."""
    return MixERConfig.from_dict({**read_values(options.mixer or ()), "frozen_base": True})


def _extracted(options: argparse.Namespace, frozen: FrozenModel, out: Path | None) -> _Given:
    """Features of the network's images; reads those that an earlier call extracted."""
    images = read_images(options.root, options.split, layout=options.layout, trial=options.trial)
    mark = mark_of(
        dict(frozen.model.state_dict()),
        paths=[Path(path).relative_to(images.root).as_posix() for path in images.paths],
        root=str(Path(options.root).absolute()),
        size=frozen.size,
        mean=frozen.normalisation.mean,
        std=frozen.normalisation.std,
        about={name: value for name, value in frozen.about.items() if name != "weights"},
    )
    found = None if out is None else _stored(out, mark)
    if found is not None:
        note(options, "features: kept")
        return *found, frozen.about
    transform = partial(_normalised, frozen.normalisation)
    dataset = ImageDataset(images, frozen.size, transform=transform)
    loader = DataLoader(dataset, options.batch, num_workers=options.workers)
    told = progress(options, "extracted")
    features, before = extract_views(
        frozen.model,
        loader,
        adapter=frozen.adapter,
        progress=lambda done: told(done, len(images)),
    )
    if out is not None:
        arrays: dict[str, Any] = {name: value.numpy() for name, value in before.items()}
        (out / "before.npz").unlink(missing_ok=True)  # it vouches for the other
        features.save(out / "features.npz")
        write_npz({"mark": np.array(mark), **arrays}, out / "before.npz")
    return features, before, frozen.about


def _stored(out: Path, mark: str) -> tuple[FeatureSet, dict[str, Tensor]] | None:
    """An earlier call's features, if its inputs were the same; before.npz was written last."""
    try:
        held, _ = read_arrays(out / "before.npz")
        if str(held.pop("mark", "")) != mark:
            return None
        before = {name: torch.from_numpy(array) for name, array in held.items()}
        return FeatureSet.load(out / "features.npz"), before
    except (OSError, MixERError):
        return None


def _normalised(normalisation: Augmentation, pixels: Tensor) -> Tensor:
    return normalise(pixels[None], normalisation)[0]


def _write(
    out: Path, report: ProbeReport, options: argparse.Namespace, about: dict[str, Any]
) -> None:
    from mixer_plugin.run_card import run_card

    given = {name: value for name, value in vars(options).items() if name != "run"}
    texts = {
        "probe.md": report.to_markdown(),
        "probe.json": report.to_json(),
        "run_card.json": json.dumps(run_card(given, probed=about), indent=1, default=str) + "\n",
    }
    for name, text in texts.items():
        write_text(out / name, text)
