"""A codebase nobody has seen: one adapter file, one toy row, and the contract suite runs on it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.adapters import registry, resolve_adapter
from mixer_plugin.baselines import create_baseline, list_baselines
from mixer_plugin.baselines.loops import Batch, ScriptLoop, Step, halves
from tests.contract import test_contract as contract
from tests.contract.toys import CLASSES, Toy

# The file.
ADAPTER = '''
"""Somebody's networks: two stems, shared stages, one neck."""

from mixer_plugin.adapters import LossInLoop, Tap, register_adapter
from mixer_plugin.adapters.base import has_submodules


@register_adapter
class SeventhAdapter(LossInLoop):
    name = "seventh"
    stage = "shared.layer4"
    erased_before = Tap("bottleneck", "input")
    erased_after = Tap("bottleneck", "output")
    classifier = "classifier"
    base_losses = frozenset({"identity"})

    def matches(self, model):
        return has_submodules(model, self.stage, "visible", "thermal", "bottleneck", "classifier")

    def widths(self, model):
        return model.bottleneck.num_features, model.bottleneck.num_features

    def embed_one(self, model, images, modality):
        return model(images, images, modality + 1)
'''


class Seventh(nn.Module):
    """The network of the codebase."""

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            conv = nn.Conv2d(inputs, outputs, 3, padding=1)
            return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

        self.visible, self.thermal = block(3, 6), block(3, 6)
        self.shared = nn.Sequential()
        self.shared.add_module("layer3", block(6, 8))
        self.shared.add_module("layer4", block(8, 10))
        self.bottleneck = nn.BatchNorm1d(10)
        self.classifier = nn.Linear(10, CLASSES, bias=False)

    def forward(self, x1: Tensor, x2: Tensor, modal: int = 0):  # type: ignore[no-untyped-def]
        stems = {0: lambda: torch.cat([self.visible(x1), self.thermal(x2)])}
        stems |= {1: lambda: self.visible(x1), 2: lambda: self.thermal(x2)}
        pooled = self.shared(stems[modal]()).mean((2, 3))
        feature = self.bottleneck(pooled)
        return (pooled, self.classifier(feature)) if self.training else F.normalize(feature)


class SeventhLoop(ScriptLoop):
    def forward(self, net: nn.Module, batch: Batch) -> Step:
        outputs = net(*halves(batch))
        return Step(outputs, F.cross_entropy(outputs[1], batch.labels), {}, batch.labels)


def alone(net: nn.Module, batch: Batch, loop: object) -> Tensor:
    outputs = net(batch.images, batch.images, 1 + int(batch.modality[0]))
    return outputs[1].square().mean()


# The row.
ROW = Toy(
    "seventh",
    Seventh,
    look=lambda net, b: net(b.images[b.modality == 0], b.images[b.modality == 1]),
    loop=SeventhLoop,
    alone=alone,
    erased=F.normalize,
)

TESTS = {
    name: set(inspect.signature(test).parameters)
    for name, test in vars(contract).items()
    if name.startswith("test_") and "toy" in inspect.signature(test).parameters
}
CASES = [
    (name, mode)
    for name, asked in TESTS.items()
    if asked <= {"toy", "mode"}
    for mode in (("e2e", "f") if "mode" in asked else (None,))
]


@pytest.fixture
def seventh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter's file, imported as an installed package's would be."""
    registry.list_adapters()  # what registers at import must have done so before
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    file = tmp_path / "seventh_adapter.py"
    file.write_text(ADAPTER, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("seventh_adapter", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "seventh_adapter", module)
    spec.loader.exec_module(module)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), CASES)
def test_the_contract_holds(seventh: None, name: str, mode: str | None) -> None:
    options = {} if mode is None else {"mode": mode}
    getattr(contract, name)(toy=ROW, **options)


def test_the_suite_was_found() -> None:
    assert len(CASES) > 30


@pytest.mark.parametrize("name", list_baselines())
def test_a_fork_under_another_name_is_recognised_by_one_adapter(seventh: None, name: str) -> None:
    model = create_baseline(name, 4, trunk="small")
    fork = type("SomebodysNet", (type(model),), {})
    model.__class__ = fork
    model.extra_branch = nn.Linear(2, 2)
    fitting = [n for n, cls in registry._adapters().items() if cls().matches(model)]
    assert fitting == [name.removesuffix("-base")]
    assert resolve_adapter(model).name == fitting[0]


def test_an_unknown_network_is_told_what_was_looked_for_and_the_way_in() -> None:
    with pytest.raises(Exception, match="No adapter recognises Seventh") as caught:
        resolve_adapter(Seventh())
    message = str(caught.value)
    assert "sub-modules: visible, thermal, shared, bottleneck, classifier" in message
    assert "ddag (base_resnet.base.layer4)" in message
    assert 'adapter=GenericAdapter(stage="layer4"' in message
