"""Which keys each tile of a stream's queries needs, for a kernel that goes through a few ranges of them instead of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.transfer import to_device

TILE = 128
"""Tokens of a tile. Tiles begin anew with every tree: its values do not depend on the trees before it."""
COLUMNS = 6
"""Numbers of a tile."""
_UNIT = 4
"""Numbers of which the ranges begin at a multiple, 16 bytes: for an address that is none Triton compiles the kernels again, in mid-run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """The tiles of a stream, those with most keys first.

    Of each tile, `tiles` has its first token and the one past its last; its first range, its first masked one and the one past its last;
    and the end of the queries that see any of it. `ranges` are first keys and those past the last.
    """

    tiles: Tensor
    ranges: Tensor

    @property
    def number(self) -> int:
        return len(self.tiles)


def lay_tiles(lengths: Sequence[int], ancestors: Sequence[tuple[int, ...]], trees: Sequence[int], device: torch.device) -> Tiles:
    """The tiles of a stream of segments; `trees` are the first segments of trees."""
    starts = [0, *accumulate(lengths)]
    ends = starts[1:]
    for own, above in enumerate(ancestors):
        for segment in above:
            ends[segment] = starts[own + 1]  # the last below it stays
    rows: list[tuple[int, ...]] = []
    ranges: list[tuple[int, int]] = []
    sizes: list[int] = []
    for first, last in zip(trees, [*trees[1:], len(lengths)], strict=True):
        segment = first
        for start in range(starts[first], starts[last], TILE):
            end = min(start + TILE, starts[last])
            while starts[segment + 1] <= start:
                segment += 1
            behind = segment
            while behind < last and starts[behind] < end:
                behind += 1
            inside = range(segment, behind)
            seen, hidden = _ranges_before(start, end, inside, starts, ends, ancestors)
            own = len(ranges)
            ranges += [*seen, *hidden, (start, end)]
            sizes.append(sum(high - low for low, high in ranges[own:]))
            rows.append((start, end, own, own + len(seen), len(ranges), max(ends[s] for s in inside)))
    numbers = np.array(rows, dtype=np.int32)[np.argsort(-np.array(sizes), kind="stable")]
    begin = -(-numbers.size // _UNIT) * _UNIT
    both = to_device(torch.from_numpy(_one_buffer(numbers, begin, np.array(ranges, dtype=np.int32))), device)
    return Tiles(tiles=both[: numbers.size].view(-1, COLUMNS), ranges=both[begin:].view(-1, 2))


def _one_buffer(first: NDArray[np.int32], begin: int, second: NDArray[np.int32]) -> NDArray[np.int32]:
    """Both one after another, the second from place `begin` on."""
    buffer = np.zeros(begin + second.size, dtype=np.int32)
    buffer[: first.size], buffer[begin:] = first.ravel(), second.ravel()
    return buffer


def _ranges_before(
    start: int, end: int, inside: range, starts: Sequence[int], ends: Sequence[int], ancestors: Sequence[tuple[int, ...]]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The ranges of keys before a tile that all of its queries see, and those that some do."""
    needed = {segment for own in inside for segment in (*ancestors[own], own) if starts[segment] < start}
    seen: list[tuple[int, int]] = []
    hidden: list[tuple[int, int]] = []
    for segment in sorted(needed):
        low, high = starts[segment], min(starts[segment + 1], start)
        kind = seen if ends[segment] >= end else hidden
        if kind and kind[-1][1] == low:
            low = kind.pop()[0]
        kind.append((low, high))
    return seen, hidden
