"""The registry, and what adapters say when something does not fit."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mixer_plugin import list_adapters, mixer_loss, register_adapter, wrap_with_mixer
from mixer_plugin.adapters import Adapter, GenericAdapter, Tap, registry, resolve_adapter
from mixer_plugin.errors import MixERError
from tests.contract.toys import PlainNet, make_batch


@pytest.fixture
def clean(monkeypatch):
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))


def test_list_adapters_takes_a_pattern():
    assert list_adapters() == sorted(list_adapters())
    assert {"generic", "saai"} <= set(list_adapters())
    assert list_adapters("sa*") == ["saai"]


def test_register_adapter(clean):
    @register_adapter
    class Seventh(GenericAdapter):
        name = "seventh"

        def matches(self, model):
            return hasattr(model, "seventh")

        def __init__(self):
            super().__init__("layer4", "avgpool", neck="neck", classifier="fc")

    assert "seventh" in list_adapters()
    model = PlainNet()
    with pytest.raises(MixERError, match="GenericAdapter"):
        wrap_with_mixer(model)
    model.seventh = True
    assert wrap_with_mixer(model).mixer.adapter.name == "seventh"
    with pytest.raises(MixERError, match="is taken by"):
        register_adapter(type("Other", (Adapter,), {"name": "seventh"}))
    with pytest.raises(MixERError, match="no name"):
        register_adapter(type("Nameless", (Adapter,), {}))
    with pytest.raises(MixERError, match="subclass of Adapter"):
        register_adapter(object())


def test_entry_points_of_installed_packages_are_found(clean, monkeypatch):
    class Elsewhere(Adapter):
        name = "elsewhere"

        def matches(self, model):
            return False

    entry = SimpleNamespace(name="elsewhere", load=lambda: Elsewhere)
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [entry])
    assert "elsewhere" in list_adapters()


def test_two_fitting_adapters_are_an_error(clean):
    for name in ("one", "two"):
        register_adapter(
            type(name, (GenericAdapter,), {"name": name, "matches": lambda self, m: True})
        )
    with pytest.raises(MixERError, match="one, two"):
        resolve_adapter(PlainNet())


@pytest.mark.parametrize(
    ("adapter", "hint"),
    [
        (GenericAdapter("layer5"), "Did you mean 'layer4'"),
        (GenericAdapter("stem.3"), "stem.0, stem.1, stem.2"),
        (GenericAdapter("layer4", "avgpol"), "Did you mean 'avgpool'"),
        (GenericAdapter("layer4", neck="nek", classifier="fc"), "Did you mean 'neck'"),
        (GenericAdapter("layer4", classifier="avgpool"), "without a weight"),
        (GenericAdapter("layer4"), "Pass num_classes="),
        (GenericAdapter("neck", "avgpool", classifier="fc"), "no convolution"),
    ],
)
def test_generic_paths_that_do_not_fit(adapter, hint):
    model = PlainNet()
    keys = list(model.state_dict())
    with pytest.raises(MixERError, match=hint):
        wrap_with_mixer(model, adapter=adapter)
    assert list(model.state_dict()) == keys
    assert type(model) is PlainNet


def test_a_tap_that_never_fires_says_so():
    model = PlainNet()
    model.unused = nn.BatchNorm1d(12)
    wrap_with_mixer(model, adapter=GenericAdapter(neck="unused", classifier="fc"))
    with pytest.raises(MixERError, match=r"'unused'.*ran 0 times"):
        model.train()(make_batch().images)
    assert not [k for m in model.modules() for k in vars(m) if k.startswith("_mixer_")]


def test_modality_by_argument_function_and_loop():
    batch = make_batch()
    losses = []
    for how in ("modality", lambda call: batch.modality, None):
        torch.manual_seed(0)
        model = PlainNet()
        adapter = GenericAdapter(neck="neck", classifier="fc", modality=how)
        wrap_with_mixer(model, adapter=adapter, seed=0).train()
        if how is None:
            model(batch.images)
            with pytest.raises(MixERError, match="Pass modality="):
                mixer_loss(model, batch.labels)
            losses.append(mixer_loss(model, batch.labels, batch.modality).item())
        else:
            model(batch.images, modality=batch.modality)
            losses.append(mixer_loss(model, batch.labels).item())
    assert losses[0] == losses[1] == losses[2]
    model(batch.images)
    with pytest.raises(MixERError, match="expected \\[0, 1\\]"):
        mixer_loss(model, batch.labels, batch.modality + 1)
    named = wrap_with_mixer(
        PlainNet(), adapter=GenericAdapter(classifier="fc", modality="modality")
    ).train()
    with pytest.raises(MixERError, match="no argument 'modality'"):
        named(batch.images)


def test_modality_given_after_the_autocast_block():
    batch = make_batch()
    model = wrap_with_mixer(PlainNet(), adapter=GenericAdapter(neck="neck", classifier="fc"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.train()(batch.images)
    loss = mixer_loss(model, batch.labels, batch.modality)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(
        torch.isfinite(p.grad).all() for p in model.mixer.heads.parameters() if p.requires_grad
    )


class WritingNet(PlainNet):
    """Writes into the embedding after it was read, as SAAI's neck does."""

    def forward(self, images, modality=None):
        pooled = self.avgpool(self.layer4(self.stem(images)))
        pooled.mul_(2)
        feature = self.neck(pooled.flatten(1))
        return (feature, self.fc(feature)) if self.training else feature


def test_a_tensor_written_into_after_it_was_read_is_refused_unless_cloned():
    batch = make_batch()
    adapter = GenericAdapter(neck="neck", classifier="fc", modality="modality")
    model = wrap_with_mixer(WritingNet(), adapter=adapter).train()
    with pytest.raises(MixERError, match="clone=True"):
        model(batch.images, batch.modality)
    adapter.erased_before = Tap("avgpool", "output", clone=True)
    model = wrap_with_mixer(WritingNet(), adapter=adapter).train()
    model(batch.images, batch.modality)
    torch.testing.assert_close(
        model.mixer.record.erased_before,
        model.avgpool(model.layer4(model.stem(batch.images))).flatten(1),
        atol=1e-4,
        rtol=1e-4,
    )
    mixer_loss(model, batch.labels).backward()


def test_generic_attaches_to_torchvisions_resnet():
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    model = torchvision.models.resnet18(num_classes=6)
    batch = make_batch()
    wrap_with_mixer(
        model, adapter=GenericAdapter(classifier="fc", modality=lambda c: batch.modality)
    )
    plain = torchvision.models.resnet18(num_classes=6)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "mixer." not in k})
    assert torch.equal(model.eval()(batch.images), plain.eval()(batch.images))
    logits = model.train()(batch.images)
    loss = nn.functional.cross_entropy(logits, batch.labels) + mixer_loss(model, batch.labels)
    loss.backward()
    assert model.conv1.weight.grad.abs().sum() > 0


def test_no_foreign_package_is_imported_by_adapters():
    for name in ("models", "layers", "ignite", "apex"):
        assert name not in sys.modules
