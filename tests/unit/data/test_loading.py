from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixer_plugin.benchmarks.speed.loading_speed import main
from mixer_plugin.data.loading.batches import LoadedBatch, load_batches, step_generator
from mixer_plugin.data.loading.pipeline import Colour, Crop, Erase, Flip, Normalise, Pipeline
from mixer_plugin.data.loading.prefetch import prefetch
from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.data.loading.transforms import Augmentation
from mixer_plugin.errors import MixERTypeError, MixERValueError

LABELS = torch.arange(8).repeat_interleave(6)
MODALITY = torch.tensor([0, 1] * 24)
PLAIN = Augmentation(pad=2, grey="mix", erase=0.5, erase_value="random")
RECIPE = Pipeline(
    steps=(
        Flip(),
        Crop(pad=2, mode="symmetric"),
        Colour(channel_copy=0.3),
        Normalise(),
        Erase(value="random"),
    ),
    shape_steps=(Crop(pad=2), Flip(), Normalise()),
)


def _pixels(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (48, 3, 12, 8), generator=generator, dtype=torch.uint8)


def _load(
    steps: range, augmentation: Augmentation | Pipeline = PLAIN, **options: object
) -> list[LoadedBatch]:
    sampler = IdentitySampler(LABELS, MODALITY, p=4, k=2, iterations=10, seed=3)
    options = {"seed": 5, "shapes": _pixels(2), **options}
    batches = load_batches(
        _pixels(1),
        MODALITY,
        sampler,
        steps,
        augmentation=augmentation,
        **options,  # type: ignore[arg-type]
    )
    with closing(batches):
        return list(batches)


def _equal(one: LoadedBatch, other: LoadedBatch) -> bool:
    assert one.shapes is not None
    assert other.shapes is not None
    return (
        one.step == other.step
        and torch.equal(one.rows, other.rows)
        and torch.equal(one.images, other.images)
        and torch.equal(one.shapes, other.shapes)
    )


def test_batches_are_the_samplers_rows_augmented_in_turn() -> None:
    sampler = IdentitySampler(LABELS, MODALITY, p=4, k=2, iterations=10, seed=3)
    plain = Augmentation(pad=2, erase=0.5, erase_value="random")  # shapes keep their grey
    for step, batch in zip(range(4, 9), _load(range(4, 9)), strict=True):
        rows = sampler.batch(step)
        # The numbers of results that were published: see benchmarks/training/fit.py.
        generator = torch.Generator().manual_seed((5 * 1_000_003 + step) ^ (0x5EED << 32))
        images = PLAIN(_pixels(1)[rows], MODALITY[rows], generator)
        shapes = plain(_pixels(2)[rows], MODALITY[rows], generator)
        assert _equal(batch, LoadedBatch(step, rows, images, shapes))
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_recipes_are_loaded_with_their_own_steps_for_shapes() -> None:
    sampler = IdentitySampler(LABELS, MODALITY, p=4, k=2, iterations=10, seed=3)
    (batch,) = _load(range(6, 7), RECIPE)
    rows, generator = sampler.batch(6), step_generator(5, 6)
    images = RECIPE(_pixels(1)[rows], MODALITY[rows], generator)
    shapes = RECIPE.for_shapes()(_pixels(2)[rows], MODALITY[rows], generator)
    assert _equal(batch, LoadedBatch(6, rows, images, shapes))
    (alone,) = _load(range(6, 7), RECIPE, shapes=None)
    assert alone.shapes is None
    assert torch.equal(alone.images, batch.images)


@pytest.mark.parametrize("augmentation", [PLAIN, RECIPE])
def test_threads_and_the_first_step_change_nothing(augmentation: Augmentation | Pipeline) -> None:
    whole = _load(range(12), augmentation)
    threads = _load(range(12), augmentation, workers=4, depth=5)
    late = _load(range(7, 12), augmentation, workers=2)
    assert all(map(_equal, whole, threads))
    assert all(map(_equal, whole[7:], late))
    other = _load(range(12), augmentation, seed=6)
    assert not any(map(_equal, whole, other))


def test_another_device_is_augmented_on_when_a_batch_is_taken() -> None:
    # No numbers on this device, but everything that is done elsewhere fails.
    still = Pipeline(
        steps=(Flip(), Crop(), Colour(grayscale=0.5), Normalise(), Erase()),
        shape_steps=RECIPE.shape_steps,
    )
    there = _load(range(5), still, device="meta", workers=2)
    for step, (batch, here) in enumerate(zip(there, _load(range(5), still), strict=True)):
        assert batch.step == step
        assert torch.equal(batch.rows, here.rows)
        for found, expected in ((batch.images, here.images), (batch.shapes, here.shapes)):
            assert found is not None
            assert expected is not None
            assert found.device.type == "meta"
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    sampler = IdentitySampler(LABELS, MODALITY, p=4, k=2, iterations=10, seed=3)
    batches = load_batches(
        _pixels(1), MODALITY, sampler, range(99), augmentation=still, seed=0, device="meta"
    )
    with closing(batches):
        next(batches)
        assert len(_threads()) == 1
    assert _threads() == []


def test_processes_augment_apart() -> None:
    draws = [torch.rand(4, generator=step_generator(5, 6, rank)).tolist() for rank in range(3)]
    assert len({tuple(row) for row in draws}) == 3


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(MixERTypeError, match=r"shapes must be uint8, got torch\.float32"):
        _load(range(1), shapes=_pixels(2).float())
    with pytest.raises(MixERValueError, match="shapes must be on the CPU, in the shape of pixels"):
        _load(range(1), shapes=_pixels(2)[:-1])
    with pytest.raises(MixERValueError, match="no augmentation of body shapes"):
        _load(range(1), Pipeline(steps=(Normalise(),)))
    with pytest.raises(MixERValueError, match="depth must be at least 1"):
        _load(range(1), depth=0)
    with pytest.raises(MixERValueError, match="workers must be at least 1"):
        _load(range(1), workers=0)
    with pytest.raises(MixERValueError, match="step must be at least 0"):
        _load(range(-1, 1))


def _threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_made_ahead_in_order_and_no_further_than_depth() -> None:
    begun: list[int] = []

    def make(item: int) -> int:
        begun.append(item)
        time.sleep(0.002 * (item % 3))  # later ones are often ready first
        return item * item

    made = prefetch(make, range(20), depth=3, workers=3)
    assert begun == []
    for item in range(20):
        assert next(made) == item * item
        assert max(begun) <= item + 3
    assert next(made, None) is None
    assert _threads() == []


def test_items_are_made_while_the_caller_works() -> None:
    second = threading.Event()
    made = prefetch(lambda item: second.set() if item else None, range(3))
    with closing(made):
        next(made)
        assert second.wait(10)


def test_a_workers_error_reaches_the_caller_with_its_traceback() -> None:
    def broken_step(item: int) -> int:
        if item == 2:
            raise ZeroDivisionError("in the worker")
        return item

    made = prefetch(broken_step, range(9), depth=4, workers=2)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ZeroDivisionError, match="in the worker") as caught:
        next(made)
    assert "broken_step" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert _threads() == []
    assert next(made, None) is None


def test_stopping_early_drops_what_was_not_begun() -> None:
    begun: list[int] = []
    stopping = threading.Event()

    def make(item: int) -> None:
        begun.append(item)
        if item:
            stopping.wait(10)
            time.sleep(0.3)

    with closing(prefetch(make, range(100), depth=8)) as made:
        next(made)
        stopping.set()
    assert _threads() == []
    assert len(begun) < 8
    made = prefetch(lambda item: item, range(100), depth=8)
    next(made)
    del made
    assert _threads() == []


CTRL_C = """
import sys, time
from mixer_plugin.data.loading.prefetch import prefetch
made = prefetch(lambda item: time.sleep(0.2 if item else 0), range(1000), depth=4, workers=2)
try:
    for _ in made:
        print("taken", flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_a_waiting_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", CTRL_C], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


@pytest.mark.slow
def test_the_benchmark_measures_every_way(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    sizes = "--height 32 --width 16 --ids 6 --p 3 --k 2 --steps 4 --turns 2 --workers 1 2"
    main([*sizes.split(), "--recipe", "mpanet", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["cache"]["images"] > 0
    assert list(found["ways"]) == ["in line", "1 thread(s)", "2 thread(s)"]
    for numbers in found["ways"].values():
        assert 0 < numbers["waited_ms"] < numbers["step_ms"]
        assert 0 < numbers["waited_share"] < 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_are_those_of_the_cpu() -> None:
    still = Pipeline(
        steps=(Flip(), Crop(), Colour(grayscale=0.5), Normalise(), Erase()),
        shape_steps=RECIPE.shape_steps,
    )
    on_cpu = _load(range(6), still)
    on_gpu = _load(range(6), still, device="cuda", workers=2, depth=3)
    for here, there in zip(on_cpu, on_gpu, strict=True):
        assert there.images.device.type == "cuda"
        torch.testing.assert_close(there.images.cpu(), here.images)
    random = [_load(range(3, 6), RECIPE, device="cuda") for _ in range(2)]
    assert all(map(_equal, *random))
