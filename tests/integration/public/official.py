"""Runs the public code of a codebase beside ours, where checkouts are at hand.

Set MIXER_CODEBASES to a folder that holds them under their repositories' names: DDAG, LLCM,
SGIEL_VIReID, MPANet, SAAI, IDKL.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixer_plugin.conformance.codebases import CODEBASES

ROOT = Path(__file__).resolve().parents[3]


def checkout(name: str) -> Path:
    """Folder of a codebase's modules below MIXER_CODEBASES; may not exist."""
    codebase = CODEBASES[name]
    folder = Path(os.environ.get("MIXER_CODEBASES", "/nowhere")) / codebase.source.split("/")[1]
    for place in (folder / name.upper(), folder):
        if (place / codebase.marker).is_file():
            return place
    return folder


def needs(name: str) -> list[pytest.MarkDecorator]:
    """Marks of a module of tests that need a checkout."""
    source = CODEBASES[name].source
    return [
        pytest.mark.slow,
        pytest.mark.skipif(
            not (checkout(name) / CODEBASES[name].marker).is_file(),
            reason=f"set MIXER_CODEBASES to a folder that holds a checkout of {source}",
        ),
    ]


def run_official(script: str, name: str, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Runs ``script`` in a process that can import the checkout; ``case`` in, its ``found`` out."""
    file = folder / "case.pt"
    torch.save(case, file)
    whole = (
        "import sys\nfrom pathlib import Path\nimport torch\n"
        "from mixer_plugin.conformance import shims\n"
        "checkout, file = sys.argv[1:]\nshims.install(checkout)\n"
        "case = torch.load(file, weights_only=False)\n"
        f"{script}\n"
        "torch.save(found, file)\n"
    )
    subprocess.run(
        [sys.executable, "-c", whole, str(checkout(name)), str(file)],
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return torch.load(file, weights_only=False)


def randomised(model: nn.Module, scale: Callable[[str], float] = lambda name: 1.0) -> nn.Module:
    """Weights and statistics that no initialisation has, so that none of them cancels out."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        noise = torch.rand(value.shape, generator=generator)
        if name.endswith("running_mean"):
            value.copy_(0.1 * noise)
        elif name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight")):
            value.copy_(0.5 + noise)
        elif name.endswith("bias") and model.get_parameter(name).requires_grad:
            value.copy_(0.1 * noise)
        if value.is_floating_point():
            value.mul_(scale(name))
    return model


def assert_only_dead(missing: list[str], dead: dict[str, str]) -> None:
    """The public names that our checkpoint lacks are those that the baseline calls dead."""
    unexplained = [k for k in missing if not any(re.fullmatch(p, k) for p in dead)]
    assert not unexplained
    unused = [p for p in dead if not any(re.fullmatch(p, k) for k in missing)]
    assert not unused, "patterns that no public name has"


def assert_close(ours: Tensor | float, public: Tensor | float, what: str) -> float:
    """Within 1e-5; returns the largest difference."""
    ours, public = torch.as_tensor(ours).detach(), torch.as_tensor(public).detach()
    torch.testing.assert_close(
        ours, public, rtol=1e-5, atol=1e-5, msg=lambda m: f"{what}: {m}", check_dtype=False
    )
    return float((ours.double() - public.double()).abs().max())


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Norm of every gradient, by name."""
    return {k: p.grad.norm() for k, p in model.named_parameters() if p.grad is not None}


def assert_gradients_close(ours: dict[str, Tensor], public: dict[str, Tensor]) -> None:
    """The same parameters have gradients, of the same norms within 1e-3."""
    assert ours.keys() == public.keys()
    total = torch.stack(list(public.values())).norm()
    for key, norm in ours.items():
        assert abs(norm - public[key]) < 1e-3 * public[key] + 1e-5 * total, key
