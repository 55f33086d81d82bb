"""The table of wrappers in docs/reliability.md: each row is tried, and does what it says."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.checkpoint import checkpoint

from mixer_plugin import (
    base_state_dict,
    mixer_loss,
    mixer_parameters,
    unwrap_mixer,
    wrap_with_mixer,
)
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.errors import MixERError, MixERWarning
from tests.contract.toys import TOYS, PlainNet, make_batch

DOCS = Path(__file__).parents[3] / "docs" / "reliability.md"


def wrapped(net=None, mode="e2e"):
    torch.manual_seed(0)
    given = GenericAdapter("layer4", "avgpool", classifier="fc", modality="modality")
    return wrap_with_mixer(PlainNet() if net is None else net, mode, adapter=given, seed=1).train()


def loss_of(model):
    batch = make_batch()
    _, logits = model(batch.images, batch.modality)
    return F.cross_entropy(logits, batch.labels) + mixer_loss(model, batch.labels)


def same_as_plain(model, tolerance=1e-5):
    """A step on the model, whatever is around it, has the loss of a plain one."""
    loss = loss_of(model)
    loss.backward()
    torch.testing.assert_close(loss, loss_of(wrapped()), rtol=tolerance, atol=0)


@pytest.fixture
def one_process(tmp_path):
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/r", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def accelerator(**options):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True, **options)


def fabric():
    from lightning.fabric import Fabric

    found = Fabric(accelerator="cpu", devices=1)
    found.launch()
    return found


def trainer(**options):
    import lightning

    logging.getLogger("lightning").setLevel(logging.ERROR)
    return lightning.Trainer(accelerator="cpu", devices=1, max_steps=6, barebones=True, **options)


def lightning_module(mode):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = wrapped(mode=mode)
            self.losses = []

        def training_step(self, *_):
            loss = loss_of(self.net)
            self.losses.append(float(loss))
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()


def prepared_after():
    model, host = wrapped(), accelerator(mixed_precision="bf16")
    same_as_plain(host.prepare(model), 1e-2)
    with pytest.raises(MixERError, match="unwrap_model"):
        unwrap_mixer(model)
    bare = unwrap_mixer(host.unwrap_model(model, keep_fp32_wrapper=False))
    assert "forward" not in vars(bare)
    bare(make_batch().images)


def prepared_before():
    wrapped(accelerator(mixed_precision="bf16").prepare(PlainNet()))


def set_up_after():
    same_as_plain(fabric().setup(wrapped()))


def set_up_before():
    wrapped(fabric().setup(PlainNet()))


def trained():
    module = lightning_module("e2e")
    trainer().fit(module, torch.utils.data.DataLoader(range(6)))
    assert module.losses[0] == pytest.approx(float(loss_of(wrapped())))
    assert module.losses[-1] < module.losses[0]


def clipped_as_one():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        module = lightning_module("f")
        trainer(gradient_clip_val=0.5).fit(module, torch.utils.data.DataLoader(range(6)))
    told = [str(w.message) for w in seen if issubclass(w.category, MixERWarning)]
    assert len(told) == 1
    raise MixERError(told[0])


def averaged_after():
    follower = torch.optim.swa_utils.AveragedModel(wrapped())
    same_as_plain(follower)


def averaged_before():
    wrapped(torch.optim.swa_utils.AveragedModel(PlainNet()))


def synchronised_after():
    same_as_plain(nn.SyncBatchNorm.convert_sync_batchnorm(wrapped()))
    for toy in TOYS.values():  # also where a tapped module is a norm itself
        torch.manual_seed(0)
        model = wrap_with_mixer(toy.build(), adapter=toy.adapter()).train()
        toy.step_loss(nn.SyncBatchNorm.convert_sync_batchnorm(model), toy.batch()).backward()
        kinds = {type(m) for m in unwrap_mixer(model).modules()}
        assert nn.SyncBatchNorm in kinds
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def synchronised_before():
    torch.manual_seed(0)
    same_as_plain(wrapped(nn.SyncBatchNorm.convert_sync_batchnorm(PlainNet())))


def fully_sharded_after():
    model = wrapped()
    torch.distributed.fsdp.fully_shard(model.layer4)
    torch.distributed.fsdp.fully_shard(model)
    same_as_plain(model)
    with pytest.raises(MixERError, match="base_state_dict"):
        unwrap_mixer(model)
    assert base_state_dict(model)


def fully_sharded_before():
    model = PlainNet()
    torch.distributed.fsdp.fully_shard(model)
    wrapped(model)


def old_fully_sharded_after():
    fsdp = torch.distributed.fsdp.FullyShardedDataParallel
    same_as_plain(fsdp(wrapped(), device_id=torch.device("cpu"), use_orig_params=True))


def parallel_before():
    wrapped(nn.DataParallel(PlainNet()))


def parallel_after():
    same_as_plain(nn.DataParallel(wrapped()))


def compiled_before():
    wrapped(torch.compile(PlainNet(), backend="eager"))


def compiled_after():
    torch.compiler.reset()
    same_as_plain(torch.compile(wrapped(), backend="aot_eager"))


def scripted_after():
    torch.jit.script(wrapped())


def traced_in_training():
    torch.jit.trace(wrapped(), make_batch().images)


def traced_in_eval():
    model, images = wrapped().eval(), make_batch().images
    traced = torch.jit.trace(model, images)
    assert torch.equal(traced(images), model(images))


def exported():
    model, images = wrapped().eval(), make_batch().images
    graph = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(graph(images), model(images))


def graph_before():
    wrapped(torch.fx.symbolic_trace(PlainNet()))


def graph_after():
    torch.fx.symbolic_trace(wrapped())


def plain_again():
    """What the refusals of scripts and graphs advise."""
    model = wrapped().eval()
    plain = unwrap_mixer(copy.deepcopy(model))
    for fixed in (torch.jit.trace(plain, make_batch().images), torch.fx.symbolic_trace(plain)):
        fixed(make_batch().images)
    assert hasattr(model, "mixer")


class Called(nn.Module):
    """Calls the model as update_bn does not: with the modality, where it is known."""

    def __init__(self, model, known):
        super().__init__()
        self.model, self.known = model, known

    def forward(self, images):
        return self.model(images, make_batch().modality if self.known else None)


def updated(known):
    model = wrapped() if known else told_by_loss()
    update_bn([make_batch().images], Called(model, known))
    for head in model.mixer.heads.values():
        assert int(head.norm.num_batches_tracked) == 1


def told_by_loss():
    given = GenericAdapter("layer4", "avgpool", classifier="fc")
    model = wrap_with_mixer(PlainNet(), adapter=given, seed=1).train()
    batch = make_batch()
    model(batch.images)
    mixer_loss(model, batch.labels, batch.modality)
    return model


def known_statistics():
    updated(known=True)


def unknown_statistics():
    updated(known=False)


class Checkpointed(nn.Module):
    def __init__(self, module, reentrant=False):
        super().__init__()
        self.module, self.reentrant = module, reentrant

    def forward(self, images, *rest):
        images = images.requires_grad_() if self.reentrant else images
        return checkpoint(self.module, images, *rest, use_reentrant=self.reentrant)


def stage_checkpointed():
    class Net(PlainNet):
        def forward(self, images, modality=None):
            x = checkpoint(self.layer4, self.stem(images), use_reentrant=False)
            feature = self.neck(self.avgpool(x).flatten(1))
            return (feature, self.fc(feature)) if self.training else feature

    torch.manual_seed(0)
    net = Net()
    model = wrapped(net)
    same_as_plain(model)
    assert all(p.grad is not None for p in mixer_parameters(model))


def model_checkpointed():
    model = wrapped()
    same_as_plain_loss(Checkpointed(model), model)


def model_checkpointed_reentrant():
    model = wrapped()
    same_as_plain_loss(Checkpointed(model, reentrant=True), model)


def same_as_plain_loss(around, model):
    batch = make_batch()
    _, logits = around(batch.images, batch.modality)
    loss = F.cross_entropy(logits, batch.labels) + mixer_loss(model, batch.labels)
    loss.backward()
    torch.testing.assert_close(loss, loss_of(wrapped()))


def lazy():
    net = PlainNet()
    net.layer4[0] = nn.LazyConv2d(12, 3, padding=1)
    wrapped(net)


WORKS = {
    "accelerate, prepare after the wrap": prepared_after,
    "Fabric, setup after the wrap": set_up_after,
    "Lightning, the model inside a module": trained,
    "DataParallel after the wrap": parallel_after,
    "torch.compile after the wrap": compiled_after,
    "AveragedModel after the wrap": averaged_after,
    "update_bn, the forward knows the modality": known_statistics,
    "the stage checkpointed": stage_checkpointed,
    "the model checkpointed, use_reentrant=False": model_checkpointed,
    "SyncBatchNorm before the wrap": synchronised_before,
    "SyncBatchNorm after the wrap": synchronised_after,
    "fully_shard after the wrap": fully_sharded_after,
    "FullyShardedDataParallel after the wrap": old_fully_sharded_after,
    "torch.jit.trace in eval mode": traced_in_eval,
    "torch.export in eval mode": exported,
    "script or graph of an unwrapped copy": plain_again,
}
REFUSED = {
    "accelerate, prepare before the wrap": (prepared_before, "Wrap the model first"),
    "Fabric, setup before the wrap": (set_up_before, "Wrap the bare model"),
    "Lightning, gradient_clip_val in mode f": (clipped_as_one, "configure_gradient_clipping"),
    "DataParallel before the wrap": (parallel_before, "Wrap the bare model"),
    "torch.compile before the wrap": (compiled_before, "Wrap the bare model"),
    "AveragedModel before the wrap": (averaged_before, "Wrap the bare model"),
    "update_bn, only the loss knows the modality": (unknown_statistics, "unwrap_mixer"),
    "the model checkpointed, use_reentrant=True": (
        model_checkpointed_reentrant,
        "use_reentrant=False",
    ),
    "fully_shard before the wrap": (fully_sharded_before, "then call fully_shard"),
    "torch.jit.script after the wrap": (scripted_after, "unwrap_mixer(copy.deepcopy(model))"),
    "torch.jit.trace in training": (traced_in_training, "model.eval()"),
    "torch.fx graph before the wrap": (graph_before, "the module that it was traced from"),
    "torch.fx graph after the wrap": (graph_after, "unwrap_mixer(copy.deepcopy(model))"),
    "lazy modules": (lazy, "Run one forward"),
}
HEAVY = ("accelerate", "Fabric", "Lightning", "torch.compile")
ROWS = [
    pytest.param(name, marks=pytest.mark.slow if name.startswith(HEAVY) else ())
    for name in (*WORKS, *REFUSED)
]


@pytest.mark.parametrize("name", ROWS)
def test_each_row_does_what_the_table_says(name, request):
    if name.lower().startswith("fully"):
        request.getfixturevalue("one_process")
    if name in WORKS:
        WORKS[name]()
        return
    attempt, advice = REFUSED[name]
    with pytest.raises(MixERError) as refusal:
        attempt()
    assert advice in str(refusal.value)


def test_the_table_has_these_rows():
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in lines]
    told = {
        row[0]: row[1] for row in cells if len(row) == 3 and row[1] in ("works", "refused", "told")
    }
    expected = {name: "works" for name in WORKS} | {name: "refused" for name in REFUSED}
    expected["Lightning, gradient_clip_val in mode f"] = "told"
    assert told == expected
