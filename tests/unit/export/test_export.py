"""Exported models give what the model gives, for every mixture of modalities."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mixer_plugin import FeatureSet, MixERConfig, extract_features, scores, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.errors import MixERRuntimeError, MixERTypeError, MixERValueError
from mixer_plugin.export import export_model, export_program
from mixer_plugin.export.embedder import make_embedder
from tests.contract.attached import assert_equal, build, traces, train, wrap
from tests.contract.toys import IMAGE, TOYS
from tests.networks import PlainTokens

QUICK, SLOW = ("generic",), ("saai", "agw")
MIXTURES = ([0, 1, 1, 0, 1, 0], [0, 0, 0], [1, 1, 1, 1], [0], [1])


def rows(cases):
    """The toys, each with how long it takes."""
    marks = {n: () if n in QUICK else pytest.mark.slow for n in (*QUICK, *SLOW)}
    return [pytest.param(n, marks=marks.get(n, pytest.mark.endurance)) for n in cases]


def trained(toy, **options):
    """A toy whose heads and norms have moved off their start."""
    model = wrap(toy, build(toy), **options)
    train(toy, model, torch.optim.SGD(model.parameters(), lr=0.05), steps=2)
    return model


def images_of(modality):
    generator = torch.Generator().manual_seed(len(modality) + sum(modality))
    return torch.randn(len(modality), 3, *IMAGE, generator=generator), torch.tensor(modality)


def literal(model, modality):
    """Each image alone through ``extract_features``."""
    images, sides = images_of(modality)
    ids = torch.arange(len(sides))
    parts = [
        extract_features(model, [(images[i : i + 1], ids[i : i + 1], sides[i : i + 1] * 2 + 1)])
        for i in range(len(sides))
    ]
    return FeatureSet.concatenate(parts)


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TOYS))
@pytest.mark.parametrize("options", [{}, {"config": MixERConfig(related_heads="shared")}])
def test_the_graph_without_choices_equals_the_extraction(name, options):
    model = trained(TOYS[name], **options)
    embedder = make_embedder(model)
    for modality in MIXTURES:
        expected = literal(model, modality)
        erased, related, fused = embedder(*images_of(modality))
        assert_close(erased, expected.erased)
        assert_close(related, expected.related)
        halves = [nn.functional.normalize(x, dim=1) for x in (erased, related)]
        assert_close(fused, torch.cat(halves, dim=1))


@pytest.mark.parametrize(
    "options",
    [
        {"related_blocks": "low-rank"},
        {"related_fusion": "cross-attention"},
        {"related_stages": 2},
    ],
)
def test_heads_of_other_forms(options):
    model = trained(TOYS["saai-base"], config=MixERConfig(**options))
    expected = literal(model, MIXTURES[0])
    erased, related, _ = make_embedder(model)(*images_of(MIXTURES[0]))
    assert_close(erased, expected.erased)
    assert_close(related, expected.related)


@pytest.mark.parametrize("name", rows(TOYS))
def test_a_program_fits_every_batch(name, tmp_path):
    model = trained(TOYS[name])
    report = export_model(model, tmp_path / "model.pt2", IMAGE)
    assert report.difference < 1e-4
    module = torch.export.load(report.path).module()
    for modality in MIXTURES:
        expected = literal(model, modality)
        erased, related, fused = module(*images_of(modality))
        assert_close(erased, expected.erased)
        assert_close(related, expected.related)
        assert report.widths == (erased.shape[1], related.shape[1], fused.shape[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", rows(TOYS))
def test_onnx_fits_every_batch(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    model = trained(TOYS[name])
    export_model(model, tmp_path / "model.onnx", IMAGE)
    content = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in content  # no path of the machine that exported
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    described = {x.name: (x.type, len(x.shape)) for x in session.get_inputs()}
    assert described == {"images": ("tensor(float)", 4), "modality": ("tensor(int64)", 1)}
    for modality in MIXTURES:
        expected = literal(model, modality)
        images, sides = images_of(modality)
        given = {"images": images.numpy(), "modality": sides.numpy()}
        erased, related, _ = map(torch.from_numpy, session.run(None, given))
        assert_close(erased, expected.erased)
        assert_close(related, expected.related)


@pytest.mark.slow
def test_a_torchvision_network(tmp_path):
    models = pytest.importorskip("torchvision.models", reason="needs the extra 'bench'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    net = models.resnet18(num_classes=6)
    model = wrap_with_mixer(net, "f", adapter=GenericAdapter("layer4", "avgpool"))
    report = export_model(model, tmp_path / "resnet18.onnx", (64, 32))
    assert report.widths == (512, 512, 1024)


@pytest.mark.slow
def test_a_transformer_that_counts_its_batch_by_len():
    model = wrap_with_mixer(
        PlainTokens(),
        "f",
        adapter=GenericAdapter(("base.blocks.2", "base.norm"), neck="bottleneck"),
        num_classes=6,
    )
    module = export_program(model, (32, 16)).module()
    for modality in MIXTURES:
        images, sides = images_of(modality)
        for found, expected in zip(
            module(images, sides), make_embedder(model)(images, sides), strict=True
        ):
            assert_close(found, expected)


def test_inner_products_of_fused_are_the_scores():
    model = trained(TOYS["saai-base"])
    features = literal(model, MIXTURES[0])
    fused = make_embedder(model)(*images_of(MIXTURES[0]))[2].numpy()
    modality, width = np.array(MIXTURES[0]), features.erased.shape[1]
    within = fused @ fused.T / 2
    across = fused[:, :width] @ fused[:, :width].T
    found = np.where(modality[:, None] == modality, within, across)
    assert np.allclose(found, scores(features, features, "mixer"), atol=1e-5)


def test_the_model_is_left_as_it_was(tmp_path):
    toy = TOYS["generic"]
    model = trained(toy)
    before, state, record = traces(model), copy.deepcopy(model.state_dict()), model.mixer.record
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    export_model(model, tmp_path / "model.pt2", IMAGE)
    assert traces(model) == before
    assert_equal(state, dict(model.state_dict()))
    assert [module.training for module in model.modules()] == modes
    assert model.mixer.record is record
    assert torch.equal(torch.get_rng_state(), random)


class Counting(nn.Module):
    """A network whose output depends on the size of the batch."""

    def __init__(self):
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 6)

    def forward(self, x):
        if x.shape[0] == 1:
            x = 2 * x
        return self.fc(self.avgpool(self.layer4(x)).flatten(1))


class Branching(Counting):
    """A network that branches on values."""

    def forward(self, x):
        return super().forward(-x if float(x.mean()) > 0.1 else x)


@pytest.mark.parametrize(("make", "message"), [(Counting, "differs"), (Branching, "cannot record")])
def test_what_no_graph_holds_is_refused_and_an_older_file_stays(make, message, tmp_path):
    model = wrap_with_mixer(make(), "f", adapter=GenericAdapter("layer4", "avgpool"))
    (tmp_path / "model.pt2").write_bytes(b"older")
    with pytest.raises(MixERRuntimeError, match=message):
        export_model(model, tmp_path / "model.pt2", IMAGE)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("model.pt2", b"older")]


def test_refusals(tmp_path):
    toy = TOYS["saai-base"]
    with pytest.raises(MixERTypeError, match="is not wrapped"):
        export_program(build(toy))
    control = MixERConfig(control="erased-triplet")
    with pytest.raises(MixERTypeError, match="no related feature"):
        export_program(wrap(toy, build(toy), config=control))
    model = wrap(toy, build(toy))
    with pytest.raises(MixERValueError, match=r"'.tflite'; expected .onnx or .pt2"):
        export_model(model, tmp_path / "model.tflite")
    with pytest.raises(MixERValueError, match="is not a folder"):
        export_model(model, tmp_path / "none" / "model.pt2")
    with pytest.raises(MixERValueError, match="expected \\(height, width\\)"):
        export_program(model, (32,))
