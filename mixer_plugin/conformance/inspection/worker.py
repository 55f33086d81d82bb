"""The process that builds a network and looks at it; run by ``mixer-plugin inspect``."""

from __future__ import annotations

import argparse
import sys
import textwrap
import traceback
import warnings

import torch
from torch import nn

from mixer_plugin.adapters import list_adapters, resolve_adapter
from mixer_plugin.conformance import NO_LINE, UNABLE, shims
from mixer_plugin.conformance.inspection.propose import propose
from mixer_plugin.conformance.inspection.report import report
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
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of the network's own code
    shims.install(given.folder)
    torch.manual_seed(0)
    try:
        model = build_network(given.build, given.classes).eval()
        classes = _classes(model, given.build, given.classes)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"{type(model).__name__} from {given.build}: {millions:.1f} M parameters", flush=True)
        known = [name for name in list_adapters() if resolve_adapter(model, name).matches(model)]
        if known:
            print(f"known       adapter {', '.join(known)}: wrap_with_mixer(net) is enough")
        way = find_way(model, classes, tuple(given.size) if given.size else None)
        proposal = propose(model, way, classes)
    except (MixERError, shims.NotInstalled) as error:
        print(f"unable: {error}")
        return UNABLE
    except Exception as error:
        traceback.print_exc()
        why = textwrap.shorten(str(error), 300, placeholder=" …")  # the traceback has it whole
        print(f"unable: the network's code failed: {type(error).__name__}: {why}")
        return UNABLE
    print(report(model, proposal, classes))
    return NO_LINE if proposal.line is None else 0


def _classes(model: nn.Module, build: str, classes: int) -> int:
    """Training identities: a number of the call that a linear layer has as many columns as."""
    columns = {m.out_features for m in model.modules() if isinstance(m, nn.Linear)}
    return next((n for n in numbers_of(build) if n in columns), classes)


if __name__ == "__main__":
    sys.exit(main())
