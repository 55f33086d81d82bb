from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.errors import MixERValueError

LABELS = np.repeat(np.arange(10, 15), 7)
MODALITY = np.tile([0, 0, 0, 1, 1, 1, 1], 5)


def _sampler(**changes: object) -> IdentitySampler:
    settings = {"p": 3, "k": 2, "iterations": 11, "seed": 5, **changes}
    return IdentitySampler(LABELS, MODALITY, **settings)  # type: ignore[arg-type]


def test_grouped_rows_alternate_infrared_and_visible() -> None:
    rows = _sampler().batch(0).numpy()
    assert rows.dtype == np.int64
    assert MODALITY[rows].tolist() == [1, 0] * 6
    labels = LABELS[rows].reshape(3, 4)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0])) == 3


def test_blocks_pair_row_by_row() -> None:
    rows = _sampler(order="blocks").batch(0).numpy()
    assert MODALITY[rows].tolist() == [0] * 6 + [1] * 6
    assert LABELS[rows[:6]].tolist() == LABELS[rows[6:]].tolist()
    assert sorted(rows) == sorted(_sampler().batch(0).tolist())


def test_batches_depend_on_seed_and_step_alone() -> None:
    forwards = [_sampler().batch(step).tolist() for step in range(30)]
    sampler = _sampler(iterations=2)
    backwards = [sampler.batch(step).tolist() for step in reversed(range(30))]
    assert forwards == backwards[::-1]
    assert len({tuple(batch) for batch in forwards}) == 30
    assert _sampler(seed=6).batch(0).tolist() != forwards[0]
    torch.manual_seed(0)
    np.random.seed(0)
    assert _sampler().batch(3).tolist() == forwards[3]


def test_passes_repeat_unless_the_epoch_is_set() -> None:
    sampler = _sampler()
    first = list(sampler)
    assert len(first) == len(sampler) == 11
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) == [sampler.batch(step).tolist() for step in range(11, 22)]
    with pytest.raises(MixERValueError, match="epoch"):
        sampler.set_epoch(-1)
    with pytest.raises(MixERValueError, match="step"):
        sampler.batch(-1)


def test_identities_take_turns() -> None:
    sampler = _sampler()
    for block in range(4):
        counts = np.zeros(15, dtype=int)
        for step in range(5 * block, 5 * block + 5):
            counts[np.unique(LABELS[sampler.batch(step).numpy()])] += 1
        assert counts[10:].tolist() == [3] * 5


def test_images_repeat_only_if_they_must() -> None:
    rows = _sampler(k=4).batch(0).numpy()
    infrared, visible = rows[0::2].reshape(3, 4), rows[1::2].reshape(3, 4)
    assert all(len(set(own)) == 4 for own in infrared)
    assert all(len(set(own)) == 3 for own in visible)


@pytest.mark.parametrize("order", ["grouped", "blocks"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_the_batch_of_one(order: str, world: int) -> None:
    settings = {"p": 4, "order": order}
    for step in (0, 1, 7, 23):
        whole = _sampler(**settings).batch(step).tolist()
        parts = [
            _sampler(**settings, rank=rank, world=world).batch(step).numpy()
            for rank in range(world)
        ]
        assert {len(part) for part in parts} == {len(whole) // world}
        assert sorted(np.concatenate(parts).tolist()) == sorted(whole)
        owners = [set(LABELS[part]) for part in parts]
        assert sum(map(len, owners)) == len(set.union(*owners)) == 4  # identities stay whole
        for part in parts:
            kinds, labels = MODALITY[part].tolist(), LABELS[part]
            half = len(part) // 2
            if order == "grouped":
                assert kinds == [1, 0] * half
                assert (labels.reshape(-1, 4) == labels.reshape(-1, 4)[:, :1]).all()
            else:
                assert kinds == [0] * half + [1] * half
                assert labels[:half].tolist() == labels[half:].tolist()
        if order == "grouped":
            assert np.concatenate(parts).tolist() == whole


def test_threads_may_ask_for_batches_at_once() -> None:
    sampler, alone = _sampler(), _sampler()
    steps = [(step * 7) % 60 for step in range(600)]  # blocks change at every call
    expected = [alone.batch(step).tolist() for step in steps]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda step: sampler.batch(step).tolist(), steps))
    assert found == expected


def test_works_as_batch_sampler() -> None:
    data = TensorDataset(torch.arange(len(LABELS)))
    sampler = _sampler()
    batches = [batch[0].tolist() for batch in DataLoader(data, batch_sampler=sampler)]
    assert batches == list(sampler)


def test_errors() -> None:
    with pytest.raises(MixERValueError, match="p = 6 identities per batch, but there are only 5"):
        _sampler(p=6)
    with pytest.raises(MixERValueError, match="Identity 12 has no infrared image"):
        IdentitySampler(LABELS, np.where(LABELS == 12, 0, MODALITY), p=2, k=2, iterations=1, seed=0)
    with pytest.raises(MixERValueError, match=r"Unknown order 'block'. Did you mean 'blocks'"):
        _sampler(order="block")
    with pytest.raises(MixERValueError, match="k must be at least 1"):
        _sampler(k=0)
    with pytest.raises(MixERValueError, match="seed must be at least 0"):
        _sampler(seed=-1)
    with pytest.raises(MixERValueError, match=r"p = 3 .* shared evenly by world = 2 processes"):
        _sampler(world=2)
    with pytest.raises(MixERValueError, match=r"rank must be in \[0, world = 3\), got 3"):
        _sampler(rank=3, world=3)
    with pytest.raises(MixERValueError, match="world must be at least 1"):
        _sampler(world=0)
    with pytest.raises(MixERValueError, match="equal length"):
        IdentitySampler(LABELS, MODALITY[1:], p=2, k=2, iterations=1, seed=0)
