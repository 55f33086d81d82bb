"""Our DEEN against the public code (ZYK100/LLCM): its own training function, and its features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mixer_plugin.adapters import resolve_adapter
from mixer_plugin.baselines import create_baseline, create_loop, load_official
from mixer_plugin.baselines.deen import BASELINE
from mixer_plugin.baselines.loops import Batch
from tests.integration.public import official

pytestmark = official.needs("deen")

# The function `train` is cut out of the script, which cannot be imported, and given two batches.
SCRIPT = """
import ast
import time
from types import SimpleNamespace
from torch.autograd import Variable
from loss import CPMLoss, OriTripletLoss
from mixer_plugin.adapters import resolve_adapter
from model import embed_net

net = embed_net(6, case["dataset"], arch="resnet50").to(torch.float64)
missing, unexpected = net.load_state_dict(case["state"], strict=False)
assert not unexpected, unexpected
torch.set_default_dtype(torch.float64)
meters, steps = [], []

class AverageMeter:
    def __init__(self):
        self.val = self.avg = 0
        meters.append(self)
    def update(self, value, n=1):
        self.val = value

class Optimizer:
    def zero_grad(self):
        net.zero_grad()
    def step(self):
        norms = {k: p.grad.norm() for k, p in net.named_parameters() if p.grad is not None}
        steps.append({"grads": norms})
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.99)

class Batches(list):
    def __iter__(self):
        for i, batch in enumerate(list.__iter__(self)):
            torch.manual_seed(i)
            yield batch
            # In the order in which `train` makes them.
            for name, meter in zip(("total", "id", "tri", "cpm", "ort"), meters):
                steps[-1][name] = meter.val

source = ast.parse((Path(checkout) / "train.py").read_text())
train = [n for n in source.body if isinstance(n, ast.FunctionDef) and n.name == "train"]
scope = {
    "torch": torch, "time": time, "Variable": Variable, "AverageMeter": AverageMeter,
    "adjust_learning_rate": lambda *args: 0.1, "optimizer": Optimizer(), "net": net,
    "trainloader": Batches(case["batches"]), "criterion_id": torch.nn.CrossEntropyLoss(),
    "criterion_tri": OriTripletLoss(8, margin=0.3), "criterion_cpm": CPMLoss(margin=0.2),
    "args": SimpleNamespace(lambda_1=0.8, lambda_2=0.01),
    "writer": SimpleNamespace(add_scalar=lambda *args: None),
}
exec(compile(ast.Module(train, []), "train.py", "exec"), scope)
scope["train"](0)
state = {k: t.clone() for k, t in net.state_dict().items()}
net.eval()
v, i, _, _ = case["batches"][0]
with torch.no_grad():
    features = {1: net(v, v, 1), 2: net(i, i, 2)}
found = {"steps": steps, "features": features, "missing": missing, "state": state}
found["adapter"] = resolve_adapter(net).name, resolve_adapter(net).stage_path(net)
"""


def calm(name: str) -> float:
    """Aggregation is cubic in its maps: with weights around 1 it would drown all else."""
    return 0.1 if "MFA" in name and name.endswith("W.1.weight") else 1.0


@pytest.mark.parametrize("dataset", ["sysu", "regdb"])
def test_equals_the_public_code(dataset: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = official.randomised(create_baseline("deen", 6, dataset=dataset), calm).double()
    labels = torch.tensor([0, 0, 3, 3])
    batches = [(*torch.randn(2, 4, 3, 96, 48).double(), labels + i, labels + i) for i in (0, 2)]
    case = {"state": ours.state_dict(), "batches": batches, "dataset": dataset}
    public = official.run_official(SCRIPT, "deen", case, tmp_path)
    dead = dict(BASELINE.dead)
    if dataset != "regdb":
        dead.pop(r"base_resnet\.base\.layer4\..*")
    official.assert_only_dead(public["missing"], dead)
    assert public["adapter"] == ("deen", resolve_adapter(ours).stage_path(ours))

    modality = torch.tensor([0, 1]).repeat_interleave(4)
    loop = create_loop("deen")
    loop.start_epoch(ours, 0)
    for seed, ((visible, infrared, own, _), theirs) in enumerate(
        zip(batches, public["steps"], strict=True)
    ):
        torch.manual_seed(seed)
        ours.train().zero_grad()
        images = torch.cat([visible, infrared])
        step = loop(ours, Batch(images, own.repeat(2), modality, 1 + 2 * modality))
        step.loss.backward()
        grads = theirs.pop("grads")
        mine = dict(step.terms) | {"total": step.loss}
        # The public script shows them with their weights.
        mine |= {"cpm": 0.8 * mine["cpm"], "ort": 0.01 * mine["ort"]}
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            official.assert_close(mine[name], value, name)
        official.assert_gradients_close(official.gradient_norms(ours), grads)
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.mul_(0.99)

    ours.eval()
    for modal, images in ((1, batches[0][0]), (2, batches[0][1])):
        with torch.no_grad():
            pairs = zip(ours(images, images, modal), public["features"][modal], strict=True)
        for a, b in pairs:
            official.assert_close(a, b, f"features of modality {modal}")

    # The file that its loop would write: accuracies of NumPy beside the state.
    file = tmp_path / "best.t"
    cmc = np.linspace(0, 1, 20)
    contents = {"net": public["state"], "cmc": cmc, "mAP": cmc.mean(), "mINP": 0.5, "epoch": 4}
    torch.save(contents, file)
    report = load_official(ours, file)
    assert len(report.loaded) + len(report.dead) == len(public["state"])
    assert all(torch.equal(v, public["state"][k]) for k, v in ours.state_dict().items())
