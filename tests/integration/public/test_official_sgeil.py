"""Our SGEIL against the public code (jiawei151/SGIEL_VIReID): its own training function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mixer_plugin.baselines import create_baseline, load_official
from mixer_plugin.baselines import sgeil as module
from mixer_plugin.baselines.common.cutmix import Cut
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.baselines.sgeil import BASELINE, SGEILLoop
from tests.integration.public import official

pytestmark = official.needs("sgeil")

# The functions are cut out of the script, which cannot be imported, and given two batches.
SCRIPT = """
import ast
import time
from types import SimpleNamespace
import numpy as np
import torch.nn.functional as F
from loss import OriTripletLoss, sce, shape_cpmt_cross_modal_ce
from mixer_plugin.adapters import resolve_adapter
from model_bn import embed_net
from utils import check_loss

net, net_ema = (embed_net(6, no_local="off", gm_pool="on").to(torch.float64) for _ in range(2))
missing, unexpected = net.load_state_dict(case["state"], strict=False)
assert not unexpected, unexpected
net_ema.load_state_dict(net.state_dict())
torch.set_default_dtype(torch.float64)
meters, steps, losses = [], [], []

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
        steps.append({"grads": norms, "total": losses[-1]})
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.99)

class Batches(list):
    def __iter__(self):
        for batch in list.__iter__(self):
            yield batch
            # In the order in which `train` makes them.
            names = ("erased", "id", "shape", "w1", "ortho", "complement", "consistent")
            for name, meter in zip(names, meters):
                steps[-1][name] = meter.val

def kept(loss):
    losses.append(loss.item())
    return check_loss(loss)

triplet = OriTripletLoss(margin=0.3)

def kept_triplet(*args):
    found = triplet(*args)
    kept_triplet.last = found[0].item()
    return found

# What its random numbers would have chosen.
drawn = iter(case["centers"] * 9)
random = SimpleNamespace(
    rand=lambda n: case["draw"], beta=lambda a, b: case["lam"], randint=lambda n: next(drawn)
)
np_ = SimpleNamespace(random=random, sqrt=np.sqrt, clip=np.clip, int=int)
torch.randperm = lambda n: case["partners"]
wanted = ("train", "update_ema_variables", "rand_bbox")
source = ast.parse((Path(checkout) / "train.py").read_text())
functions = [n for n in source.body if isinstance(n, ast.FunctionDef) and n.name in wanted]
scope = {
    "torch": torch, "F": F, "np": np_, "time": time, "AverageMeter": AverageMeter, "net": net,
    "net_ema": net_ema, "adjust_learning_rate": lambda *args: (0.1, case["ema_w"]),
    "optimizer": Optimizer(), "trainloader": Batches(case["batches"]), "check_loss": kept,
    "criterion_id": torch.nn.CrossEntropyLoss(), "criterion_tri": kept_triplet, "sce": sce,
    "shape_cpmt_cross_modal_ce": shape_cpmt_cross_modal_ce, "device": "cpu",
    "args": SimpleNamespace(gradclip=11),
}
exec(compile(ast.Module(functions, []), "train.py", "exec"), scope)
scope["train"](case["epoch"])
found = {"steps": steps, "missing": missing, "triplet": getattr(kept_triplet, "last", None)}
found["state"] = {k: t.clone() for k, t in net.state_dict().items()}
found["twin"] = {k: t.clone() for k, t in net_ema.state_dict().items()}
net.eval()
v, _, i, _, _, _ = case["batches"][0]
with torch.no_grad():
    found["features"] = {1: net(v, v, mode=1), 2: net(i, i, mode=2)}
found["adapter"] = resolve_adapter(net).name
"""


@pytest.mark.parametrize(("mixed", "epoch"), [(False, 20), (True, 0)])
def test_equals_the_public_code(
    mixed: bool, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    ours = official.randomised(create_baseline("sgeil", 6)).double()
    labels = torch.tensor([0, 0, 3, 3])
    batches = [(*torch.randn(4, 4, 3, 96, 48).double(), labels + i, labels + i) for i in (0, 2)]
    partners = torch.tensor([2, 0, 3, 1])
    case = {
        # Its train script may write into what the loader gave.
        "batches": [tuple(x.clone() for x in batch) for batch in batches],
        "state": ours.state_dict(),
        "epoch": epoch,
        "ema_w": 10000 if epoch else 1000,
        "draw": 0.1 if mixed else 0.5,
        "lam": 0.36,  # a box of 0.8 of each side, cut off at the border
        "centers": [70, 20],
        "partners": partners,
    }
    public = official.run_official(SCRIPT, "sgeil", case, tmp_path)
    official.assert_only_dead(public["missing"], dict(BASELINE.dead))
    assert public["adapter"] == "sgeil"

    cut = Cut(slice(70 - 38, 96), slice(20 - 19, 20 + 19), partners)
    monkeypatch.setattr(module, "draw_cut", lambda *sizes: cut)
    modality = torch.tensor([0, 1]).repeat_interleave(4)
    loop = SGEILLoop(mix=1.0 if mixed else 0.0)
    loop.start_epoch(ours, epoch)
    for (v, v_shape, i, i_shape, own, _), theirs in zip(batches, public["steps"], strict=True):
        ours.train().zero_grad()
        images, shapes = torch.cat([v, i]), torch.cat([v_shape, i_shape])
        step = loop(ours, Batch(images, own.repeat(2), modality, 1 + 2 * modality, shapes))
        step.loss.backward()
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 11)
        grads = theirs.pop("grads")
        mine = dict(step.terms) | {"total": step.loss}
        for name, value in theirs.items():
            if name in mine:
                official.assert_close(mine[name], value, name)
            else:
                assert value == (1 if name == "w1" else 0), "a mixed batch has no such term"
        assert {"id", "shape", "ortho"} <= mine.keys() & theirs.keys()
        official.assert_gradients_close(official.gradient_norms(ours), grads)
        assert (step.labels is None) == mixed
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.mul_(0.99)
        loop.stepped(ours)
    if not mixed:
        official.assert_close(step.terms["tri"], public["triplet"], "tri")
        assert {"w1", "erased", "complement", "consistent"} <= step.terms.keys()

    for key, value in loop.twin.state_dict().items():  # type: ignore[union-attr]
        official.assert_close(value, public["twin"][key], f"twin's {key}")
    ours.eval()
    for mode, images in ((1, batches[0][0]), (2, batches[0][2])):
        with torch.no_grad():
            pairs = zip(ours(images, images, mode=mode), public["features"][mode], strict=True)
        for a, b in pairs:
            official.assert_close(a, b, f"features of mode {mode}")

    # The file that its loop would write: accuracies of NumPy beside the state.
    file = tmp_path / "best.t"
    cmc = np.linspace(0, 1, 20)
    torch.save({"net": public["state"], "cmc": cmc, "mAP": cmc.mean(), "epoch": 4}, file)
    report = load_official(ours, file)
    assert len(report.loaded) + len(report.dead) == len(public["state"])
    assert all(torch.equal(v, public["state"][k]) for k, v in ours.state_dict().items())
