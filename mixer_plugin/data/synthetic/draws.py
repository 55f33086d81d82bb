"""Counter-based random numbers: every draw is a function of its key alone.

An image must not change with the number of images rendered before it, with the chunk it was
rendered in, or with the number of identities of the set, so that nothing here keeps a state.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)

_BYTE_SUM_MEAN = 4 * 127.5
_BYTE_SUM_STD = float(np.sqrt(4 * (256**2 - 1) / 12))


class Stream(IntEnum):
    """What a key is for; the first part of a key after the seed."""

    IDENTITY = 0
    IMAGE = 1
    POSE = 2
    CLUTTER = 3
    CAMERA = 4
    NOISE = 5
    TRIAL = 6
    HALVES = 7


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), element by element."""
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def keys(*parts: ArrayLike) -> NDArray[np.uint64]:
    """Hashes non-negative integers or integer arrays to uint64 keys of their broadcast shape."""
    key = np.zeros(np.broadcast_shapes(*(np.shape(part) for part in parts)), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            key = _mix((key ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return key


def uniforms(key: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Uniform draws in (0, 1): [n] to [n, count]; the first columns do not depend on ``count``."""
    steps = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        bits = _mix(key[:, None] + steps * _GOLDEN)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normals(key: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Standard normal draws (Box-Muller), of the shape and stability of :func:`uniforms`."""
    pairs = uniforms(key, 2 * count)
    radius = np.sqrt(-2.0 * np.log(pairs[:, 0::2]))
    return radius * np.cos(2.0 * np.pi * pairs[:, 1::2])


def pixel_noise(key: NDArray[np.uint64], count: int) -> NDArray[np.float32]:
    """Sensor noise, [n] to [n, count]: near-normal draws of mean 0 and deviation 1, made for speed.

    Each is the sum of four random bytes: its range is +-3.5, its steps 0.007, which eight-bit
    images do not show.
    """
    words = -(-count // 2)
    noise = np.empty((len(key), count), dtype=np.float32)
    for row, value in enumerate(key):
        # random_raw, not Generator: numpy keeps the raw stream of a bit generator for good.
        raw = np.random.Philox(key=int(value)).random_raw(words).astype("<u8", copy=False)
        pairs = raw.view("<u4")
        # Adds neighbouring bytes inside each word: 4 x 8 bits -> 2 x 16 bits -> 1 x 16 bits.
        sums = (pairs & 0x00FF00FF) + ((pairs >> 8) & 0x00FF00FF)
        noise[row] = ((sums & 0xFFFF) + (sums >> 16))[:count]
    noise -= np.float32(_BYTE_SUM_MEAN)
    noise *= np.float32(1.0 / _BYTE_SUM_STD)
    return noise
