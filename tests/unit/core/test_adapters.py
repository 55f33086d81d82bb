"""The registry, and what adapters say when something does not fit."""

import copy
import subprocess
import sys
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mixer_plugin import (
    extract_features,
    list_adapters,
    mixer_loss,
    register_adapter,
    wrap_with_mixer,
)
from mixer_plugin.adapters import Adapter, GenericAdapter, Tap, registry, resolve_adapter
from mixer_plugin.errors import MixERError, MixERRuntimeError, MixERTypeError
from tests.contract.toys import PlainNet, PlainViT, make_batch


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
        (GenericAdapter("layer4", width=7), "Pass num_classes="),
        (GenericAdapter("neck", "avgpool", classifier="fc"), "no convolution.*Pass width="),
        (GenericAdapter("stem", "avgpool", pool="layer4"), "'layer4' has parameters.*'stem', 'lay"),
        (GenericAdapter(("stem", "layer5"), classifier="fc"), "Did you mean 'layer4'"),
        (GenericAdapter(("stem", "fc"), classifier="fc"), "cannot be sized by a trial run"),
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


def by_rows(call):
    """Modality of a batch whose second half is infrared; a module-level function pickles."""
    images = call.argument("x")
    return torch.arange(len(images)) * 2 // len(images)


def torchvision_resnet50():
    return pytest.importorskip("torchvision").models.resnet50(num_classes=6)


def torchvision_vit():
    vit_b_16 = pytest.importorskip("torchvision").models.vit_b_16
    return vit_b_16(image_size=32, num_classes=6)


def timm_model(name, **options):
    return pytest.importorskip("timm").create_model(
        name, pretrained=False, num_classes=6, **options
    )


ANY_NETWORK = {
    "torchvision resnet50": (
        torchvision_resnet50,
        lambda: GenericAdapter(stage="layer4", pool="avgpool", modality=by_rows),
        ("conv1.weight", 2048),
    ),
    "torchvision vit_b_16": (
        torchvision_vit,
        lambda: GenericAdapter(("encoder.layers.encoder_layer_11", "encoder.ln"), modality=by_rows),
        ("conv_proj.weight", 768),
    ),
    "timm vit": (
        lambda: timm_model("vit_tiny_patch16_224", img_size=32, depth=2),
        lambda: GenericAdapter(("blocks.1", "norm"), modality=by_rows),
        ("patch_embed.proj.weight", 192),
    ),
    "timm vit, mean of patches": (
        lambda: timm_model("vit_tiny_patch16_224", img_size=32, depth=2, global_pool="avg"),
        lambda: GenericAdapter(
            ("blocks.1", "norm"), "norm", pool=lambda x: x[:, 1:].mean(1), modality=by_rows
        ),
        ("patch_embed.proj.weight", 192),
    ),
    "timm resnet18": (
        lambda: timm_model("resnet18"),
        lambda: GenericAdapter("layer4", pool="global_pool", modality=by_rows),
        ("conv1.weight", 512),
    ),
    "timm convnext": (
        lambda: timm_model("convnext_atto"),
        lambda: GenericAdapter("stages.3", pool="head.global_pool", modality=by_rows),
        ("stem.0.weight", 320),
    ),
}


# It has 86 million parameters.
LARGE = pytest.param("torchvision vit_b_16", marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [LARGE, *(name for name in ANY_NETWORK if name not in LARGE.values)]
)
def test_generic_attaches_to_any_network_in_one_line(name):
    build, adapter, (first, width) = ANY_NETWORK[name]
    torch.manual_seed(0)
    model, batch = build(), make_batch()
    plain = build()
    plain.load_state_dict(model.state_dict())
    wrap_with_mixer(model, adapter=adapter())
    assert model.mixer.num_classes == 6
    images = batch.images[:, :, :, :16].repeat(1, 1, 1, 2)
    assert torch.equal(model.eval()(images), plain.eval()(images))
    logits = model.train()(images)
    loss = nn.functional.cross_entropy(logits, batch.labels) + mixer_loss(model, batch.labels)
    loss.backward()
    assert model.get_parameter(first).grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.mixer.parameters() if p.requires_grad)
    found = extract_features(model, [(images, batch.labels, batch.cams)])
    assert found.erased.shape == found.related.shape == (12, width)


def test_a_bare_sequential_is_refused_and_one_inside_a_module_is_not():
    """As a child of a Sequential the heads would become a step of its forward."""

    class Net(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body(x)

    def body():
        layers = {"layer4": nn.Conv2d(3, 8, 3), "avgpool": nn.AdaptiveAvgPool2d(1)}
        return nn.Sequential(OrderedDict(layers))

    bare = body()
    with pytest.raises(MixERTypeError, match="would run the heads as one more step"):
        wrap_with_mixer(bare, num_classes=2, adapter=GenericAdapter("layer4", "avgpool"))
    assert list(bare._modules) == ["layer4", "avgpool"]
    net = Net(body())
    x = torch.randn(4, 3, 8, 8)
    before = net(x)
    adapter = GenericAdapter("body.layer4", "body.avgpool")
    wrap_with_mixer(net, num_classes=2, adapter=adapter)
    assert torch.equal(net.eval()(x), before)


def test_tokens_without_a_way_to_pool_them_say_so():
    model = PlainViT()
    adapter = GenericAdapter("blocks.1", "norm", pool="neck.none", classifier="head")
    with pytest.raises(MixERError, match=r"No sub-module 'neck\.none'"):
        wrap_with_mixer(model, adapter=adapter)
    model.rest = nn.Identity()
    adapter = GenericAdapter("blocks.1", "norm", pool="rest", classifier="head", width=60)
    wrap_with_mixer(model, adapter=adapter)
    with pytest.raises(MixERError, match=r"gives tokens \[12, 9, 12\].*Pass pool="):
        model.train()(make_batch().images)


def test_no_foreign_package_is_imported_by_adapters():
    code = (
        "import sys; from mixer_plugin.adapters import list_adapters; print(*list_adapters()); "
        "print({'models', 'layers', 'ignite', 'apex'} & {*sys.modules})"
    )  # in a process of its own: other tests import some of them
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, foreign = done.stdout.splitlines()
    assert "idkl" in names.split()
    assert foreign == "set()"


class CountsChildren(PlainNet):
    """Its state dict has a key for each child, so attaching one adds a key."""

    def state_dict(self, *args, **options):
        counted = {f"child.{n}": torch.zeros(()) for n, _ in enumerate(self.children())}
        return super().state_dict(*args, **options) | counted


@pytest.mark.parametrize("late", [False, True])
def test_a_wrap_that_fails_half_way_leaves_the_model_as_it_was(late, monkeypatch):
    net = CountsChildren() if late else PlainNet()
    kind, children = type(net), dict(net.named_children())
    given = GenericAdapter("layer4", "avgpool", classifier="fc")
    if not late:
        monkeypatch.setattr("mixer_plugin.attach.mixed_class", lambda _: 1 / 0)
    with pytest.raises(MixERRuntimeError if late else ZeroDivisionError):
        wrap_with_mixer(net, "e2e", adapter=given)
    assert type(net) is kind
    assert dict(net.named_children()) == children
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    monkeypatch.undo()
    net.__class__ = PlainNet
    assert wrap_with_mixer(net, "e2e", adapter=given) is net


def test_new_heads_follow_the_seed_given_or_else_torchs():
    torch.manual_seed(0)
    base = PlainNet()
    given = GenericAdapter("layer4", "avgpool", classifier="fc")

    def weights(ambient, seed=None):
        torch.manual_seed(ambient)
        net = wrap_with_mixer(copy.deepcopy(base), "e2e", adapter=given, seed=seed)
        return torch.cat([p.detach().flatten() for p in net.mixer.parameters()])

    assert torch.equal(weights(1, seed=5), weights(2, seed=5))
    assert not torch.equal(weights(1, seed=5), weights(1, seed=6))
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
