"""The process that builds a network and looks at it; run by ``mixer-plugin inspect``."""

from __future__ import annotations

import argparse
import sys
import textwrap
import traceback
import warnings
from typing import Any

import torch
from torch import nn

from mixer_plugin.adapters import list_adapters, resolve_adapter
from mixer_plugin.conformance import NO_LINE, UNABLE, shims
from mixer_plugin.conformance.document import json_document
from mixer_plugin.conformance.inspection.propose import propose
from mixer_plugin.conformance.inspection.report import facts, report
from mixer_plugin.conformance.inspection.ways import find_way
from mixer_plugin.errors import MixERError
from mixer_plugin.forward.build import build_network, numbers_of


def main() -> int:
    """Prints what was found; the exit code is described in ``mixer-plugin inspect -h``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("build")
    parser.add_argument("--size", nargs=2, type=int)
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of the network's own code
    with json_document(given.json) as found:
        return _inspect(given, found)


def _inspect(given: argparse.Namespace, found: dict[str, Any]) -> int:
    shims.install(given.folder)
    torch.manual_seed(0)
    try:
        model = build_network(given.build, given.classes).eval()
        classes = _classes(model, given.build, given.classes)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"{type(model).__name__} from {given.build}: {millions:.1f} M parameters", flush=True)
        found |= {"network": type(model).__name__, "parameters": round(millions * 1e6)}
        known = [name for name in list_adapters() if resolve_adapter(model, name).matches(model)]
        if known:
            print(f"known       adapter {', '.join(known)}: wrap_with_mixer(net) is enough")
        way = find_way(model, classes, tuple(given.size) if given.size else None)
        found["known"] = known
        proposal = propose(model, way, classes)
    except (MixERError, shims.NotInstalled) as error:
        found["unable"] = str(error)
        print(f"unable: {error}")
        return UNABLE
    except Exception as error:
        traceback.print_exc()
        why = textwrap.shorten(str(error), 300, placeholder=" …")  # the traceback has it whole
        found["unable"] = f"the network's code failed: {type(error).__name__}: {why}"
        print(f"unable: {found['unable']}")
        return UNABLE
    print(report(model, proposal, classes))
    found |= facts(proposal)
    return NO_LINE if proposal.line is None else 0


def _classes(model: nn.Module, build: str, classes: int) -> int:
    """Training identities: a number of the call that a linear layer has as many columns as."""
    columns = {m.out_features for m in model.modules() if isinstance(m, nn.Linear)}
    return next((n for n in numbers_of(build) if n in columns), classes)


if __name__ == "__main__":
    sys.exit(main())
