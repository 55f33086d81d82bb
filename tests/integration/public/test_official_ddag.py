"""Our DDAG against the public code (mangye16/DDAG): features, terms, gradients, checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mixer_plugin.baselines import create_baseline, create_loop, load_official
from mixer_plugin.baselines.ddag import BASELINE, identity_graph
from mixer_plugin.baselines.loops import Batch
from tests.integration.public import official

pytestmark = official.needs("ddag")

# Losses put together as the public loop does, from its own classes.
SCRIPT = """
import torch.nn.functional as F
from loss import OriTripletLoss
from model_main import embed_net

net = embed_net(512, 6, drop=0.2, part=3, arch="resnet50", wpa=True)
missing, unexpected = net.load_state_dict(case["state"], strict=False)
assert not unexpected, unexpected
triplet = OriTripletLoss(batch_size=8, margin=0.3)
v, i, labels = case["visible"], case["infrared"], case["labels"]
steps = []
for seed in range(2):
    torch.manual_seed(seed)
    net.train().zero_grad()
    pooled, logits, part_logits, graph = net(v, i, case["graph"])
    terms = {
        "id": F.cross_entropy(logits, labels),
        "tri": triplet(pooled, labels)[0],
        "part": F.cross_entropy(part_logits, labels),
        "graph": F.nll_loss(graph, labels),
    }
    (terms["id"] + terms["tri"] + terms["part"] + 0.5 * terms["graph"]).backward()
    grads = {k: p.grad.norm() for k, p in net.named_parameters() if p.grad is not None}
    steps.append(({k: t.detach() for k, t in terms.items()}, grads))
state = {k: t.clone() for k, t in net.state_dict().items()}
net.eval()
with torch.no_grad():
    features = {"visible": net(v, v, 0, 1), "infrared": net(i, i, 0, 2)}
found = {"steps": steps, "features": features, "missing": missing, "state": state}
"""


def test_equals_the_public_code(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = official.randomised(create_baseline("ddag", 6))
    labels = torch.tensor([0, 0, 3, 3]).repeat(2)
    visible, infrared = torch.randn(2, 4, 3, 96, 48)
    case = {"state": ours.state_dict(), "visible": visible, "infrared": infrared}
    case |= {"labels": labels, "graph": identity_graph(labels)}
    public = official.run_official(SCRIPT, "ddag", case, tmp_path)
    official.assert_only_dead(public["missing"], dict(BASELINE.dead))

    modality = torch.tensor([0, 1]).repeat_interleave(4)
    batch = Batch(torch.cat([visible, infrared]), labels, modality, 1 + 2 * modality)
    loop = create_loop("ddag")
    loop.graph_weight.fill_(0.5)
    for seed, (terms, grads) in enumerate(public["steps"]):
        torch.manual_seed(seed)
        ours.train().zero_grad()
        step = loop(ours, batch)
        step.loss.backward()
        for name, value in terms.items():
            official.assert_close(step.terms[name], value, name)
        official.assert_gradients_close(official.gradient_norms(ours), grads)

    ours.eval()
    for name, images, modal in (("visible", visible, 1), ("infrared", infrared, 2)):
        with torch.no_grad():
            pairs = zip(ours(images, images, 0, modal), public["features"][name], strict=True)
        for mine, theirs in pairs:
            official.assert_close(mine, theirs, name)

    # The file that its loop would write: accuracies of NumPy beside the state.
    file = tmp_path / "best.t"
    cmc = np.linspace(0, 1, 20)
    torch.save({"net": public["state"], "cmc": cmc, "mAP": cmc.mean(), "epoch": 4}, file)
    report = load_official(ours, file)
    assert len(report.loaded) + len(report.dead) == len(public["state"])
    assert all(torch.equal(v, public["state"][k]) for k, v in ours.state_dict().items())
