"""Which pairs an optimiser step has, and how they are dealt out over processes and forward passes.

All of it is a function of the seed, the step and the sizes of the pairs: a resumed run needs to know its step alone, and
every process knows what the others do without asking.
"""

import math
import random
from collections.abc import Sequence


def num_steps(num_pairs: int, *, batch_size: int, epochs: int) -> int:
    """Optimiser steps of a run: the last batch of an epoch has what is left.

    >>> num_steps(10, batch_size=4, epochs=3)
    9
    """
    return epochs * math.ceil(num_pairs / batch_size)


class Order:
    """The pairs of every step: shuffled passes over all of them, cut into batches."""

    def __init__(self, num_pairs: int, *, batch_size: int, seed: int) -> None:
        self.num_pairs, self.batch_size, self.seed = num_pairs, batch_size, seed
        self._epoch = -1
        self._shuffled: list[int] = []

    def batch(self, step: int) -> list[int]:
        """Numbers of the pairs of optimiser step `step`, counted from 1."""
        epoch, place = divmod(step - 1, math.ceil(self.num_pairs / self.batch_size))
        if epoch != self._epoch:
            self._epoch = epoch
            self._shuffled = list(range(self.num_pairs))
            random.Random(f"order {self.seed} {epoch}").shuffle(self._shuffled)
        return self._shuffled[place * self.batch_size : (place + 1) * self.batch_size]


def micro_batches(sizes: Sequence[int], *, budget: int, max_pairs: int | None = None, processes: int = 1) -> list[list[list[int]]]:
    """Micro batches of a step: for every process as many as for the others, each a list of places in `sizes`.

    `sizes` are tokens. The sizes of a micro batch add up to at most `budget`, where no single one is above it, and there are
    at most `max_pairs` of them; all are filled evenly, and those that run at the same time are of about one size. With fewer
    pairs than processes some micro batches are empty.
    """
    largest_first = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    # Pairs above the budget go alone: never more micro batches than pairs.
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
    """As `micro_batches`, for rows that are padded to the longest of their micro batch: neighbours in length go together.

    `lengths` are those of each pair's longer side; a micro batch of k pairs takes 2 k times the longest.
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
    """Each pair, the largest first, into the emptiest of the bins that take another."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    filled = [0] * num_bins
    for i in largest_first:
        emptiest = min((b for b in range(num_bins) if len(bins[b]) < max_pairs), key=lambda b: filled[b])
        bins[emptiest].append(i)
        filled[emptiest] += sizes[i]
    return bins, filled
