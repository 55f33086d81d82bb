"""What ``inspect`` proposes for networks of many forms is pasted, and works."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixer_plugin import adapters, extract_features, mixer_parameters, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.adapters.generic.trial import EQUAL
from mixer_plugin.conformance.any_loop import any_loop
from mixer_plugin.conformance.inspection.places import find_embeddings, find_pooling, find_stages
from mixer_plugin.conformance.inspection.propose import propose, trouble_of
from mixer_plugin.conformance.inspection.report import report
from mixer_plugin.conformance.inspection.watch import watch
from mixer_plugin.conformance.inspection.ways import find_way
from mixer_plugin.errors import MixERError
from tests.contract.toys import IMAGE, PlainNet, PlainViT
from tests.networks import LossInside, PlainTokens, TwoStreams
from tests.unit.adapters.attaching import FORMS, batch_of, train

CLASSES = 6


class Logits(PlainNet):
    """As a torchvision network: its evaluation returns logits."""

    def forward(self, images):
        return self.fc(self.avgpool(self.layer4(self.stem(images))).flatten(1))


class Attended(PlainNet):
    """A module without a number runs between the last stage and the pooling."""

    def __init__(self):
        super().__init__()
        self.layer3 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.attention = nn.Conv2d(12, 12, 1)

    def forward(self, images, modality=None):
        x = self.attention(self.layer4(self.layer3(self.stem(images))))
        feature = self.neck(x.mean((2, 3)))
        return (feature, self.fc(feature)) if self.training else feature


class Power(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(4.5))

    def forward(self, x):
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)


class BeforeTheNeck(PlainNet):
    """Pools with an exponent of its own, and retrieves before the neck."""

    def __init__(self):
        super().__init__()
        self.layer3 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.gem = Power()

    def forward(self, x, targets=None, camids=None):
        feature = self.gem(self.layer4(self.layer3(self.stem(x))))
        logits = self.fc(self.neck(feature))
        return {"loss": F.cross_entropy(logits, targets)} if self.training else feature


class NeckPerModality(PlainNet):
    """Its neck, one norm per modality, writes into what it takes."""

    def __init__(self):
        super().__init__()
        self.layer3 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.neck = Necks()

    def forward(self, images, labels=None, cam_ids=None):
        x = self.layer4(self.layer3(self.stem(images))).mean((2, 3))
        feature = self.neck(x, cam_ids == 3)
        return (F.cross_entropy(self.fc(feature), labels), {}) if self.training else feature


class Necks(nn.Module):
    def __init__(self):
        super().__init__()
        self.of_visible, self.of_infrared = nn.BatchNorm1d(12), nn.BatchNorm1d(12)

    def forward(self, x, infrared):
        both = {False: self.of_visible, True: self.of_infrared}
        for side, norm in both.items():
            rows = infrared == side
            if rows.any():
                x[rows] = norm(x[rows])
        return x


class NormOfMean(PlainViT):
    """Pools patches, and norms the mean."""

    def forward(self, images):
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1)
        return self.head(self.norm(self.blocks(tokens)[:, 1:].mean(1)))


class Parts(PlainNet):
    """Concatenates what no single pooling gives."""

    def forward(self, images):
        x = self.layer4(self.stem(images))
        parts = torch.cat([x[:, :, :3].mean((2, 3)), x[:, :, 3:].amax((2, 3))], 1)
        return (parts, self.fc(self.neck(parts[:, :12]))) if self.training else parts


def numbered(net):
    """The toy with a stage before its last one."""
    net.layer3 = nn.Identity()
    return net


# The network, what the line has to say, and what the report has to say.
NETWORKS = {
    "two streams": (
        lambda: TwoStreams(trunk="small-deep"),
        'GenericAdapter("base_resnet.base.layer4", "bottleneck:input", pool=GeM(3.0), '
        'neck="bottleneck", classifier="classifier", inputs="two-stream", '
        'base_losses="identity", trial=(32, 16))',
        "two streams, x1 and x2, and a switch, modal",
    ),
    "loss inside": (
        LossInside,
        'GenericAdapter("backbone.layer4", "bn_neck:input", pool=GeM(3.0), neck="bn_neck", '
        'classifier="classifier", modality=Cameras(), loss="forward", base_losses="identity", '
        "trial=(32, 16))",
        "loss        returned by the forward",
    ),
    "plain tokens": (
        PlainTokens,
        'GenericAdapter(("base.blocks.2", "base.norm"), neck="bottleneck", '
        'classifier="classifier", base_losses="identity", trial=(32, 16))',
        "loss = loss + mixer_loss(net, labels, modality)",
    ),
    "tokens in a sequential": (
        PlainViT,
        'GenericAdapter(("blocks.1", "norm"), neck="neck", classifier="head", '
        'modality="modality", base_losses="identity", trial=(32, 16))',
        "modality, row by row",
    ),
    "pooled by a module": (
        lambda: numbered(PlainNet()),
        'GenericAdapter("layer4", "avgpool", neck="neck", classifier="fc", modality="modality", '
        'base_losses="identity", trial=(32, 16))',
        "pooling     avgpool",
    ),
    "logits": (
        lambda: numbered(Logits()),
        'GenericAdapter("layer4", "avgpool", classifier="fc", base_losses="identity", '
        "trial=(32, 16))",
        "what fc makes output 1 of",
    ),
    "attended": (
        Attended,
        'GenericAdapter(("layer4", "attention"), "neck:input", pool=mean_pool, neck="neck", '
        'classifier="fc", modality="modality", base_losses="identity", trial=(32, 16))',
        "stage       layer4, attention: 8 × 16 × 8 → 12 × 16 × 8",
    ),
    "a neck per modality": (
        NeckPerModality,
        'GenericAdapter("layer4", "neck:input", pool=mean_pool, neck="neck", classifier="fc", '
        'modality=Cameras(), clone=True, loss="forward", base_losses="identity", trial=(32, 16))',
        "embedding   [B, 12], before neck",
    ),
    "norm of a mean": (
        NormOfMean,
        'GenericAdapter("blocks.1", "norm:input", pool=patch_mean, neck="norm", '
        'classifier="head", base_losses="identity", trial=(32, 16))',
        "pooling     patch_mean",
    ),
    "before the neck": (
        BeforeTheNeck,
        'GenericAdapter("layer4", "gem", pool=GeM(\'gem.p\'), classifier="fc", '
        'modality=Cameras(argument=\'camids\'), loss="forward", labels="targets", '
        'base_losses="identity", trial=(32, 16))',
        "gem's output, what output 1 of the evaluation is",
    ),
}


def proposed(net, size=IMAGE):
    return propose(net, find_way(net, CLASSES, size), CLASSES)


def built(name):
    torch.manual_seed(0)
    return NETWORKS[name][0]()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_proposed_line_is_pasted_and_works(name):
    net, (_, line, said) = built(name), NETWORKS[name]
    keys, modes = list(net.state_dict()), [m.training for m in net.modules()]
    proposal = proposed(net)
    assert proposal.line == line
    text = report(net, proposal, CLASSES)
    assert said in text
    assert list(net.state_dict()) == keys
    assert [m.training for m in net.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    paste = re.search(r"Paste:\n\n(.*?)\n\n(?:and in|The loop)", text, re.DOTALL)[1]
    values = {"net": net}
    exec(paste, values)
    assert net.mixer.num_classes == CLASSES
    assert net.mixer.adapter.num_classes(net) == CLASSES
    adapter, batch = values["adapter"], batch_of()
    step = any_loop(adapter, net, CLASSES)(net.train(), batch)
    loss = step.loss
    if adapter.adds_loss() == "loop":
        line = text.splitlines()[-1]
        values |= {"loss": loss, "labels": batch.labels, "modality": batch.modality}
        exec(line, values)
        loss = values["loss"]
    loss.backward()
    assert all(p.grad is not None for p in mixer_parameters(net))
    found = extract_features(net, [(batch.images, batch.labels, batch.cams, batch.modality)])
    assert found.related.shape == found.erased.shape


@pytest.mark.parametrize("name", FORMS)
def test_what_is_proposed_trains_as_the_line_by_hand_does(name):
    form, words = FORMS[name], {n: getattr(adapters, n) for n in adapters.__all__}
    trained = []
    for line in (form.line, NETWORKS[name][1]):
        torch.manual_seed(0)
        adapter = eval(line, dict(words))
        adapter.base_losses = frozenset()
        net = wrap_with_mixer(form.build(), "f", adapter=adapter, seed=0)
        train(form, net)
        trained.append(net.state_dict())
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(value, trained[1][key]) for key, value in trained[0].items())


def test_where_no_line_does_a_class_to_fill_in_is_printed():
    net = numbered(Parts())
    proposal = proposed(net)
    assert proposal.line is None
    text = report(net, proposal, CLASSES)
    assert "No single line attaches" in text
    skeleton = text[text.index("class Mine") : text.index("\n\nThen:")]
    assert 9 <= len(skeleton.splitlines()) <= 15
    values = {name: getattr(adapters, name) for name in adapters.__all__}
    exec(skeleton, values)
    mine = values["Mine"]()
    assert isinstance(mine, GenericAdapter)
    assert (mine.stage, mine.classifier) == ("layer4", "fc")
    assert "Mine" in text.splitlines()[-1]


class Odd(PlainNet):
    def forward(self, graph, *, images):
        return super().forward(images)


def test_a_forward_that_takes_no_known_call_is_told_with_what_was_tried():
    with pytest.raises(MixERError) as refusal:
        find_way(Odd(), CLASSES, IMAGE)
    assert "Odd.forward(self, graph, *, images) took no call" in str(refusal.value)
    assert "known to the loop alone, 32 × 16: TypeError" in str(refusal.value)


def test_the_size_of_a_network_for_one_size_is_found():
    assert find_way(PlainTokens(size=(64, 32)), CLASSES, None).size == (64, 32)
    with pytest.raises(MixERError, match="RuntimeError"):
        find_way(PlainTokens(size=(64, 32)), CLASSES, (32, 16))


def test_a_line_that_does_not_work_says_why():
    net = TwoStreams()
    drawn = watch(net, find_way(net, CLASSES, IMAGE)).model
    line = NETWORKS["two streams"][1]
    for change, said in (
        (("GeM(3.0)", "mean_pool"), "clones of the stage give another embedding"),
        (('neck="bottleneck", ', ""), None),
        (("layer4", "layer3"), "embedding has 128 columns and the pooled map of the stage 64"),
        (("base_resnet.base.layer4", "layer5"), "No sub-module 'layer5'"),
    ):
        trouble = trouble_of(line.replace(*change), net, drawn, CLASSES)
        assert trouble is None if said is None else said in trouble, (change, trouble)


def test_features_before_and_after_a_neck_are_told_apart_though_nothing_was_trained():
    net = TwoStreams()
    watched = watch(net, find_way(net, CLASSES, IMAGE))
    first = next(find_embeddings(watched))
    assert (first.place, first.neck, first.own) == ("bottleneck:input", "bottleneck", True)
    before, after = watched.outputs
    assert torch.cosine_similarity(before, after).min() < EQUAL
    pooled = find_pooling(watched, first.values)
    assert pooled.function == "GeM(3.0)"
    (stage,) = find_stages(watched, pooled.stage_map)[:1]
    assert stage.parts == ("base_resnet.base.layer4",)
    assert all(
        torch.equal(a, b) for a, b in zip(net.buffers(), TwoStreams().buffers(), strict=True)
    )
