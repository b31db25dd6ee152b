"""Prompt trees: token sequences packed so that a prefix they share is computed once.

The sequences of one prompt (prompt plus completion each) form a tree that branches where they diverge. Many trees are packed
into one flat stream of tokens without padding, parents before children and every subtree contiguous. Token-wise layers run
on the stream as it is; attention follows one rule that needs a single number per token: query q sees key k if and only if
`k <= q < subtree_end[k]`, where `subtree_end[k]` is the end of the subtree under k's segment.

The preamble, the tokens that a chat template puts before every prompt, can be shared by all trees of a stream. Otherwise
trees share nothing: the layout and attention of a tree depend on its own sequences, never on the rest of the batch.

Shapes: N tokens in a flat stream, R sequences, L tokens of one sequence, Q queries and K keys of one attention call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.transfer import to_device

MIN_SHARED = 8
"""Shared prefixes shorter than this get no segment of their own: the extra attention call would cost more than it saves."""
MAX_BLOCK = 64
"""Subtrees of up to this many tokens take one masked attention call, which is then faster than one call per segment."""
MAX_QUERIES = 128
"""Longer segments with context are split: a masked call also computes the future, which is half the work of a long one."""

TokenIds = Sequence[int] | NDArray[np.int32]
"""Token ids of a prompt with its completion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A contiguous part of the stream whose queries go through one attention call.

    Its keys are the segments in `context` (by index; every query sees all of them), then the block itself, made up of
    `segments`. `mask_QK` says which keys each query sees; None for a single segment without context, which is plain causal.
    """

    start: int
    end: int
    context: tuple[int, ...]
    segments: tuple[int, ...]
    mask_QK: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """The stream as sequences for a kernel that takes one segment's queries with the keys of its ancestors and its own.

    `keys_K` are the places in the stream of all keys, sequence by sequence, None if they are the stream itself since no segment
    has ancestors. The bounds, of shape (segments + 1,) and int32, say where a sequence's queries and keys begin.
    """

    keys_K: Tensor | None
    query_bounds: Tensor
    key_bounds: Tensor
    most_queries: int
    most_keys: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """The packed trees of several groups of sequences.

    `lengths` are the lengths of the segments, in order, and `ancestors` the segments above each; `runs` are the first segment of
    each block and the one past its last; `trees` are the first segments of trees; `paths` lists the segments of each sequence, group by
    group; `longest` is the length of the longest sequence. `numbers` holds everything that a device needs in one tensor, so that it
    takes one copy.
    """

    numbers: Tensor
    lengths: tuple[int, ...]
    ancestors: tuple[tuple[int, ...], ...]
    runs: tuple[tuple[int, int], ...]
    trees: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    longest: int

    @property
    def num_tokens(self) -> int:
        """N, the number of unique tokens."""
        return sum(self.lengths)

    @property
    def ids_N(self) -> Tensor:
        """The unique tokens."""
        return self.numbers[: self.num_tokens]

    @property
    def positions_N(self) -> Tensor:
        """Their positions within their sequences."""
        return self.numbers[self.num_tokens : 2 * self.num_tokens]

    @property
    def subtree_end_N(self) -> Tensor:
        """The end of the subtree under each token's segment; see the module."""
        return self.numbers[2 * self.num_tokens : 3 * self.num_tokens]

    def last_token_indices(self) -> Tensor:
        """Index in the stream of the last token of each sequence; shape (R,)."""
        return self.numbers[3 * self.num_tokens : 3 * self.num_tokens + len(self.paths)]

    def token_indices(self, row: int) -> Tensor:
        """Indices in the stream of all tokens of one sequence, in order; shape (L,), on the CPU."""
        bounds = _bounds(self.lengths)
        return torch.cat([torch.arange(bounds[s], bounds[s + 1]) for s in self.paths[row]])

    def to(self, device: torch.device) -> "Stream":
        """The same stream on `device`, by one copy that the host does not wait for."""
        return replace(self, numbers=to_device(self.numbers, device))

    def blocks(self) -> list[Block]:
        """The parts of the stream that take one attention call each, with their masks on the stream's device."""
        bounds = _bounds(self.lengths)
        return [self._block(first, last, bounds) for first, last in self.runs]

    def sequences(self) -> Sequences:
        """The segments as sequences of queries and keys, on the stream's device."""
        num_queries = [*self.lengths]
        num_keys = [length + sum(self.lengths[s] for s in above) for length, above in zip(self.lengths, self.ancestors, strict=True)]
        bounds = torch.from_numpy(np.array([_bounds(num_queries), _bounds(num_keys)], dtype=np.int32))
        query_bounds, key_bounds = to_device(bounds, self.numbers.device)
        return Sequences(
            keys_K=to_device(torch.from_numpy(self._keys()), self.numbers.device) if any(self.ancestors) else None,
            query_bounds=query_bounds,
            key_bounds=key_bounds,
            most_queries=max(num_queries),
            most_keys=max(num_keys),
        )

    def _keys(self) -> NDArray[np.int64]:
        """The places of the keys of all segments: those of their ancestors, from the root down, and their own."""
        starts, lengths = np.array(_bounds(self.lengths)), np.array(self.lengths)
        pieces = np.fromiter(chain.from_iterable((*above, own) for own, above in enumerate(self.ancestors)), dtype=np.int64)
        return _ranges(starts[pieces], lengths[pieces])

    def _block(self, first: int, last: int, bounds: Sequence[int]) -> Block:
        context, start, end = self.ancestors[first], bounds[first], bounds[last]
        mask_QK = None
        if context or last - first > 1:
            device = self.numbers.device
            seen = [torch.arange(bounds[s], bounds[s + 1], device=device) for s in context]
            keys_K = torch.cat([*seen, torch.arange(start, end, device=device)])
            queries_Q1 = torch.arange(start, end, device=device)[:, None]
            mask_QK = (keys_K <= queries_Q1) & (queries_Q1 < self.subtree_end_N[keys_K])
        return Block(start=start, end=end, context=context, segments=tuple(range(first, last)), mask_QK=mask_QK)


@dataclass(frozen=True, slots=True)
class _Row:
    """A sequence under construction: its ids, and the same as bytes, which are ordered as the ids are and compared much faster."""

    ids: NDArray[np.int32]
    key: bytes

    @classmethod
    def of(cls, ids: TokenIds) -> "_Row":
        array = np.asarray(ids, dtype=np.int32)
        return cls(array, array.astype(">i4").tobytes())

    def __len__(self) -> int:
        return len(self.ids)


_BYTES = 4
"""Of a token in `_Row.key`."""


@dataclass(kw_only=True, slots=True)
class _Node:
    """A segment of a tree under construction: the tokens `row[start:end]`, its children, and the sequences that end with it."""

    row: _Row
    start: int
    end: int
    children: list["_Node"] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def pack_trees(groups: Sequence[Sequence[TokenIds]], preamble: Sequence[int] = (), *, whole: bool = False) -> Stream:
    """Packs one tree per group into a stream; groups whose sequences all begin with `preamble` share one copy of it.

    A `whole` stream neither splits long segments nor joins small ones to a block: that suits attention on CPUs only. Raises
    `ValueError` for a sequence without tokens.
    """
    builder = _StreamBuilder(whole=whole)
    beginning = _Row.of(preamble)
    depth = len(beginning)
    packed = [[_Row.of(row) for row in rows] for rows in groups]
    start = beginning.key
    below = [bool(depth) and all(len(row) > depth and row.key.startswith(start) for row in rows) for rows in packed]
    if any(below):
        builder.add_tree([_Node(row=beginning, start=0, end=depth)], above=(), first_row=0)
    first_rows = _bounds([len(rows) for rows in packed])
    builder.paths = [()] * first_rows[-1]
    # Trees under the preamble come first: its subtree must be contiguous.
    for index in sorted(range(len(packed)), key=lambda i: not below[i]):
        is_below = below[index]
        tree = _build_tree(packed[index], depth if is_below else 0)
        builder.add_tree(tree, above=(0,) if is_below else (), first_row=first_rows[index])
    return builder.stream()


def pack_rows(rows: Sequence[TokenIds]) -> Stream:
    """Packs sequences one after another that share nothing, each a tree of one segment; as `pack_trees` with a group for each."""
    ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    lengths = np.array([len(row) for row in rows])
    ends = lengths.cumsum()
    numbers = np.concatenate([ids, _ranges(np.zeros_like(lengths), lengths), ends.repeat(lengths), ends - 1])
    return Stream(
        numbers=torch.from_numpy(numbers),
        lengths=tuple(lengths.tolist()),
        ancestors=((),) * len(rows),
        runs=tuple((i, i + 1) for i in range(len(rows))),
        trees=tuple(range(len(rows))),
        paths=tuple((i,) for i in range(len(rows))),
        longest=int(lengths.max()),
    )


def tree_batches(groups: Sequence[Sequence[TokenIds]], budget: int) -> list[list[int]]:
    """Indices of the groups in batches of about `budget` unique tokens, largest groups first.

    Largest first, so that a run that does not fit in memory fails at once. A group above the budget is a batch of its own.
    """
    sizes = [num_unique_tokens(rows) for rows in groups]
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(groups)), key=lambda i: -sizes[i]):
        if not batches or sizes[index] > room:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= sizes[index]
    return batches


def num_unique_tokens(rows: Sequence[TokenIds]) -> int:
    """Number of tokens of a group's tree if every shared prefix were shared."""
    ordered = sorted(_Row.of(row).key for row in rows)
    return sum(len(key) // _BYTES for key in ordered) - sum(common_prefix_length(a, b) // _BYTES for a, b in pairwise(ordered))


def common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix of two sequences, whose slices must compare as a whole (a list's or bytes', not an array's)."""
    low, high = 0, min(len(a), len(b)) + 1  # the first `low` agree; the first `high` do not, or are more than there are
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low


def _build_tree(rows: Sequence[_Row], depth: int) -> list[_Node]:
    """The segments after the first `depth` tokens, which all sequences share, as nodes."""
    roots: list[_Node] = []
    path: list[_Node] = []  # the segments of the previous sequence
    before = b""
    for index in sorted(range(len(rows)), key=lambda i: rows[i].key):
        row = rows[index]
        if not len(row):
            raise ValueError(f"Row {index} has no tokens.")
        shared = common_prefix_length(before, row.key) // _BYTES
        while path and path[-1].start >= shared:
            path.pop()
        # Now the last segment of the path holds the last shared token, and may continue past it.
        if path and shared < path[-1].end:
            if shared - path[-1].start >= MIN_SHARED:
                _split(path[-1], shared)
            else:
                path.pop()
        start = path[-1].end if path else depth
        if start < len(row):
            node = _Node(row=row, start=start, end=len(row))
            (path[-1].children if path else roots).append(node)
            path.append(node)
        path[-1].rows.append(index)
        before = row.key
    return roots


def _split(node: _Node, at: int) -> None:
    """Splits a segment in two; the second takes over its children and sequences."""
    rest = _Node(row=node.row, start=at, end=node.end, children=node.children, rows=node.rows)
    node.end, node.children, node.rows = at, [rest], []


class _StreamBuilder:
    """A stream under construction. By segment: its tokens, its length, the end of its subtree, its ancestors."""

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self.num_tokens = 0
        self.parts: list[NDArray[np.int32]] = []
        self.starts: list[int] = []  # the positions of the segments' first tokens
        self.lengths: list[int] = []
        self.ends: list[int] = []
        self.ancestors: list[tuple[int, ...]] = []
        self.runs: list[tuple[int, int]] = []  # the segments of each block: the first, and one past the last
        self.trees: list[int] = []
        self.paths: list[tuple[int, ...]] = []

    def add_tree(self, roots: Sequence[_Node], *, above: tuple[int, ...], first_row: int) -> None:
        """Appends a tree, depth first, and decides which of its segments share an attention call."""
        first_segment, start = len(self.lengths), self.num_tokens
        self.trees.append(first_segment)
        waiting = [(root, above) for root in reversed(roots)]
        while waiting:
            node, own = waiting.pop()
            # Without context the kernel's own causal mask is enough, whatever the length.
            size = MAX_QUERIES if own and not self.whole else len(node.row)
            for part in range(node.start, node.end, size):
                own = self._append(node.row, part, min(part + size, node.end), own)
            for index in node.rows:
                self.paths[first_row + index] = own
            waiting.extend((child, own) for child in reversed(node.children))
        self._add_blocks(first_segment, start)

    def _append(self, row: _Row, start: int, end: int, context: tuple[int, ...]) -> tuple[int, ...]:
        """Appends the segment `row[start:end]` under `context`; returns the path down to it."""
        own = (*context, len(self.lengths))
        self.parts.append(row.ids[start:end])
        self.starts.append(start)
        self.lengths.append(end - start)
        self.ancestors.append(context)
        self.num_tokens += end - start
        self.ends.append(0)
        for segment in own:
            self.ends[segment] = self.num_tokens
        return own

    def _add_blocks(self, first: int, start: int) -> None:
        """Makes a block of each large segment, and of each small subtree together with the siblings after it that fit."""
        while first < len(self.lengths):
            context, last, end = self.ancestors[first], first + 1, start + self.lengths[first]
            small = self.ends[first] - start <= MAX_BLOCK and not self.whole
            while small and last < len(self.lengths):
                above = self.ancestors[last]
                is_below = len(above) > len(context) and above[len(context)] >= first
                if not is_below and (above != context or self.ends[last] - start > MAX_BLOCK):
                    break
                end += self.lengths[last]
                last += 1
            self.runs.append((first, last))
            first, start = last, end

    def stream(self) -> Stream:
        bounds, lengths, starts = _bounds(self.lengths), np.array(self.lengths), np.array(self.starts)
        last_tokens = np.array([bounds[path[-1] + 1] - 1 for path in self.paths], dtype=np.int64)
        positions_N, subtree_end_N = _ranges(starts, lengths), np.array(self.ends).repeat(lengths)
        return Stream(
            numbers=torch.from_numpy(np.concatenate([*self.parts, positions_N, subtree_end_N, last_tokens])),
            lengths=tuple(self.lengths),
            ancestors=tuple(self.ancestors),
            runs=tuple(self.runs),
            trees=tuple(self.trees),
            paths=tuple(self.paths),
            longest=int((starts + lengths).max()),
        )


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from each start on, as many as its length, one range after another."""
    ends = lengths.cumsum()
    return np.arange(ends[-1]) + (starts - ends + lengths).repeat(lengths)


def _bounds(lengths: Sequence[int]) -> list[int]:
    """Start of each of consecutive pieces of these lengths, and the end of the last one."""
    return [0, *accumulate(lengths)]
