"""``check_adapter`` names what is wrong with an adapter, and passes those that are right."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from mixer_plugin.adapters import Cameras, GenericAdapter, LossInForward, Tap, mean_pool
from mixer_plugin.adapters.agw import AGWAdapter
from mixer_plugin.adapters.base import first_block
from mixer_plugin.baselines import create_baseline
from mixer_plugin.conformance import invariants
from mixer_plugin.errors import MixERError
from mixer_plugin.testing import check_adapter
from tests.networks import CLASSES, LossInside, PlainTokens, TwoStreams

SIZE = (32, 16)


class Right(LossInForward):
    """For ``LossInside`` with a pooling that is a module."""

    name = "right"
    stage = "backbone.layer4"
    erased_before = Tap("bn_neck", "input")
    erased_after = Tap("bn_neck")
    classifier = "classifier"
    base_losses = frozenset({"identity"})

    def entry(self, model, path):
        return first_block(model, path)

    def widths(self, model):
        return model.bn_neck.num_features, model.bn_neck.num_features

    def pool(self, model, stage_map):
        return (stage_map.float().flatten(2) ** model.exponent.detach()).mean(-1).add(1e-12) ** (
            1 / model.exponent.detach()
        )


class Trained(LossInside):
    """Has an exponent that trains."""

    def __init__(self):
        super().__init__(trunk="small")
        self.exponent = nn.Parameter(torch.tensor(3.0))


class OtherStage(AGWAdapter):
    stage = "base_resnet.base.layer3"


class BeforeTheNeck(AGWAdapter):
    erased_after = Tap("bottleneck", "input")


class OtherPooling(AGWAdapter):
    def pool(self, model, stage_map):
        return stage_map.mean((2, 3))


class Swapped(AGWAdapter):
    def row_modality(self, call):
        return 1 - super().row_modality(call)


class SameStage(AGWAdapter):
    def run_stage(self, stage, x, modality):
        return self.own(x)

    def validate(self, model):
        super().validate(model)
        self.own = model.base_resnet.base.layer4.forward


class Marks(AGWAdapter):
    def prepare_clone(self, stage, modality):
        self.model.found = nn.Identity()

    def validate(self, model):
        super().validate(model)
        self.model = model


class Unpicklable(AGWAdapter):
    def __init__(self):
        self.power = lambda x: x


class CamerasAsLabels(Right):
    def labels(self, call):
        return call.argument("cam_ids")


class OutOfOrder(Right):
    def embed(self, model, images, modality):
        order = modality.argsort(stable=True)
        return super().embed(model, images[order], modality[order])


class SharedExponent(Right):
    def pool(self, model, stage_map):
        p = model.exponent
        return (stage_map.float().flatten(2) ** p).mean(-1).add(1e-12) ** (1 / p)


def generic(**options):
    options = {"neck": "bn_neck", "modality": Cameras(), "loss": "forward", **options}
    return GenericAdapter("backbone.layer4", "bn_neck:input", pool=mean_pool, **options)


WRONG = {
    "stage": (OtherStage, "reads_the_embedding", r"columns, and what pool makes.*layer3"),
    "neck": (BeforeTheNeck, "reads_the_embedding", "not what embed returns for visible images"),
    "pooling": (OtherPooling, "reads_the_embedding", "with pool do not give erased_before"),
    "rows": (Swapped, "knows_rows_and_labels", r"gives \[1, 1.*rows are \[0, 0.*0 for visible"),
    "order": (OutOfOrder, "extracts_features", "other rows for a batch of both"),
    "own stage": (SameStage, "trains_apart_in_mode_f", "may use no parameter"),
    "marks": (Marks, "keeps_the_model", r"changes nothing of it"),
    "lambda": (Unpicklable, "survives_copies", "lambda.*must stand in a module"),
    "labels": (CamerasAsLabels, "knows_rows_and_labels", "Adapter.labels gives"),
    "exponent": (SharedExponent, "trains_apart_in_mode_f", "detach them"),
    "a name": (lambda: "agv", "attaches", "Did you mean 'agw'"),
    "a trial": (lambda: generic(trial=SIZE), "attaches", "MixERWarning: Clones of the stage"),
    "no neck": (
        lambda: generic(neck=None),
        "reads_the_embedding",
        "not what the network itself returns",
    ),
    "a path": (lambda: generic(neck="bn_nec"), "attaches", "Did you mean 'bn_neck'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_adapter_is_named_with_what_to_do(name):
    make, invariant, said = WRONG[name]
    adapter = make()
    build = TwoStreams if isinstance(adapter, (AGWAdapter, str)) else Trained
    match = rf"(?s)breaks '{invariant}'.*Expected: .*{said}"
    with pytest.raises(MixERError, match=match) as caught:
        check_adapter(build, adapter, size=SIZE)
    assert re.search(r"\nFound: .*\nWhat to do: ", str(caught.value), re.DOTALL)


@pytest.mark.parametrize(
    "made", [OtherStage, OtherStage(), type("Mine", (OtherStage,), {"name": ""})]
)
def test_the_adapter_is_named_by_its_name_or_its_class(made):
    name = getattr(made, "name", "") or "Mine"
    with pytest.raises(MixERError, match=f"The adapter '{name}' of TwoStreams breaks"):
        check_adapter(TwoStreams, made, size=SIZE)


@pytest.mark.slow
def test_right_adapters_pass_and_leave_the_random_state():
    numbers = torch.get_rng_state()
    held = check_adapter(TwoStreams, "agw", size=SIZE)
    assert held[:2] == ("attaches", "reads_the_embedding")
    assert len(held) == len(set(held)) == 12
    assert check_adapter(Trained, Right, size=SIZE) == held
    line = GenericAdapter(("base.blocks.2", "base.norm"), neck="bottleneck", trial=SIZE)
    assert check_adapter(PlainTokens, line) == held
    assert torch.equal(torch.get_rng_state(), numbers)


def test_a_registered_adapter_has_the_loop_of_its_codebase():
    def build():
        return create_baseline("mpanet", CLASSES, trunk="small")

    assert "keeps_the_outputs" in check_adapter(build, "mpanet", size=SIZE, between=True)
    with pytest.raises(MixERError, match=r"(?s)reads_the_embedding.*between=True"):
        check_adapter(build, "mpanet", size=SIZE)


class Asks(TwoStreams):
    """Wants what no adapter can know, and has no classifier."""

    def forward(self, x1, x2, graph, modal=0):
        return super().forward(x1, x2, modal)


class Graphs(AGWAdapter):
    classifier = None

    def embed_one(self, model, images, modality):
        return model(images, images, None, modality + 1)[1]


def test_a_forward_of_another_form_is_called_as_told():
    def call(net, batch):
        assert batch.modality.tolist() == [0] * 4 + [1] * 4
        return net(*batch.images.chunk(2), torch.eye(8))

    assert len(check_adapter(Asks, Graphs(), size=SIZE, call=call, num_classes=CLASSES)) == 12
    with pytest.raises(MixERError, match=r"(?s)breaks 'attaches'.*num_classes="):
        check_adapter(Asks, Graphs(), size=SIZE, call=call)
    with pytest.raises(MixERError, match=r"(?s)breaks 'knows_rows.*missing 1 required.*'graph'"):
        check_adapter(Asks, Graphs(), size=SIZE, num_classes=CLASSES)


def test_a_step_in_the_compiler_and_in_ddp_may_be_added(monkeypatch):
    tried = []

    def step(case, model):
        tried.append(case.adapter.name)
        raise RuntimeError("not with this network")

    monkeypatch.setattr(invariants, "WRAPPERS", {"torch.compile": step, "DDP": step})
    held = check_adapter(TwoStreams, "agw", size=SIZE, machinery=True)
    assert tried == ["agw", "agw"]
    assert "survives_copies_and_machinery" in held
