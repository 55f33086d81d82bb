"""Cached maps are the frozen model's; heads trained on them are those of a loop around it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.attach import mixer_loss, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.checkpoints import base_state_dict
from mixer_plugin.config import MixERConfig
from mixer_plugin.data.datasets.layouts import read_images
from mixer_plugin.data.loading.decode import decode
from mixer_plugin.data.loading.transforms import Augmentation, normalise
from mixer_plugin.data.synthetic import layout_config, write_layout
from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.extraction import extract_features
from mixer_plugin.features import FeatureSet
from mixer_plugin.forward.mixed import mixer_of
from mixer_plugin.probing import HeadRecipe, cache_maps, extract_views, train_heads
from mixer_plugin.probing import maps as probing_maps

SIZE = (32, 16)
FROZEN = MixERConfig(frozen_base=True)
BASELINES = ("saai", "mpanet", "ddag", "deen", "sgeil", "idkl", "saai-base")
RECIPE = HeadRecipe(p=3, k=2, iterations=4, warmup=1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    config = layout_config(
        *("sysu",),
        train_ids=4,
        val_ids=1,
        test_ids=1,
        visible_per_camera=1,
        infrared_per_camera=2,
        height=32,
        width=16,
    )
    root = write_layout(tmp_path_factory.mktemp("maps") / "set", config, "sysu").root
    return read_images(root, "train")


def network(name="saai-base", seed=0, wrapped=True):
    torch.manual_seed(seed)
    options = {"low_dim": 16} if name == "ddag" else {}
    if name == "saai":
        options["image_size"] = SIZE
    model = create_baseline(name, 4, trunk="small", **options).eval()
    for module in model.modules():  # statistics that normalise, as a trained network has
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.uniform_(-0.1, 0.1)
    return wrap_with_mixer(model, "f", config=FROZEN, seed=0).eval() if wrapped else model


def batches(images, size=SIZE, batch=7):
    pixels = decode(images, size)
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        yield (
            normalise(pixels[rows], Augmentation()),
            *(torch.from_numpy(v[rows]) for v in (images.ids, images.cams, images.modality)),
            images.paths[rows],
        )


@pytest.mark.parametrize("name", BASELINES)
def test_views_are_the_features_of_extraction(images, name):
    model = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    features, more = extract_views(model, batches(images))
    expected = extract_features(model, batches(images))
    assert torch.equal(features.erased, expected.erased)
    assert torch.equal(features.related, expected.related)
    assert features.paths == expected.paths
    assert set(more) == {"erased", "related"}
    assert all(len(value) == len(images) for value in more.values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    # A bare model is looked at in the same way, and is bare again.
    bare = network(name, wrapped=False)
    seen, earlier = extract_views(bare, batches(images))
    assert torch.equal(seen.erased, expected.erased)
    assert seen.related is None
    torch.testing.assert_close(earlier["erased"], more["erased"])
    assert not hasattr(bare, "mixer")


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    assert not any(p.grad is not None for n, p in model.named_parameters() if "mixer" not in n)
    return {n: p.grad.clone() for n, p in model.mixer.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_heads_on_cached_maps_learn_what_a_loop_around_the_frozen_model_teaches(
    images, tmp_path, name, monkeypatch
):
    # In full precision: what rounding alone does to mined triplets is no matter of this test.
    monkeypatch.setattr(probing_maps, "_stored", lambda name, value: value.detach().numpy())
    model = network(name)
    maps = cache_maps(model, images, tmp_path, size=SIZE, batch=5)
    mixer, loop = mixer_of(model), create_loop(name)
    fresh = {key: value.clone() for key, value in mixer.state_dict().items()}
    order = np.lexsort((images.ids, images.modality))
    rows = torch.from_numpy(order[np.isin(images.ids[order], np.unique(images.ids)[:2])])
    pixels = normalise(decode(images, SIZE), Augmentation())[rows]
    labels = torch.from_numpy(images.labels()[0])[rows]
    modality, cams = (torch.from_numpy(v)[rows] for v in (images.modality, images.cams))

    model.train()
    loop.look(model, Batch(pixels, labels, modality, cams))
    live = gradients(model, mixer_loss(model, labels))
    terms, related = mixer.terms, mixer.record.related_before
    mixer.load_state_dict(fresh)
    record = mixer.with_related(model, maps.record(rows, "cpu"))
    assert torch.equal(record.modality, modality)
    cached = gradients(model, mixer.loss_on(record, labels)[0])
    torch.testing.assert_close(record.related_before, related, atol=1e-4, rtol=1e-3)
    for term, value in terms.items():
        torch.testing.assert_close(mixer.terms[term], value, atol=1e-3, rtol=1e-3)
    assert live.keys() == cached.keys()
    for key, value in live.items():
        size = float(value.abs().max()) + 1e-3
        assert float((cached[key] - value).abs().max()) / size < 0.02, key


@pytest.mark.parametrize("name", ["saai", "ddag"])
def test_a_cache_is_rounded_and_leaves_the_model_as_it_was(images, tmp_path, name):
    model = network(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {n: m.training for n, m in model.named_modules()}
    maps = cache_maps(model, images, tmp_path, size=SIZE, batch=5)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {n: m.training for n, m in model.named_modules()} == modes
    assert maps.values["stage_input"].dtype == torch.float16
    assert maps.values["erased_after"].dtype == torch.float32
    expected = extract_features(model, batches(images))
    found = []
    model.eval()
    with torch.no_grad():
        for rows in torch.arange(len(images)).split(6):
            record = model.mixer.with_related(model, maps.record(rows, "cpu"))
            found.append(record.related_after)
    torch.testing.assert_close(torch.cat(found), expected.related, atol=0.02, rtol=0.02)


def test_an_interrupted_cache_continues_and_a_finished_one_is_read(images, tmp_path):
    model = network()
    whole = cache_maps(model, images, tmp_path / "whole", size=SIZE, batch=5)
    seen = []

    def stop(done, total):
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_maps(model, images, tmp_path / "cut", size=SIZE, batch=5, progress=stop)
    (folder,) = (tmp_path / "cut").iterdir()
    with (folder / "stage_input.bin").open("ab") as file:  # begun, but not noted
        file.write(b"half a row")
    rest = []
    again = cache_maps(
        model, images, tmp_path / "cut", size=SIZE, batch=5, progress=lambda d, t: rest.append(d)
    )
    assert seen == [5, 10]
    assert rest[0] == 15
    for name, value in whole.values.items():
        assert torch.equal(value, again.values[name]), name
    never = []
    cache_maps(model, images, tmp_path / "cut", size=SIZE, progress=lambda *a: never.append(a))
    assert never == []
    # A file that was cut off is written anew.
    with (folder / "stage_input.bin").open("r+b") as file:
        file.truncate(100)
    mended = cache_maps(model, images, tmp_path / "cut", size=SIZE, batch=5)
    assert torch.equal(mended.values["stage_input"], whole.values["stage_input"])


def test_what_the_maps_depend_on_has_a_folder_of_its_own(images, tmp_path):
    model = network()
    first = cache_maps(model, images, tmp_path, size=SIZE)
    cases = {
        "weights": (network(seed=1), {}),
        "size": (model, {"size": (32, 32)}),
        "normalisation": (model, {"augmentation": Augmentation(mean=(0.5, 0.5, 0.5))}),
        "resampling": (model, {"resample": "bicubic"}),
        "copies": (model, {"copies": 2, "augmentation": Augmentation(pad=2)}),
    }
    marks = {first.mark}
    for other, options in cases.values():
        marks.add(cache_maps(other, images, tmp_path, **{"size": SIZE, **options}).mark)
    subset = dataclasses.replace(
        images,
        paths=images.paths[:6],
        **{name: getattr(images, name)[:6] for name in ("ids", "cams", "modality")},
    )
    marks.add(cache_maps(model, subset, tmp_path, size=SIZE).mark)
    assert len(marks) == len(cases) + 2 == len(list(tmp_path.iterdir()))
    # Neither the heads, nor the batch, nor augmentation that is not used.
    assert cache_maps(model, images, tmp_path, size=SIZE, batch=3).mark == first.mark
    heads = wrap_with_mixer(network(wrapped=False), "f", config=FROZEN, seed=7)
    assert cache_maps(heads, images, tmp_path, size=SIZE).mark == first.mark


def test_further_copies_are_augmented_and_repeat(images, tmp_path):
    model, augmentation = network(), Augmentation(pad=4, flip=0.5)
    options = {"size": SIZE, "augmentation": augmentation, "copies": 3, "batch": 8}
    maps = cache_maps(model, images, tmp_path / "a", **options)
    plain = cache_maps(model, images, tmp_path / "b", size=SIZE, batch=8)
    n, stage = len(images), maps.values["stage_input"]
    assert len(stage) == 3 * n
    assert torch.equal(stage[:n], plain.values["stage_input"])
    assert not torch.equal(stage[n : 2 * n], stage[:n])
    assert not torch.equal(stage[n : 2 * n], stage[2 * n :])
    assert torch.equal(
        cache_maps(model, images, tmp_path / "c", **options).values["stage_input"], stage
    )


def test_maps_are_placed_where_they_fit(images, tmp_path):
    maps = cache_maps(network(), images, tmp_path, size=SIZE)
    assert maps.placed("cpu") is maps
    assert maps.placed("cpu", limit=maps.bytes - 1) is maps
    moved = maps.placed("cpu", limit=maps.bytes)
    assert moved is not maps
    for name, value in maps.values.items():
        assert torch.equal(moved.values[name], value)
        assert moved.values[name].data_ptr() != value.data_ptr()


def trained(images, folder, recipe=RECIPE, seed=0, **options):
    model = network()
    maps = cache_maps(model, images, folder / "maps", size=SIZE)
    train_heads(model, maps, recipe=recipe, seed=seed, **options)
    return model


def test_training_moves_the_heads_alone_and_repeats(images, tmp_path):
    fresh = network()
    state = torch.random.get_rng_state()
    losses = []
    model = trained(images, tmp_path, on_step=lambda step, loss: losses.append(float(loss)))
    # `network` seeds the global state before it draws from it.
    network()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(losses) == RECIPE.iterations
    for key, value in base_state_dict(model).items():
        assert torch.equal(value, fresh.state_dict()[key]), key
    moved = [
        name
        for name, p in model.mixer.named_parameters()
        if not torch.equal(p, fresh.mixer.get_parameter(name)) and p.requires_grad
    ]
    assert "heads.visible.stage.0.conv1.weight" in moved
    assert "heads.infrared.norm.weight" in moved
    assert not model.training
    twin = trained(images, tmp_path)
    other = trained(images, tmp_path, seed=1)
    for key, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key
    assert any(not torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    features = extract_features(model, batches(images))
    assert isinstance(features, FeatureSet)
    assert features.related is not None


def test_an_interrupted_training_ends_in_the_same_bits(images, tmp_path):
    whole = trained(images, tmp_path)

    def stop(step, loss):
        if step == 2:
            raise KeyboardInterrupt

    path = tmp_path / "heads.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(images, tmp_path, checkpoint=path, checkpoint_every=2, on_step=stop)
    steps = []
    resumed = trained(
        images, tmp_path, checkpoint=path, on_step=lambda step, loss: steps.append(step)
    )
    assert steps == [2, 3]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    steps.clear()
    trained(images, tmp_path, checkpoint=path, on_step=lambda step, loss: steps.append(step))
    assert steps == []
    with pytest.raises(MixERValueError, match="another training"):
        trained(images, tmp_path, checkpoint=path, seed=1)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(MixERRuntimeError, match="cannot be read as a checkpoint"):
        trained(images, tmp_path, checkpoint=path)


def test_what_cannot_be_trained_or_cached_is_refused(images, tmp_path):
    model = network()
    maps = cache_maps(model, images, tmp_path, size=SIZE)
    wrong = {
        "mode": wrap_with_mixer(network(wrapped=False), "e2e"),
        "frozen_base": wrap_with_mixer(network(wrapped=False), "f"),
    }
    for other in wrong.values():
        with pytest.raises(MixERValueError, match="frozen_base=True"):
            train_heads(other, maps)
    with pytest.raises(MixERValueError, match="other weights"):
        train_heads(network(seed=1), maps)
    with pytest.raises(MixERValueError, match="labels"):
        train_heads(model, maps, torch.zeros(3, dtype=torch.int64))
    for options in ({"copies": 0}, {"batch": 0}):
        with pytest.raises(MixERValueError, match="at least 1"):
            cache_maps(model, images, tmp_path, size=SIZE, **options)
    with pytest.raises(MixERValueError, match="iterations"):
        HeadRecipe(iterations=0)
    with pytest.raises(MixERValueError, match="checkpoint_every must be at least 1"):
        train_heads(model, maps, checkpoint=tmp_path / "heads.pt", checkpoint_every=0)


def test_maps_beyond_float16_are_refused(images, tmp_path):
    model = network()
    with torch.no_grad():
        model.backbone.layer3[-1].bn2.bias.fill_(1e6)
    with pytest.raises(MixERValueError, match="float16"):
        cache_maps(model, images, tmp_path, size=SIZE)


def test_a_model_that_changes_in_eval_mode_is_refused(images, tmp_path):
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer4 = torch.nn.Conv2d(3, 4, 3)
            self.avgpool = torch.nn.AdaptiveAvgPool2d(1)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.avgpool(self.layer4(x))

    model = wrap_with_mixer(Counting(), "f", num_classes=4, adapter=GenericAdapter(), config=FROZEN)
    with pytest.raises(MixERRuntimeError, match="changed while"):
        cache_maps(model, images, tmp_path, size=SIZE)
