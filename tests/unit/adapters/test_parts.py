"""The pieces of the generic adapter: poolings, inputs, and what a forward returns."""

from __future__ import annotations

import pickle
import warnings
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixer_plugin import extract_features, mixer_loss, wrap_with_mixer
from mixer_plugin.adapters import (
    Call,
    Cameras,
    GeM,
    GenericAdapter,
    TwoStream,
    class_token,
    max_pool,
    mean_pool,
    patch_mean,
    token_mean,
)
from mixer_plugin.adapters.generic.returned import add_to_output
from mixer_plugin.conformance.inspection.ways import find_way
from mixer_plugin.errors import MixERError, MixERTypeError, MixERValueError, MixERWarning
from tests.contract.toys import PlainNet, make_batch
from tests.forwards import FourStems, NoModule, ThreeModes, TwoEncoders
from tests.networks import LossInside, TwoStreams, gem


def test_gem_is_the_generalised_mean_and_its_ends_are_mean_and_maximum():
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(GeM(3.0)(x), gem(x))
    torch.testing.assert_close(GeM(1.0)(x), mean_pool(x))
    torch.testing.assert_close(GeM(400.0)(x), max_pool(x), atol=0.02, rtol=0)
    half = GeM(3.0)((100 * x).half())  # the cubes overflow half precision
    torch.testing.assert_close(half.double(), 100 * gem(x), atol=0.2, rtol=0)


class Power(nn.Module):
    """Pooling with an exponent that trains."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x):
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)


def test_gem_takes_the_models_exponent_and_does_not_train_it():
    net = nn.Module()
    net.gem = Power()
    x = torch.rand(2, 3, 4, 5)
    pool = GeM("gem.p").of(net)
    torch.testing.assert_close(pool(x), net.gem(x))
    pool(x.requires_grad_()).sum().backward()
    assert net.gem.p.grad is None
    with torch.no_grad():
        net.gem.p.fill_(5.0)
    torch.testing.assert_close(GeM("gem.p").of(net)(x), net.gem(x))
    net.exponent, net.name = 2.5, "x"
    torch.testing.assert_close(GeM("exponent").of(net)(x), GeM(2.5)(x))
    with pytest.raises(MixERValueError, match=r"Did you mean 'gem\.p'"):
        GeM("gem.q").of(net)
    with pytest.raises(MixERTypeError, match="is str; expected a number"):
        GeM("name").of(net)
    with pytest.raises(MixERTypeError, match="of\\(model\\)"):
        GeM("gem.p")(x)


def test_a_pooling_layer_with_an_exponent_is_attached_as_its_error_advises():
    net = PlainNet()
    net.avgpool = Power()
    with pytest.raises(MixERError, match=r"pool=GeM\('avgpool.p'\)"):
        wrap_with_mixer(net, adapter=GenericAdapter("layer4", "avgpool", classifier="fc"))
    adapter = GenericAdapter("layer4", "avgpool", pool=GeM("avgpool.p"), modality="modality")
    batch = make_batch()
    model = wrap_with_mixer(net, adapter=adapter).train()
    model(batch.images, batch.modality)
    mixer_loss(model, batch.labels).backward()
    with pytest.raises(MixERError, match=r"no exponent 'avgpool\.q'"):
        wrap_with_mixer(PlainNet(), adapter=GenericAdapter("layer4", pool=GeM("avgpool.q")))


def test_poolings_of_tokens():
    tokens = torch.arange(12.0).reshape(1, 3, 4)
    assert class_token(tokens).tolist() == [[0, 1, 2, 3]]
    assert token_mean(tokens).tolist() == [[4, 5, 6, 7]]
    assert patch_mean(tokens).tolist() == [[6, 7, 8, 9]]


def test_cameras_tell_the_modality_and_stand_for_it():
    net, cams = LossInside(), torch.tensor([1, 3, 6, 5, 2])
    for args, kwargs in (((None, None), {"cam_ids": cams}), ((), {"cam_ids": cams.tolist()})):
        assert Cameras()(Call(net, args, kwargs)).tolist() == [0, 1, 1, 0, 0]
    assert Cameras(infrared=(2,))(Call(net, (), {"cam_ids": cams})).tolist() == [0, 0, 0, 0, 1]
    assert Cameras(infrared=(9,), visible=4).of(torch.tensor([0, 1])).tolist() == [4, 9]
    with pytest.raises(MixERValueError, match="got no cam_ids"):
        Cameras()(Call(net, (), {}))
    given = Cameras("cams", infrared=(2, 3))
    assert pickle.loads(pickle.dumps(given)) == given
    assert eval(repr(given)) == given


class Renamed(TwoStreams):
    def forward(self, rgb, ir, graph=None, which=0):
        return super().forward(rgb, ir, which)


def test_two_streams_by_the_names_of_the_forward():
    x = torch.zeros(2, 3, 32, 16)
    net, streams = TwoStreams(), TwoStream()
    assert streams.names(net) == ("x1", "x2", "modal")
    for call, rows in (
        (Call(net, (x, x[:1]), {}), [0, 0, 1]),
        (Call(net, (x, x[:1], 1), {}), [0, 0]),
        (Call(net, (x,), {"x2": x[:1], "modal": 2}), [1]),
    ):
        assert streams.rows(call).tolist() == rows
    with pytest.raises(MixERValueError, match=r"no argument for switch in Renamed\.forward"):
        streams.names(Renamed())
    with pytest.raises(MixERValueError, match="no argument for infrared"):
        TwoStream(infrared="thermal", switch="which").names(Renamed())
    named = TwoStream(switch="which")
    assert named.names(Renamed()) == ("rgb", "ir", "which")
    assert eval(repr(named)) == named


def test_two_streams_without_a_switch_run_what_they_get():
    x, net, streams = torch.zeros(2, 3, 32, 16), TwoEncoders(), TwoStream()
    assert streams.names(net) == ("x1", "x2", None)
    for call, rows in (
        (Call(net, (x, x[:1]), {}), [0, 0, 1]),
        (Call(net, (None, x), {}), [1, 1]),
        (Call(net, (), {"x1": x}), [0, 0]),
    ):
        assert streams.rows(call).tolist() == rows
    assert list(streams.arguments(net, x, 1)) == ["x2"]
    way = find_way(net, 6, (32, 16))
    assert way.words == "two streams, x1 and x2, and no switch"
    # Arguments that default to None are no streams where one alone does not run.
    assert find_way(LabelsSecond(), 6, (32, 16)).options == {}


class LabelsSecond(PlainNet):
    def forward(self, images=None, pids=None):
        return super().forward(images)


def test_forwards_without_images_pass_by_and_leave_the_record():
    adapter = GenericAdapter(
        "image_encoder.3",
        "classifier.GEM",
        neck="classifier.BN",
        pool=GeM("classifier.GEM.p"),
        inputs="two-stream",
    )
    net = wrap_with_mixer(ThreeModes(), adapter=adapter, seed=0).train()
    images, labels = torch.randn(2, 4, 3, 32, 16), torch.arange(4) // 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(label=labels, get_text=True)
        assert net.mixer.record is None
        net(images[0], images[1])
        net(None, label=labels, get_fusion_text=True)
    mixer_loss(net, labels.repeat(2)).backward()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (torch.zeros(2, 3, 4, 4), True),
        ([torch.zeros(2, 3, 4, 4)], True),
        ({"image": torch.zeros(2, 3, 4, 4)}, True),
        (object(), True),
        (torch.zeros(2, 4), False),
        ([1, "x", None, 2.0, True, torch.arange(2)], False),
        (None, False),
    ],
)
def test_a_forward_of_labels_and_flags_alone_is_not_read(given, read):
    adapter, net = GenericAdapter("layer4", "avgpool"), LabelsSecond()
    assert adapter.reads(Call(net, (None, given), {})) == read
    assert adapter.reads(Call(net, (), {"pids": given})) == read


def run_both(model, images, modality):
    """Evaluates rows of both modalities by two halves of a batch that the network cannot tell."""
    return model(images, modality=modality)


def test_inputs_may_be_a_function():
    batch = make_batch()
    found = []
    for inputs in (run_both, "single"):
        torch.manual_seed(0)
        adapter = GenericAdapter(
            "layer4", "avgpool", neck="neck", modality="modality", inputs=inputs, trial=(32, 16)
        )
        model = wrap_with_mixer(PlainNet(), adapter=adapter, seed=0)
        assert ("inputs=" in repr(adapter)) == callable(inputs)
        found.append(extract_features(model, [(batch.images, batch.labels, batch.cams)]))
    torch.testing.assert_close(found[0].erased, found[1].erased)
    torch.testing.assert_close(found[0].related, found[1].related)


class NeedsMore(TwoStreams):
    def forward(self, x1, x2, graph, modal=0):
        return super().forward(x1, x2, modal)


def test_a_forward_that_asks_for_more_is_told_when_wrapping():
    adapter = GenericAdapter(
        "base_resnet.base.layer4",
        "bottleneck:input",
        neck="bottleneck",
        pool=GeM(),
        inputs="two-stream",
    )
    said = "evaluation will not.*required argument: 'graph'"
    with pytest.warns(MixERWarning, match=said) as warned:
        wrap_with_mixer(NeedsMore(), adapter=adapter)
    assert warned[0].filename == __file__  # it points to the line that wraps


Pair = namedtuple("Pair", "loss logits")
SCALAR, TERMS = torch.tensor(2.0), {"mixer/total": torch.tensor(3.0)}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (SCALAR, SCALAR + 3),
        ((SCALAR, {"a": 1}), (SCALAR + 3, {"a": 1, **TERMS})),
        ([SCALAR, "x"], [SCALAR + 3, "x"]),
        ((SCALAR, "x", {"a": 1}, {}), (SCALAR + 3, "x", {"a": 1, **TERMS}, {})),
        (Pair(SCALAR, "x"), Pair(SCALAR + 3, "x")),
        ({"loss": SCALAR, "a": 1}, {"loss": SCALAR + 3, "a": 1, **TERMS}),
    ],
)
def test_a_loss_is_added_to_what_a_forward_returns(output, expected):
    found = add_to_output(output, torch.tensor(3.0), TERMS)
    assert found == expected
    assert type(found) is type(output)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ((torch.zeros(2, 3), SCALAR), r"tuple of a tensor \[2, 3\], a tensor \[\]"),
        ({"logits": SCALAR}, "a mapping of logits"),
        (None, "NoneType"),
    ],
)
def test_a_forward_that_returns_no_loss_is_told(output, said):
    with pytest.raises(MixERTypeError, match=said):
        add_to_output(output, SCALAR, TERMS)


class LossAlone(PlainNet):
    def forward(self, images, targets=None, modality=None):
        out = super().forward(images)
        return F.cross_entropy(out[1], targets) if self.training else out


def test_a_forward_may_return_its_loss_alone_and_name_its_labels_otherwise():
    batch = make_batch()
    adapter = GenericAdapter(
        "layer4", "avgpool", neck="neck", modality="modality", loss="forward", labels="targets"
    )
    model = wrap_with_mixer(LossAlone(), adapter=adapter, seed=0).train()
    loss = model(batch.images, batch.labels, batch.modality)
    loss.backward()
    assert loss > model.mixer.terms["total"] > 0
    with pytest.raises(MixERError, match="adds the MixER loss inside the forward"):
        mixer_loss(model, batch.labels)


def test_rows_that_cannot_be_told_are_named():
    net = wrap_with_mixer(FourStems()).train()
    images = torch.randn(4, 2, 3, 32, 16)
    net(*images)
    assert net.mixer.record.modality.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    renamed = wrap_with_mixer(Renamed(), adapter="agw").train()
    with pytest.raises(MixERValueError, match=r"Renamed\.forward got no x1.*Override row_modality"):
        renamed(images[0], images[1])
    with pytest.raises(MixERTypeError, match=r"NoModule.*model\.model, model\.classifier1"):
        wrap_with_mixer(NoModule())
    with pytest.raises(MixERTypeError, match=r"model is int; expected a torch\.nn\.Module\.$"):
        wrap_with_mixer(3)
