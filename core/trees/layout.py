"""Prompt trees: token rows laid out so that what they begin with in common is computed once.

The rows of one prompt (each of them prompt and completion) form a tree: the prompt, then where they part. Many trees lie
flat in one stream of tokens, parents before children and every subtree in one piece, without padding. Layers that work
token by token run on the stream as it is; attention obeys one rule, which needs a single number per token: query q sees
key k if and only if `k <= q < until[k]`, where `until[k]` is the end of the subtree of k's segment.

What a template puts before every prompt, the preamble, may stand above all trees of a stream. Else trees have nothing in
common: how a tree is laid out and attended to depends on its own rows alone, never on the batch that it is in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

MIN_SHARED = 8
"""Tokens in common below which rows part without a segment of their own: its attention call would cost more."""
MAX_BLOCK = 64
"""Tokens of a subtree up to which one masked attention call for all of it beats one call per segment."""
MAX_QUERIES = 128
"""Tokens of a segment with context beyond which it is parted: a masked call computes the future too, half of a long one."""

TokenIds = list[int]
"""Token ids of a prompt with its completion. Lists, not any sequences: they are compared and sorted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A run of the stream whose queries go through one attention call.

    Its keys are the segments `context` (by number; every query sees all of them) and then the run itself, which is made
    of `segments`. `mask_QK` says which of the keys each query sees; None for one segment without context: plainly causal.
    """

    start: int
    end: int
    context: tuple[int, ...]
    segments: tuple[int, ...]
    mask_QK: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """The trees of several groups of rows.

    `ids_N` and `positions_N` are the unique tokens and their positions within their rows; `subtree_end_N` as the module says.
    `lengths` are those of the segments, in order. `paths` holds for every row, group by group, its segments in order.
    """

    ids_N: Tensor
    positions_N: Tensor
    subtree_end_N: Tensor
    lengths: tuple[int, ...]
    blocks: tuple[Block, ...]
    paths: tuple[tuple[int, ...], ...]

    def last_token_indices(self) -> Tensor:
        """Place in the stream of the last token of every row; shape (R,)."""
        bounds = _bounds(self.lengths)
        return torch.tensor([bounds[path[-1] + 1] - 1 for path in self.paths], device=self.ids_N.device)

    def token_indices(self, row: int) -> Tensor:
        """Places in the stream of all tokens of a row, in its order; shape (L,)."""
        bounds = _bounds(self.lengths)
        return torch.cat([torch.arange(bounds[s], bounds[s + 1], device=self.ids_N.device) for s in self.paths[row]])

    def to(self, device: torch.device) -> "Stream":
        """The same stream with its tensors on `device`."""
        blocks = (b if b.mask_QK is None else replace(b, mask_QK=b.mask_QK.to(device)) for b in self.blocks)
        ids_N, positions_N, subtree_end_N = (tensor.to(device) for tensor in (self.ids_N, self.positions_N, self.subtree_end_N))
        return replace(self, ids_N=ids_N, positions_N=positions_N, subtree_end_N=subtree_end_N, blocks=tuple(blocks))


@dataclass(kw_only=True, slots=True)
class _Node:
    """A segment while its tree grows: the tokens `row[start:end]`, what continues them, and the rows that end with them."""

    row: TokenIds
    start: int
    end: int
    children: list["_Node"] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def pack_trees(groups: Sequence[Sequence[TokenIds]], preamble: Sequence[int] = ()) -> Stream:
    """One stream of the groups' trees, those of which all rows go on from `preamble` below one copy of it.

    Raises `ValueError` for a row without tokens.
    """
    layout = _Layout()
    beginning, depth = list(preamble), len(preamble)
    below = [bool(depth) and all(len(row) > depth and row[:depth] == beginning for row in rows) for rows in groups]
    if any(below):
        layout.lay([_Node(row=beginning, start=0, end=depth)], above=(), first_row=0)
    first_rows = _bounds([len(rows) for rows in groups])
    layout.paths = [()] * first_rows[-1]
    # Those below the preamble come first: its subtree must be in one piece.
    for index in sorted(range(len(groups)), key=lambda i: not below[i]):
        is_below = below[index]
        tree = _tree(groups[index], depth if is_below else 0)
        layout.lay(tree, above=(0,) if is_below else (), first_row=first_rows[index])
    return layout.stream()


def tree_batches(groups: Sequence[Sequence[TokenIds]], budget: int) -> list[list[int]]:
    """Numbers of the groups in batches of about `budget` unique tokens, the largest groups first.

    The largest come first so that a run which cannot fit fails at once. A group above the budget is a batch of its own.
    """
    sizes = [num_unique_tokens(rows) for rows in groups]
    found: list[list[int]] = []
    room = 0
    for index in sorted(range(len(groups)), key=lambda i: -sizes[i]):
        if not found or sizes[index] > room:
            found.append([])
            room = budget
        found[-1].append(index)
        room -= sizes[index]
    return found


def num_unique_tokens(rows: Sequence[TokenIds]) -> int:
    """Tokens of a group's tree, if it shared all that it could."""
    ordered = sorted(rows)
    return sum(map(len, ordered)) - sum(common_prefix_length(a, b) for a, b in pairwise(ordered))


def common_prefix_length(a: TokenIds, b: TokenIds) -> int:
    """How many tokens two rows begin with in common."""
    low, high = 0, min(len(a), len(b)) + 1  # the first `low` agree; the first `high` do not, or are more than there are
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low


def _tree(rows: Sequence[TokenIds], depth: int) -> list[_Node]:
    """The segments behind the first `depth` tokens, which the rows have in common, as nodes."""
    roots: list[_Node] = []
    path: list[_Node] = []  # the segments of the row before
    before: TokenIds = []
    for index in sorted(range(len(rows)), key=lambda i: rows[i]):
        row = rows[index]
        if not row:
            raise ValueError(f"Row {index} has no tokens.")
        shared = common_prefix_length(before, row)
        while path and path[-1].start >= shared:
            path.pop()
        # Now the last segment of the path holds the last shared token, and may go on behind it.
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
    """Parts a segment in two, the second of which takes over its children and rows."""
    rest = _Node(row=node.row, start=at, end=node.end, children=node.children, rows=node.rows)
    node.end, node.children, node.rows = at, [rest], []


class _Layout:
    """A stream while trees are laid into it. Lists by segment: its end, the end of its subtree, its ancestors."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.lengths: list[int] = []
        self.ends: list[int] = []
        self.ancestors: list[tuple[int, ...]] = []
        self.runs: list[tuple[int, int]] = []  # the segments of every block, first and behind the last
        self.paths: list[tuple[int, ...]] = []

    def lay(self, roots: Sequence[_Node], *, above: tuple[int, ...], first_row: int) -> None:
        """Appends a tree, depth first, and says which of its segments share an attention call."""
        first_segment, start = len(self.lengths), len(self.ids)
        waiting = [(root, above) for root in reversed(roots)]
        while waiting:
            node, own = waiting.pop()
            # Without context the kernel's own causal mask does it, whatever the length.
            size = MAX_QUERIES if own else len(node.row)
            for part in range(node.start, node.end, size):
                own = self._append(node.row, part, min(part + size, node.end), own)
            for index in node.rows:
                self.paths[first_row + index] = own
            waiting.extend((child, own) for child in reversed(node.children))
        self._join(first_segment, start)

    def _append(self, row: TokenIds, start: int, end: int, context: tuple[int, ...]) -> tuple[int, ...]:
        """Lays the segment `row[start:end]` below `context`; returns the path down to it."""
        own = (*context, len(self.lengths))
        self.ids.extend(row[start:end])
        self.positions.extend(range(start, end))
        self.lengths.append(end - start)
        self.ancestors.append(context)
        self.ends.append(0)
        for segment in own:
            self.ends[segment] = len(self.ids)
        return own

    def _join(self, first: int, start: int) -> None:
        """A large segment is a block; a small subtree is one, together with the siblings that follow it while they fit."""
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
    """Where consecutive pieces of these lengths begin, and where the last one ends."""
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    return bounds
