"""Which pairs each optimiser step trains on, and how they are distributed over processes and forward passes.

Everything is a function of the seed, the step and the sizes of the pairs: a run resumes from its step number alone, and every
process knows what the others do without communication.
"""

import math
import random
from array import array
from collections.abc import Sequence

from core.runs.checkpoints import checkpoint_steps
from rmtrain.config import RewardModelConfig


def num_steps(num_pairs: int, *, batch_size: int, epochs: int) -> int:
    """Optimiser steps of a run; the last batch of an epoch may be smaller than the others.

    >>> num_steps(10, batch_size=4, epochs=3)
    9
    """
    return epochs * math.ceil(num_pairs / batch_size)


def planned_steps(config: RewardModelConfig, num_steps: int) -> list[int]:
    """The steps whose checkpoints the hooks run on, by number, by steps or by share of an epoch; the last step is one of them."""
    every = config.checkpoint_every
    # Multiplied before divided: half an epoch must not round to slightly more than half.
    return checkpoint_steps(
        num_steps, num_checkpoints=config.num_checkpoints, every=every * num_steps / config.epochs if every < 1 else every
    )


class Order:
    """Which pairs each step trains on: every epoch is a shuffled pass over all of them, cut into batches."""

    def __init__(self, num_pairs: int, *, batch_size: int, seed: int) -> None:
        self.num_pairs, self.batch_size, self.seed = num_pairs, batch_size, seed
        self._epoch = -1
        self._shuffled = array("q")  # 8 bytes a pair, where a list takes 36

    def batch(self, step: int) -> list[int]:
        """Indices of the pairs of optimiser step `step`; steps are counted from 1."""
        epoch, place = divmod(step - 1, math.ceil(self.num_pairs / self.batch_size))
        if epoch != self._epoch:
            self._epoch = epoch
            self._shuffled = array("q", range(self.num_pairs))
            random.Random(f"order {self.seed} {epoch}").shuffle(self._shuffled)
        return self._shuffled[place * self.batch_size : (place + 1) * self.batch_size].tolist()


def micro_batches(sizes: Sequence[int], *, budget: int, max_pairs: int | None = None, processes: int = 1) -> list[list[list[int]]]:
    """The micro batches of a step by process, equally many for each; a micro batch is a list of indices into `sizes`.

    `sizes` are in tokens. A micro batch has at most `max_pairs` pairs and at most `budget` tokens, unless a single pair is
    larger. All are filled evenly, and those that run at the same time have about the same size. With fewer pairs than
    processes some micro batches are empty.
    """
    largest_first = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    # A pair above the budget has a micro batch of its own, so there are never more micro batches than pairs.
    num_bins = min(len(sizes), max(1, math.ceil(sum(sizes) / budget), math.ceil(len(sizes) / (max_pairs or len(sizes)))))
    num_bins = math.ceil(num_bins / processes) * processes
    while True:
        bins, filled = _fill(largest_first, sizes, num_bins, max_pairs or len(sizes))
        if all(total <= budget or len(members) <= 1 for members, total in zip(bins, filled, strict=True)):
            break
        num_bins += processes
    ordered = sorted(range(num_bins), key=lambda b: -filled[b])
    return [[bins[b] for b in ordered[process::processes]] for process in range(processes)]


def padded_micro_batches(lengths: Sequence[int], *, budget: int, max_pairs: int | None = None, processes: int = 1) -> list[list[list[int]]]:
    """Like `micro_batches`, for rows padded to the longest in their micro batch: pairs of similar length go together.

    `lengths` are those of each pair's longer side; a micro batch of k pairs takes 2 k times its longest.
    """
    largest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    runs: list[list[int]] = []
    for i in largest_first:
        if not runs or 2 * lengths[runs[-1][0]] * (len(runs[-1]) + 1) > budget or len(runs[-1]) == (max_pairs or len(lengths)):
            runs.append([])
        runs[-1].append(i)
    while len(runs) % processes:
        runs.sort(key=len)
        last = runs.pop()
        runs += [last[: len(last) // 2], last[len(last) // 2 :]]
    runs.sort(key=lambda members: -sum(lengths[i] for i in members))
    return [runs[process::processes] for process in range(processes)]


def _fill(largest_first: Sequence[int], sizes: Sequence[int], num_bins: int, max_pairs: int) -> tuple[list[list[int]], list[int]]:
    """Puts each pair, the largest first, into the emptiest bin that may take another."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    filled = [0] * num_bins
    for i in largest_first:
        emptiest = min((b for b in range(num_bins) if len(bins[b]) < max_pairs), key=lambda b: filled[b])
        bins[emptiest].append(i)
        filled[emptiest] += sizes[i]
    return bins, filled
