"""Batches of P identities with K visible and K infrared images each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Sampler

from mixer_plugin.errors import MixERValueError, check_name


class IdentitySampler(Sampler[list[int]]):
    """A batch sampler: ``DataLoader(data, batch_sampler=IdentitySampler(...))``.

    Every batch holds ``p`` different identities with ``k`` visible and ``k`` infrared images each:
    ``2 * p * k`` rows, shared out over ``world`` processes. Identities take turns: within any ``C``
    successive batches that start at a multiple of ``C`` (the number of identities), each is drawn
    exactly ``p`` times. An image comes twice in a batch only if its identity has fewer than ``k``
    of the modality.

    Args:
        labels: Integer [n], the identity of each image.
        modality: Integer [n], 0 visible, 1 infrared.
        p: Identities per batch.
        k: Images per identity and modality.
        order: Order of the rows. ``grouped``: identity by identity, infrared and visible in turns
            (I, V, I, V ...), as the codebases on ignite have it. ``blocks``: all visible rows, then
            all infrared rows, row j of either of the same identity, as the script codebases do.
        iterations: Batches per pass.
        seed: Seed of all draws.
        rank: Number of this process among ``world``.
        world: Processes that share each batch. Each gets the rows of ``p / world`` of its
            identities in ``order``; together they get the rows of the batch of one process.

    Raises:
        MixERValueError: An identity lacks a modality, ``p`` exceeds the number of identities or is
            no multiple of ``world``, or an argument is out of range.

    Example:
        >>> sampler = IdentitySampler([0, 0, 1, 1], [0, 1, 0, 1], p=2, k=1, iterations=3, seed=0)
        >>> [len(batch) for batch in sampler]
        [4, 4, 4]
    """

    def __init__(
        self,
        labels: ArrayLike,
        modality: ArrayLike,
        *,
        p: int,
        k: int,
        order: str = "grouped",
        iterations: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        ids, kinds = np.asarray(labels), np.asarray(modality)
        if ids.ndim != 1 or ids.shape != kinds.shape:
            raise MixERValueError(
                "labels and modality must be one-dimensional and of equal length, "
                f"got shapes {ids.shape} and {kinds.shape}."
            )
        given = {"p": p, "k": k, "iterations": iterations, "world": world, "seed": seed}
        for name, value in given.items():
            low = 0 if name == "seed" else 1
            if value < low:
                raise MixERValueError(f"{name} must be at least {low}, got {value}.")
        if not 0 <= rank < world:
            raise MixERValueError(f"rank must be in [0, world = {world}), got {rank}.")
        if p % world:
            raise MixERValueError(
                f"p = {p} identities per batch cannot be shared evenly by world = {world} "
                "processes, each identity whole. Make p a multiple of the number of processes."
            )
        check_name("order", order, ("grouped", "blocks"))
        self.identities = np.unique(ids)
        if p > len(self.identities):
            raise MixERValueError(
                f"p = {p} identities per batch, but there are only {len(self.identities)}. Lower p."
            )
        self._rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for identity in self.identities:
            visible, infrared = (np.flatnonzero((ids == identity) & (kinds == m)) for m in (0, 1))
            for name, rows in (("visible", visible), ("infrared", infrared)):
                if not len(rows):
                    raise MixERValueError(
                        f"Identity {identity} has no {name} image; every batch needs both "
                        "modalities of its identities. Leave it out of the training list."
                    )
            self._rows.append((visible, infrared))
        self.p, self.k, self.order = p, k, order
        self.iterations, self.seed = iterations, seed
        self.rank, self.world = rank, world
        self._epoch = 0
        self._turns: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[list[int]]:
        first = self._epoch * self.iterations
        for step in range(first, first + self.iterations):
            yield self.batch(step).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass go on at batch ``epoch * iterations``; without it passes repeat.

        Args:
            epoch: Number of the pass, from 0.

        Raises:
            MixERValueError: ``epoch`` is negative.
        """
        if epoch < 0:
            raise MixERValueError(f"epoch must be at least 0, got {epoch}.")
        self._epoch = epoch

    def batch(self, step: int) -> Tensor:
        """This process's rows of one batch, a function of seed and step alone.

        Threads may call it at once.

        Args:
            step: Number of the batch, from 0; it may exceed ``iterations``.

        Returns:
            int64 [2 * p * k / world] of indices into ``labels``.

        Raises:
            MixERValueError: ``step`` is negative.
        """
        if step < 0:
            raise MixERValueError(f"step must be at least 0, got {step}.")
        block, place = divmod(step, len(self.identities))
        turns = self._turns  # read once: another thread may put another block there
        if turns is None or turns[0] != block:
            turns = self._turns = (block, self._block(block))
        rng = np.random.default_rng([self.seed, 1, step])
        # [p, k, (infrared, visible)]; every process draws for all, so that the draws agree.
        rows = np.stack(
            [
                np.stack([self._draw(infrared, rng), self._draw(visible, rng)], axis=1)
                for visible, infrared in (self._rows[i] for i in turns[1][place])
            ]
        )
        share = self.p // self.world
        rows = rows[self.rank * share : (self.rank + 1) * share]
        if self.order == "blocks":
            rows = rows[:, :, ::-1].transpose(2, 0, 1)
        return torch.from_numpy(rows.reshape(-1).copy())

    def _block(self, block: int) -> NDArray[np.int64]:
        """Identities of ``C`` successive batches, [C, p]: ``p`` permutations, one after the other.

        Where a batch ends one permutation and begins the next, the identities that it already has
        are put off to the following batch.
        """
        rng = np.random.default_rng([self.seed, 0, block])
        n_ids = len(self.identities)
        turns = np.empty(0, dtype=np.int64)
        for _ in range(self.p):
            order = rng.permutation(n_ids)
            begun = len(turns) % self.p
            if begun:
                fresh = ~np.isin(order, turns[-begun:])
                first = np.flatnonzero(fresh)[: self.p - begun]
                order = np.concatenate([order[first], np.delete(order, first)])
            turns = np.concatenate([turns, order])
        return turns.reshape(n_ids, self.p)

    def _draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        rounds = -(-self.k // len(rows))
        return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[: self.k]
