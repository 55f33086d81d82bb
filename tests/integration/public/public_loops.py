"""The public training scripts, in short, with places for the lines of the integration pages."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixer_plugin import mixer_loss
from mixer_plugin.baselines import create_baseline, create_loop, ddag, sgeil_losses
from mixer_plugin.baselines.common.losses import batch_hard_triplet_loss
from mixer_plugin.data import ImageDataset, read_sysu
from tests.contract.toys import CLASSES, make_batch
from tests.forwards import SpareLayer
from tests.integration.public.loops_by_line import MCJA, PMT, PMT_FILES
from tests.networks import PlainTokens, TwoStreams

PLACE = re.compile(r"^( *)#@ (\w+)$", re.MULTILINE)

SIZE = (32, 16)


def fill(loop: str, blocks: Mapping[str, str]) -> str:
    """A loop with blocks in their places; a place without a block stays a comment."""

    def block(place: re.Match[str]) -> str:
        known = place[2] in blocks
        return textwrap.indent(blocks[place[2]], place[1]) if known else place[0]

    return PLACE.sub(block, loop)


def _loop(*parts: str) -> str:
    return "\n".join(textwrap.dedent(part) for part in parts)


# What the public scripts do around the added lines, in short; #@ marks the places of the blocks.
DDAG = """
    net = embed_net()
    #@ build
    ignored_params = [id(p) for m in ("bottleneck", "classifier", "wpa", "attention_0",
        "attention_1", "attention_2", "attention_3", "out_att")
        for p in net.get_submodule(m).parameters()]
    #@ ignored
    base_params = filter(lambda p: id(p) not in ignored_params, net.parameters())
    rest = [p for p in net.parameters() if id(p) in set(ignored_params) - heads_of(net)]
    optimizer = optimizer_P = torch.optim.SGD(
        [{"params": base_params, "lr": 0.1 * args.lr}, {"params": rest, "lr": args.lr}],
        weight_decay=5e-4, momentum=0.9, nesterov=True)
    #@ optimizer
    wG = 0.5
    for epoch in range(2):
        net.train()
        for input1, input2, labels in halves():
            feat, out0, out_att, output = net(input1, input2, graph(labels))
            loss = F.cross_entropy(out0, labels) + F.cross_entropy(out_att, labels)
            loss_G = F.nll_loss(output, labels)
            loss_total = loss + wG * loss_G
            #@ step
            optimizer_P.zero_grad()
            loss_total.backward()
            optimizer_P.step()
"""

AGW = """
    net = embed_net()
    #@ build
    ignored_params = list(map(id, net.bottleneck.parameters()))
    ignored_params += list(map(id, net.classifier.parameters()))
    #@ ignored
    base_params = filter(lambda p: id(p) not in ignored_params, net.parameters())
    optimizer = torch.optim.SGD(
        [{"params": base_params, "lr": 0.1 * args.lr},
         {"params": net.bottleneck.parameters(), "lr": args.lr},
         {"params": net.classifier.parameters(), "lr": args.lr}],
        weight_decay=5e-4, momentum=0.9, nesterov=True)
    #@ optimizer
    for epoch in range(2):
        net.train()
        for input1, input2, labels in halves():
            feat, out0 = net(input1, input2)
            loss = F.cross_entropy(out0, labels) + triplet(feat, labels, 0.3)
            #@ step
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
"""

DEEN = """
    net = embed_net()
    #@ build
    ignored_params = list(map(id, net.bottleneck.parameters()))
    ignored_params += list(map(id, net.classifier.parameters()))
    #@ ignored
    base_params = filter(lambda p: id(p) not in ignored_params, net.parameters())
    optimizer = torch.optim.SGD(
        [{"params": base_params, "lr": 0.1 * args.lr},
         {"params": net.bottleneck.parameters(), "lr": args.lr},
         {"params": net.classifier.parameters(), "lr": args.lr}],
        weight_decay=5e-4, momentum=0.9, nesterov=True)
    #@ optimizer
    for epoch in range(2):
        net.train()
        for input1, input2, labels in halves():
            label1, label2 = labels.chunk(2)
            labels = torch.cat((label1, label2, label1, label2, label1, label2), 0)
            feat1, out1, loss_ort = net(input1, input2)
            loss = F.cross_entropy(out1, labels) + triplet(feat1, labels, 0.3) + 0.01 * loss_ort
            refused(ValueError, net, labels)
            #@ step
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
"""

SGEIL = """
    net = embed_net()
    net_ema = embed_net()
    #@ build
    full_rate = [net.classifier, net.bottleneck, net.bottleneck_ir, net.classifier_shape,
        net.bottleneck_shape, net.projs]
    ignored_params = [id(p) for m in full_rate for p in m.parameters()]
    #@ ignored
    base_params = filter(lambda p: id(p) not in ignored_params, net.parameters())
    optimizer = torch.optim.SGD(
        [{"params": base_params, "lr": 0.1 * args.lr},
         *({"params": m.parameters(), "lr": args.lr} for m in full_rate)],
        weight_decay=5e-4, momentum=0.9, nesterov=True)
    #@ optimizer
    for epoch in range(2):
        if epoch == 0:
            net_ema.load_state_dict(net.state_dict())
        net.train()
        net_ema.train()
        for batch_idx, (x1, x1_shape, x2, x2_shape, y) in enumerate(with_shapes()):
            cutmix_prob = 0.5 * torch.tensor([batch_idx])  # the first batch is mixed
            if cutmix_prob < 0.2:
                x, other = torch.cat((x1, x2), 0), torch.cat((x2, x1), 0)
                x[:, :, 4:20, 2:12] = other[:, :, 4:20, 2:12]
                outputs = net(x[:len(x1)], x[len(x1):], x1_shape, x2_shape)
                with torch.no_grad():
                    outputs_ema = net_ema(x[:len(x1)], x[len(x1):], x1_shape, x2_shape)
                loss_id = F.cross_entropy(outputs["rgbir"]["logit"], y)
                loss_tri = loss_estimate = loss_id2 = torch.tensor(0.0)
                w1 = w2 = torch.tensor(1.0)
            else:
                with torch.no_grad():
                    outputs_ema = net_ema(x1, x2, x1_shape, x2_shape)
                outputs = net(x1, x2, x1_shape, x2_shape)
                loss_id = F.cross_entropy(outputs["rgbir"]["logit"], y)
                loss_id2 = F.cross_entropy(outputs["rgbir"]["logit2"], y)
                loss_tri = triplet(outputs["rgbir"]["bef"], y, 0.3)
                loss_estimate = consistency(
                    outputs["rgbir"]["zp"], outputs_ema["shape"], net.classifier_shape.weight)
                complement = torch.autograd.grad(
                    loss_id2, outputs["rgbir"]["bef"], retain_graph=True)[0]
                consistent = torch.autograd.grad(
                    loss_estimate, outputs["rgbir"]["bef"], retain_graph=True)[0]
                w1, w2 = consistent.norm(dim=-1).mean(), complement.norm(dim=-1).mean()
                w1, w2 = 2 * w1 / (w1 + w2), 2 * w2 / (w1 + w2)
            loss_id_shape = F.cross_entropy(outputs["shape"]["logit"], y)
            loss_ortho = orthogonality(net.projs[0])
            loss = loss_id + loss_tri + loss_id_shape + w1 * loss_estimate + w2 * loss_id2
            loss = loss + loss_ortho
            #@ step
            assert 0 <= loss.item() < 1e6
            optimizer.zero_grad()
            loss.backward()
            #@ clip
            optimizer.step()
            with torch.no_grad():
                pairs = zip(net_ema.named_parameters(), net.named_parameters(), strict=True)
                for (ema_key, ema_param), (new_key, new_param) in pairs:
                    assert ema_key == new_key
                    fast = any(k in ema_key for k in ("classifier", "bottleneck", "projs"))
                    assert not (fast and ema_key.startswith("mixer."))
                    ema_param.add_(new_param - ema_param, alpha=0.002 if fast else 0.001)
"""

# One loop for the ignite family: the trainer, its engine and its logger.
IGNITE = """
    model = Baseline(num_classes=cfg.num_id)
    #@ build
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.lr, weight_decay=cfg.wd)
    #@ optimizer
    lr_scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], gamma=0.1)
    #@ scaler
    # At its first scale every step of so short a loop would be skipped.
    scaler.load_state_dict({**scaler.state_dict(), "scale": 64.0})
    for epoch in range(1, 3):
        if model.mutual_learning:
            model.update_rate = min(100 / (epoch + 1), 1.0) * model.update_rate_
            assert model.update_rate == model.update_rate_
        kv_metric = {}
        for data, labels, cam_ids in rows():
            model.train()
            optimizer.zero_grad()
            #@ amp
            refused(RuntimeError, model, labels)
            for k in metric:
                kv_metric.setdefault(k, torch.tensor(0.0)).add_(metric[k])
        assert ("mixer/total" in kv_metric) == hasattr(model, "mixer")
        lr_scheduler.step()
    net = model
"""

# The engine's own mixed precision, where the page does not change it.
AMP = {
    "scaler": "scaler = torch.amp.GradScaler(device.type)\n",
    "amp": """
with torch.autocast(device.type, torch.float16):
    loss, metric = model(data, labels, cam_ids=cam_ids, epoch=epoch)
scaler.scale(loss).backward()
scaler.step(optimizer)
scaler.update()
""",
}

SCRIPT_FILES = """
    #@ save
    model_path = checkpoint_path + suffix + "_base.t"
    embed_net().load_state_dict(torch.load(model_path)["net"])
    #@ load
    #@ evaluate
"""

IGNITE_FILES = """
    #@ save
    cfg.resume = f"{checkpoint_dir}/model_base.pth"
    Baseline().load_state_dict(torch.load(cfg.resume))
    torch.save(model.state_dict(), "wrapped.pth")
    model.load_state_dict(torch.load("wrapped.pth"))
    #@ load
    #@ evaluate
"""

TRAINING = {
    "agw": _loop(AGW),
    "ddag": _loop(DDAG),
    "deen": _loop(DEEN),
    "sgeil": _loop(SGEIL),
    "mpanet": _loop(IGNITE),
    "saai": fill(_loop(IGNITE), AMP),
    "idkl": fill(_loop(IGNITE), AMP),
    "mcja": _loop(MCJA),
    "pmt": _loop(PMT),
}

IN_SCRIPTS = ("agw", "ddag", "deen", "sgeil")

# Networks that stand for those that no baseline of ours is of the form of.
FORMS: dict[str, Callable[[], nn.Module]] = {
    "agw": TwoStreams,
    "mcja": SpareLayer,
    "pmt": partial(PlainTokens, depth=12),
}
FILES = {"pmt": PMT_FILES}

LOOPS = {
    name: loop + _loop(FILES.get(name, SCRIPT_FILES if name in IN_SCRIPTS else IGNITE_FILES))
    for name, loop in TRAINING.items()
}


def namespace(name: str, sysu: Path, folder: Path) -> dict[str, Any]:
    """What the public script has defined before the lines in question."""
    options = {"image_size": SIZE} if name == "saai" else {}
    orders = {"agw": "blocks", "mcja": "grouped", "pmt": "blocks"}
    order = orders.get(name) or create_loop(name).rows
    batches = [make_batch(seed, rows=order) for seed in range(3)]

    def build(*args: Any, **kwargs: Any) -> Any:
        torch.manual_seed(0)
        if name in FORMS:
            return FORMS[name]()
        model = create_baseline(name, CLASSES, trunk="small", **options)
        if name == "idkl":  # as published
            del model.mutual_learning
        return model

    def halves() -> Any:
        return ((*batch.images.chunk(2), batch.labels) for batch in batches)

    def with_shapes() -> Any:
        for batch in batches:
            assert batch.shapes is not None
            (x1, x2), (x1_shape, x2_shape) = batch.images.chunk(2), batch.shapes.chunk(2)
            yield x1, x1_shape, x2, x2_shape, batch.labels

    def rows() -> Any:
        return ((batch.images, batch.labels, batch.cams) for batch in batches)

    def loader(infrared: bool) -> Any:
        """The ignite family's: images, ids, cameras, paths and numbers."""
        data = ImageDataset(read_sysu(sysu, "test"), SIZE)
        chosen = torch.utils.data.Subset(data, [i for i, x in enumerate(data) if x[3] == infrared])
        for images, ids, cams, _, paths in torch.utils.data.DataLoader(chosen, 16):
            yield images, ids, cams, tuple(paths), torch.arange(len(ids))

    def refused(kind: type[Exception], net: Any, labels: Tensor) -> None:
        """What a page warns of raises, and leaves the right call possible."""
        if hasattr(net, "mixer"):
            with pytest.raises(kind):
                mixer_loss(net, labels)

    def heads_of(net: Any) -> set[int]:
        return {id(p) for p in net.mixer.parameters()} if hasattr(net, "mixer") else set()

    return {
        "torch": torch,
        "optim": torch.optim,
        "F": torch.nn.functional,
        "data": torch.utils.data,
        "device": torch.device("cpu"),
        "embed_net": build,
        **dict.fromkeys(("Baseline", "MCJA", "build_vision_transformer"), build),
        "halves": halves,
        "with_shapes": with_shapes,
        "rows": rows,
        "refused": refused,
        "heads_of": heads_of,
        "graph": ddag.identity_graph,
        "triplet": batch_hard_triplet_loss,
        "consistency": sgeil_losses.consistency_loss,
        "orthogonality": sgeil_losses.orthogonality_loss,
        "query_loader": loader(True),
        "gallery_loader": loader(False),
        "data_path": str(sysu),
        "path_dict": {"3090": [str(sysu), "shapes"]},
        "checkpoint_path": f"{folder}/",
        "checkpoint_dir": str(folder),
        "suffix": name,
        "args": SimpleNamespace(
            lr=0.1,
            img_h=SIZE[0],
            img_w=SIZE[1],
            test_batch=16,
            gradclip=11,
            gpuversion="3090",
        ),
        "cfg": SimpleNamespace(
            lr=3.5e-4,
            wd=5e-3,
            num_id=CLASSES,
            resume="",
            image_size=SIZE,
            H=SIZE[0],
            W=SIZE[1],
            DATA_PATH_SYSU=str(sysu),
        ),
    }
