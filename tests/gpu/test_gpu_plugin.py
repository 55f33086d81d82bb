"""The plug-in on a CUDA device: same device, same bits in mode f, mixed precision."""

import dataclasses

import pytest
import torch

from mixer_plugin import extract_features, mixer_parameters, wrap_with_mixer
from tests.contract.toys import TOYS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(params=list(TOYS))
def toy(request):
    return TOYS[request.param]


def build(toy):
    torch.manual_seed(0)
    return toy.build().cuda()


def on_gpu(batch):
    values = (getattr(batch, item.name).cuda() for item in dataclasses.fields(batch))
    return type(batch)(*values)


def train(toy, model, steps=5, dtype=None):
    torch.manual_seed(1)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-3)
    loop = toy.loop()
    loop.start_epoch(model, 0)
    for step in range(steps):
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            loss = toy.step_loss(model, on_gpu(toy.batch(step)), loop)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loop.stepped(model)
    return loss


def test_heads_follow_the_model_and_draw_nothing(toy):
    model = build(toy)
    before = torch.cuda.get_rng_state()
    wrap_with_mixer(model, adapter=toy.adapter())
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert {p.device.type for p in mixer_parameters(model)} == {"cuda"}


def test_mode_f_leaves_the_base_bit_identical(toy):
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        plain, wrapped = build(toy), wrap_with_mixer(build(toy), "f", adapter=toy.adapter())
        train(toy, plain)
        train(toy, wrapped)
    finally:
        torch.use_deterministic_algorithms(False)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, wrapped.state_dict()[key]), key


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["e2e", "f"])
def test_mixed_precision_trains(toy, mode, dtype):
    model = wrap_with_mixer(build(toy), mode, adapter=toy.adapter())
    assert torch.isfinite(train(toy, model, dtype=dtype))
    assert all(v.dtype == torch.float32 for v in model.mixer.terms.values())
    assert all(torch.isfinite(p).all() for p in mixer_parameters(model))


def test_extraction_equals_the_cpus(toy):
    model = wrap_with_mixer(build(toy), adapter=toy.adapter(), seed=0)
    batch = toy.batch()
    loader = [(batch.images, batch.labels, batch.cams, batch.modality)]
    gpu = extract_features(model, loader)
    cpu = extract_features(model.cpu(), loader)
    torch.testing.assert_close(gpu.erased, cpu.erased, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(gpu.related, cpu.related, atol=1e-3, rtol=1e-3)
