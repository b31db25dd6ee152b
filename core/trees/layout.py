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
from itertools import pairwise

import torch
from torch import Tensor

MIN_SHARED = 8
"""Shared prefixes shorter than this get no segment of their own: the extra attention call would cost more than it saves."""
MAX_BLOCK = 64
"""Subtrees of up to this many tokens take one masked attention call, which is then faster than one call per segment."""
MAX_QUERIES = 128
"""Longer segments with context are split: a masked call also computes the future, which is half the work of a long one."""

TokenIds = list[int]
"""Token ids of a prompt with its completion. A list, not any sequence, because ids are compared and sorted."""


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
class Stream:
    """The packed trees of several groups of sequences.

    `ids_N` and `positions_N` are the unique tokens and their positions within their sequences; for `subtree_end_N` see the
    module. `lengths` are the lengths of the segments, in order; `paths` lists the segments of each sequence, group by group.
    """

    ids_N: Tensor
    positions_N: Tensor
    subtree_end_N: Tensor
    lengths: tuple[int, ...]
    blocks: tuple[Block, ...]
    paths: tuple[tuple[int, ...], ...]

    def last_token_indices(self) -> Tensor:
        """Index in the stream of the last token of each sequence; shape (R,)."""
        bounds = _bounds(self.lengths)
        return torch.tensor([bounds[path[-1] + 1] - 1 for path in self.paths], device=self.ids_N.device)

    def token_indices(self, row: int) -> Tensor:
        """Indices in the stream of all tokens of one sequence, in order; shape (L,)."""
        bounds = _bounds(self.lengths)
        return torch.cat([torch.arange(bounds[s], bounds[s + 1], device=self.ids_N.device) for s in self.paths[row]])

    def to(self, device: torch.device) -> "Stream":
        """The same stream with its tensors on `device`."""
        blocks = (b if b.mask_QK is None else replace(b, mask_QK=b.mask_QK.to(device)) for b in self.blocks)
        ids_N, positions_N, subtree_end_N = (tensor.to(device) for tensor in (self.ids_N, self.positions_N, self.subtree_end_N))
        return replace(self, ids_N=ids_N, positions_N=positions_N, subtree_end_N=subtree_end_N, blocks=tuple(blocks))


@dataclass(kw_only=True, slots=True)
class _Node:
    """A segment of a tree under construction: the tokens `row[start:end]`, its children, and the sequences that end with it."""

    row: TokenIds
    start: int
    end: int
    children: list["_Node"] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def pack_trees(groups: Sequence[Sequence[TokenIds]], preamble: Sequence[int] = ()) -> Stream:
    """Packs one tree per group into a stream; groups whose sequences all begin with `preamble` share one copy of it.

    Raises `ValueError` for a sequence without tokens.
    """
    builder = _StreamBuilder()
    beginning, depth = list(preamble), len(preamble)
    below = [bool(depth) and all(len(row) > depth and row[:depth] == beginning for row in rows) for rows in groups]
    if any(below):
        builder.add_tree([_Node(row=beginning, start=0, end=depth)], above=(), first_row=0)
    first_rows = _bounds([len(rows) for rows in groups])
    builder.paths = [()] * first_rows[-1]
    # Trees under the preamble come first: its subtree must be contiguous.
    for index in sorted(range(len(groups)), key=lambda i: not below[i]):
        is_below = below[index]
        tree = _build_tree(groups[index], depth if is_below else 0)
        builder.add_tree(tree, above=(0,) if is_below else (), first_row=first_rows[index])
    return builder.stream()


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
    ordered = sorted(rows)
    return sum(map(len, ordered)) - sum(common_prefix_length(a, b) for a, b in pairwise(ordered))


def common_prefix_length(a: TokenIds, b: TokenIds) -> int:
    """Length of the common prefix of two sequences."""
    low, high = 0, min(len(a), len(b)) + 1  # the first `low` agree; the first `high` do not, or are more than there are
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low


def _build_tree(rows: Sequence[TokenIds], depth: int) -> list[_Node]:
    """The segments after the first `depth` tokens, which all sequences share, as nodes."""
    roots: list[_Node] = []
    path: list[_Node] = []  # the segments of the previous sequence
    before: TokenIds = []
    for index in sorted(range(len(rows)), key=lambda i: rows[i]):
        row = rows[index]
        if not row:
            raise ValueError(f"Row {index} has no tokens.")
        shared = common_prefix_length(before, row)
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
        before = row
    return roots


def _split(node: _Node, at: int) -> None:
    """Splits a segment in two; the second takes over its children and sequences."""
    rest = _Node(row=node.row, start=at, end=node.end, children=node.children, rows=node.rows)
    node.end, node.children, node.rows = at, [rest], []


class _StreamBuilder:
    """A stream under construction. By segment: its length, the end of its subtree, its ancestors."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.lengths: list[int] = []
        self.ends: list[int] = []
        self.ancestors: list[tuple[int, ...]] = []
        self.runs: list[tuple[int, int]] = []  # the segments of each block: the first, and one past the last
        self.paths: list[tuple[int, ...]] = []

    def add_tree(self, roots: Sequence[_Node], *, above: tuple[int, ...], first_row: int) -> None:
        """Appends a tree, depth first, and decides which of its segments share an attention call."""
        first_segment, start = len(self.lengths), len(self.ids)
        waiting = [(root, above) for root in reversed(roots)]
        while waiting:
            node, own = waiting.pop()
            # Without context the kernel's own causal mask is enough, whatever the length.
            size = MAX_QUERIES if own else len(node.row)
            for part in range(node.start, node.end, size):
                own = self._append(node.row, part, min(part + size, node.end), own)
            for index in node.rows:
                self.paths[first_row + index] = own
            waiting.extend((child, own) for child in reversed(node.children))
        self._add_blocks(first_segment, start)

    def _append(self, row: TokenIds, start: int, end: int, context: tuple[int, ...]) -> tuple[int, ...]:
        """Appends the segment `row[start:end]` under `context`; returns the path down to it."""
        own = (*context, len(self.lengths))
        self.ids.extend(row[start:end])
        self.positions.extend(range(start, end))
        self.lengths.append(end - start)
        self.ancestors.append(context)
        self.ends.append(0)
        for segment in own:
            self.ends[segment] = len(self.ids)
        return own

    def _add_blocks(self, first: int, start: int) -> None:
        """Makes a block of each large segment, and of each small subtree together with the siblings after it that fit."""
        while first < len(self.lengths):
            context, last, end = self.ancestors[first], first + 1, start + self.lengths[first]
            small = self.ends[first] - start <= MAX_BLOCK
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
        bounds = _bounds(self.lengths)
        subtree_end_N = torch.repeat_interleave(torch.tensor(self.ends, dtype=torch.long), torch.tensor(self.lengths, dtype=torch.long))
        return Stream(
            ids_N=torch.tensor(self.ids),
            positions_N=torch.tensor(self.positions),
            subtree_end_N=subtree_end_N,
            lengths=tuple(self.lengths),
            blocks=tuple(self._block(first, last, bounds, subtree_end_N) for first, last in self.runs),
            paths=tuple(self.paths),
        )

    def _block(self, first: int, last: int, bounds: Sequence[int], subtree_end_N: Tensor) -> Block:
        context, start, end = self.ancestors[first], bounds[first], bounds[last]
        mask_QK = None
        if context or last - first > 1:
            seen = [torch.arange(bounds[s], bounds[s + 1]) for s in context]
            keys_K = torch.cat([*seen, torch.arange(start, end)])
            queries_Q1 = torch.arange(start, end)[:, None]
            mask_QK = (keys_K <= queries_Q1) & (queries_Q1 < subtree_end_N[keys_K])
        return Block(start=start, end=end, context=context, segments=tuple(range(first, last)), mask_QK=mask_QK)


def _bounds(lengths: Sequence[int]) -> list[int]:
    """Start of each of consecutive pieces of these lengths, and the end of the last one."""
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    return bounds
