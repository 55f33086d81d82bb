from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.data.loading.transforms import Augmentation, normalise
from mixer_plugin.data.synthetic import SyntheticConfig, identity_factors, images, plan, render

SIZE = {"height": 16, "width": 8}


@given(
    seed=st.integers(0, 2**40),
    order=st.permutations(range(48)),
    count=st.integers(1, 48),
    chunk=st.integers(1, 20),
)
def test_an_image_does_not_depend_on_its_company(
    seed: int, order: list[int], count: int, chunk: int
) -> None:
    config = SyntheticConfig(seed=seed, train_ids=1, val_ids=1, test_ids=1, **SIZE)
    rows = plan(config)[:48]
    whole = render(config, rows)
    chosen = order[:count]
    saved = images._CHUNK_PIXELS
    images._CHUNK_PIXELS = chunk * 16 * 8
    try:
        np.testing.assert_array_equal(render(config, rows[chosen]), whole[chosen])
    finally:
        images._CHUNK_PIXELS = saved


@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000),
    few=st.tuples(*[st.integers(1, 3)] * 3),
    more=st.tuples(*[st.integers(0, 3)] * 3),
    images=st.integers(1, 3),
)
def test_more_identities_or_images_leave_the_first_ones_alone(
    seed: int, few: tuple[int, ...], more: tuple[int, ...], images: int
) -> None:
    names = ("train_ids", "val_ids", "test_ids")
    small = SyntheticConfig(seed=seed, **dict(zip(names, few, strict=True)), **SIZE)
    sizes = [a + b for a, b in zip(few, more, strict=True)]
    large = SyntheticConfig(
        seed=seed,
        visible_per_camera=4 + images,
        test_infrared_per_camera=4 + images,
        **dict(zip(names, sizes, strict=True)),
        **SIZE,
    )
    rows, other = plan(small), plan(large)

    def content(table: np.ndarray) -> list[tuple[object, ...]]:
        return [tuple(row) for row in table[["split", "index", "cam", "number"]].tolist()]

    place = {key: i for i, key in enumerate(content(other))}
    same = other[[place[key] for key in content(rows)]]
    np.testing.assert_array_equal(render(small, rows), render(large, same))
    factors, _ = identity_factors(small)
    wider, _ = identity_factors(large)
    np.testing.assert_array_equal(factors[rows["pid"] - 1], wider[same["pid"] - 1])


@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=9),
    data=st.data(),
    k=st.integers(1, 6),
    order=st.sampled_from(["grouped", "blocks"]),
    seed=st.integers(0, 2**32),
)
def test_sampler_invariants(
    sizes: list[tuple[int, int]], data: st.DataObject, k: int, order: str, seed: int
) -> None:
    pairs = [(i, m) for i, both in enumerate(sizes) for m in (0, 1) for _ in range(both[m])]
    pairs = data.draw(st.permutations(pairs))
    labels, modality = np.asarray(pairs).T
    n_ids = len(sizes)
    p = data.draw(st.integers(1, n_ids))
    sampler = IdentitySampler(labels, modality, p=p, k=k, order=order, iterations=n_ids, seed=seed)
    drawn: Counter[int] = Counter()
    for rows in sampler:
        assert len(rows) == 2 * p * k
        cells = Counter(zip(labels[rows].tolist(), modality[rows].tolist(), strict=True))
        assert len(cells) == 2 * p
        assert set(cells.values()) == {k}
        times = Counter(rows)
        for identity, kind in cells:
            own = np.flatnonzero((labels == identity) & (modality == kind))
            repeats = [times[row] for row in own.tolist()]
            assert max(repeats) - min(repeats) <= 1  # even, and no repeat without need
        drawn.update(set(labels[rows].tolist()))
    assert drawn == Counter({i: p for i in range(n_ids)})


@given(
    batch=st.integers(1, 6),
    height=st.integers(4, 20),
    width=st.integers(4, 20),
    pad=st.integers(0, 4),
    pad_mode=st.sampled_from(["zero", "symmetric", "mean"]),
    grey=st.sampled_from(["none", "channel", "mix"]),
    erase=st.sampled_from([0.0, 0.5, 1.0]),
    erase_value=st.sampled_from(["grey", "random", "mean"]),
    area=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
    seed=st.integers(0, 2**40),
)
def test_augmentation_works_at_every_size(
    batch: int,
    height: int,
    width: int,
    pad: int,
    pad_mode: str,
    grey: str,
    erase: float,
    erase_value: str,
    area: tuple[float, float],
    seed: int,
) -> None:
    config = Augmentation(
        pad=pad,
        pad_mode=pad_mode,
        grey=grey,
        erase=erase,
        erase_value=erase_value,
        erase_area=(min(area), max(area)),
    )
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8
    )
    before = images.clone()
    modality = torch.arange(batch) % 2
    state = generator.get_state()
    result = config(images, modality, generator)
    assert torch.equal(images, before)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    generator.set_state(state)
    assert torch.equal(config(images, modality, generator), result)
    if erase == 0.0:
        # Values stay those of pixels.
        ends = torch.stack([torch.zeros(3), torch.full((3,), 255.0)]).to(torch.uint8)
        low, high = normalise(ends.view(2, 3, 1, 1), config)
        assert (result >= low - 1e-5).all()
        assert (result <= high + 1e-5).all()
