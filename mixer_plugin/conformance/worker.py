"""The process that imports a checkout and tries the invariants on its network.

``python -m mixer_plugin.conformance.worker NAME CHECKOUT [options]``; run by
``mixer-plugin check``, never in the user's own process: see :mod:`mixer_plugin.conformance.shims`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixer_plugin.adapters import Adapter, GenericAdapter
from mixer_plugin.attach import check_optimizer
from mixer_plugin.baselines.loops import Loop
from mixer_plugin.config import MixERConfig
from mixer_plugin.conformance import UNABLE, shims
from mixer_plugin.conformance.any_loop import RECIPE, any_loop
from mixer_plugin.conformance.building import read_adapter
from mixer_plugin.conformance.case import Case
from mixer_plugin.conformance.codebases import CLASSES, CODEBASES, find_codebase
from mixer_plugin.conformance.document import json_document
from mixer_plugin.conformance.invariants import INVARIANTS, Broken
from mixer_plugin.conformance.wrappers import WRAPPERS, try_wrapper
from mixer_plugin.errors import MixERError
from mixer_plugin.extraction import extract_features
from mixer_plugin.forward.build import build_network
from mixer_plugin.io.yaml_file import read_values

IMAGE_SIZE = (96, 48)  # of a network whose adapter names none


def make_case(
    name: str,
    checkout: str,
    dataset: str,
    build: str | None,
    config: MixERConfig,
    size: tuple[int, int] | None = None,
) -> Case:
    """Imports the checkout and builds its network; prints what was found.

    Raises:
        MixERError: if the checkout is not the codebase's, or the adapter does not fit the network.
    """
    codebase, folder = CODEBASES.get(name), checkout
    if build is None:
        codebase, found = find_codebase(name, checkout)
        folder = str(found)
    shims.install(folder)
    torch.manual_seed(0)
    if build is None:
        assert codebase is not None
        model = codebase.build(CLASSES, dataset)
    else:
        model = build_network(build, CLASSES)
    adapter = read_adapter(name, model, Path(checkout))
    if codebase is not None and not adapter.matches(model):
        print(f"NOTE: {type(model).__name__} is not recognised by structure; adapter= must name it")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{type(model).__name__} from {folder}: {parameters:.1f} M parameters", flush=True)
    if isinstance(adapter, GenericAdapter):
        adapter.validate(model)
        print(adapter.describe(model))
        size = size or adapter.trial
    classes = adapter.num_classes(model)
    new_loop, recipe = _loop_and_recipe(name, dataset, adapter, model, classes)
    size = size or (codebase.image_size if codebase is not None else IMAGE_SIZE)
    return Case(model, adapter, new_loop, recipe, size, classes, config)


def _loop_and_recipe(
    name: str, dataset: str, adapter: Adapter, model: nn.Module, classes: int
) -> tuple[Callable[[], Loop], dict[str, Any]]:
    """Those of the codebase where we have them; a plain loop of any network else."""
    from mixer_plugin.baselines import create_loop, list_baselines
    from mixer_plugin.baselines.recipe import load_recipe

    if name in list_baselines():
        return lambda: create_loop(name), load_recipe(name, dataset)
    return lambda: any_loop(adapter, model, classes), RECIPE


def show_steps(case: Case) -> None:
    """Prints the losses of a training step in both modes, and if the optimizer has the heads."""
    from mixer_plugin.baselines.recipe import build_optimizer

    for mode in ("e2e", "f"):
        model = case.wrapped(mode)
        step = case.step(model)
        base = step.loss
        if case.in_loop and step.labels is not None:
            total = base + case.added(model, step, step.labels)
        else:
            total, base = base, base - step.terms["mixer/total"]
        torch.autograd.backward(total)
        extra = float(total.detach() - base.detach())
        print(f"step in mode {mode}: base {float(base.detach()):.4f} + MixER {extra:.4f}")
    model = case.wrapped()
    for finding in check_optimizer(model, build_optimizer(model, case.recipe)):
        print(f"NOTE: {finding}")


def show_evaluation(case: Case) -> None:
    """Both modalities' evaluation: the network's own embedding, and MixER's beside it."""
    model = case.wrapped()
    for modality, name in enumerate(("visible", "infrared")):
        images, kinds = case.images(modality)
        own = case.embed(case.prototype, modality)
        found = extract_features(model, [(images, kinds, kinds, kinds)])
        assert found.related is not None
        shapes = f"erased {list(found.erased.shape)}, related {list(found.related.shape)}"
        print(f"evaluation of {name} images: own {list(own.shape)}; with MixER {shapes}")


def try_wrappers(case: Case) -> list[dict[str, Any]]:
    """Prints and returns what came of a step in each wrapper."""
    found: list[dict[str, Any]] = []
    for name, wrapper in WRAPPERS.items():
        started = time.perf_counter()
        equal = True
        try:
            verdict = try_wrapper(case, wrapper)
        except Exception as reason:  # a difference, or a failure of any kind
            verdict, equal = f"DIFFERS: {type(reason).__name__}: {reason}", False
        seconds = time.perf_counter() - started
        print(f"{name:20} {verdict} ({seconds:.1f} s)", flush=True)
        found.append({"wrapper": name, "equal": equal, "detail": verdict})
    return found


def try_invariants(case: Case) -> list[dict[str, Any]]:
    """Prints and returns what came of each invariant."""
    found: list[dict[str, Any]] = []
    for number, invariant in enumerate(INVARIANTS, 1):
        title = (invariant.__doc__ or "").partition(": ")[2].rstrip(".")
        started = time.perf_counter()
        held = False
        try:
            detail, held = invariant(case), True
        except Broken as reason:
            detail = str(reason)
        except Exception as error:  # any failure of any kind is this invariant's
            detail = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        verdict = "held" if held else "BROKEN"
        print(f"{number}  {verdict:6}  {title}\n           {detail} ({seconds:.1f} s)", flush=True)
        found.append({"number": number, "title": title, "held": held, "detail": detail})
    whole = sum(bool(each["held"]) for each in found)
    print(f"{whole} of {len(found)} invariants held", flush=True)
    return found


def main() -> int:
    """Prints one line per invariant; the exit code is described in ``mixer-plugin check -h``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("checkout")
    parser.add_argument("--dataset", default="sysu")
    parser.add_argument("--build")
    parser.add_argument("--size", nargs=2, type=int)
    parser.add_argument("--wrappers", action="store_true")
    parser.add_argument("--mixer", nargs="*", default=[])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # how it splits a foreign forward
    with json_document(given.json) as found:
        return _check(given, found)


def _check(given: argparse.Namespace, found: dict[str, Any]) -> int:
    try:
        config = MixERConfig.from_dict(read_values(given.mixer))
        size = tuple(given.size) if given.size else None
        case = make_case(given.name, given.checkout, given.dataset, given.build, config, size)
        found["network"] = type(case.prototype).__name__
        show_steps(case)
        show_evaluation(case)
    except (MixERError, shims.NotInstalled) as error:
        found["unable"] = str(error)
        print(f"unable: {error}")
        return UNABLE
    except Exception as error:
        traceback.print_exc()
        why = textwrap.shorten(str(error), 300, placeholder=" …")  # the traceback has it whole
        found["unable"] = f"the checkout's code failed: {type(error).__name__}: {why}"
        print(f"unable: {found['unable']}")
        return UNABLE
    found["invariants"] = try_invariants(case)
    broken = [each["number"] for each in found["invariants"] if not each["held"]]
    if given.wrappers:
        found["wrappers"] = try_wrappers(case)
        broken += [] if all(each["equal"] for each in found["wrappers"]) else [7]
    return 10 + broken[0] if broken else 0


if __name__ == "__main__":
    sys.exit(main())
