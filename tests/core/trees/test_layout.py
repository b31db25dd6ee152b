"""Rows laid out as trees: each can be read back, sees itself alone, and is laid out as if it were alone in the stream."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from core.trees import layout as trees
from core.trees.layout import Block, Stream, common_prefix_length, num_unique_tokens, pack_trees, tree_batches

PROMPT = list(range(10, 20))  # more than MIN_SHARED tokens


def with_limits(monkeypatch: pytest.MonkeyPatch, *, min_shared: int, max_block: int, max_queries: int = 1000) -> None:
    """Small limits, so that a tree of a few tokens, whose masks can be written down, has all that a large one has."""
    monkeypatch.setattr(trees, "MIN_SHARED", min_shared)
    monkeypatch.setattr(trees, "MAX_BLOCK", max_block)
    monkeypatch.setattr(trees, "MAX_QUERIES", max_queries)


def drawn(mask_QK: torch.Tensor | None) -> list[str] | None:
    """A mask as a picture: a line for each query, with a 1 for every key it sees."""
    return None if mask_QK is None else ["".join("01"[int(seen)] for seen in row) for row in mask_QK]


def outline(block: Block) -> tuple[int, int, tuple[int, ...], tuple[int, ...], list[str] | None]:
    return block.start, block.end, block.context, block.segments, drawn(block.mask_QK)


def test_two_completions_of_a_prompt_share_its_tokens_and_begin_at_the_same_position() -> None:
    stream = pack_trees([[[*PROMPT, 1, 2], [*PROMPT, 3]]])
    assert stream.ids_N.tolist() == [*PROMPT, 1, 2, 3]
    assert stream.positions_N.tolist() == [*range(10), 10, 11, 10]
    assert stream.subtree_end_N.tolist() == [13] * 10 + [12, 12, 13]
    assert stream.lengths == (10, 2, 1)
    assert stream.paths == ((0, 1), (0, 2))
    assert stream.token_indices(0).tolist() == list(range(12))
    assert stream.token_indices(1).tolist() == [*range(10), 12]
    assert stream.last_token_indices().tolist() == [11, 12]
    # 13 tokens fit into one block. The prompt is causal, and the last token does not see 1 and 2.
    prompt = ["1" * (i + 1) + "0" * (12 - i) for i in range(10)]
    assert [outline(block) for block in stream.blocks()] == [
        (0, 13, (), (0, 1, 2), [*prompt, "1111111111100", "1111111111110", "1111111111001"])
    ]


def test_a_large_segment_is_plainly_causal_and_its_small_branches_are_one_block_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with_limits(monkeypatch, min_shared=2, max_block=4)
    stream = pack_trees([[[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 8]]])
    assert stream.lengths == (5, 2, 1)
    # All 8 tokens are too many for one block, the 3 of the branches are not.
    assert [outline(block) for block in stream.blocks()] == [
        (0, 5, (), (0,), None),
        (5, 8, (0,), (1, 2), ["11111100", "11111110", "11111001"]),
    ]


NESTED = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 7], [1, 2, 3, 4]]


def test_three_levels_of_sharing_and_a_row_that_another_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    with_limits(monkeypatch, min_shared=2, max_block=3)
    stream = pack_trees([NESTED])
    assert stream.ids_N.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert stream.positions_N.tolist() == [0, 1, 2, 3, 4, 4, 2]
    assert stream.lengths == (2, 2, 1, 1, 1)
    # Below 1 2 is everything, below 3 4 all but the 7.
    assert stream.subtree_end_N.tolist() == [7, 7, 6, 6, 5, 6, 7]
    assert stream.paths == ((0, 1, 2), (0, 1, 3), (0, 4), (0, 1))
    assert [outline(block) for block in stream.blocks()] == [
        (0, 2, (), (0,), None),
        (2, 4, (0,), (1,), ["1110", "1111"]),  # with what is below it, it has 4 tokens
        (4, 6, (0, 1), (2, 3), ["111110", "111101"]),
        (6, 7, (0,), (4,), ["111"]),  # 5 and 6 have another context
    ]


@pytest.mark.parametrize(
    ("max_block", "segments"),
    [
        (2, [(0,), (1,), (2, 3), (4,)]),
        (4, [(0,), (1, 2, 3), (4,)]),  # 3 4 with what is below it, whose sibling would be the fifth token
        (5, [(0,), (1, 2, 3, 4)]),
        (6, [(0,), (1, 2, 3, 4)]),
        (7, [(0, 1, 2, 3, 4)]),
    ],
)
def test_a_block_takes_whole_subtrees_in_as_long_as_they_fit(
    monkeypatch: pytest.MonkeyPatch, max_block: int, segments: list[tuple[int, ...]]
) -> None:
    with_limits(monkeypatch, min_shared=2, max_block=max_block)
    assert [block.segments for block in pack_trees([NESTED]).blocks()] == segments


def test_a_long_segment_with_context_is_parted_and_one_without_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with_limits(monkeypatch, min_shared=2, max_block=1, max_queries=2)
    stream = pack_trees([[[9, 8, 7, 1, 2, 3, 4, 5, 6], [9, 8, 7, 1, 2, 3, 4]]], [9, 8, 7])
    # Below the preamble are 1 2 3 4, with which the second row ends, in two parts, and 5 6.
    assert stream.lengths == (3, 2, 2, 2)
    assert stream.paths == ((0, 1, 2, 3), (0, 1, 2))
    assert stream.positions_N.tolist() == list(range(9))
    assert stream.subtree_end_N.tolist() == [9] * 9
    assert [outline(block) for block in stream.blocks()] == [
        (0, 3, (), (0,), None),
        (3, 5, (0,), (1,), ["11110", "11111"]),
        (5, 7, (0, 1), (2,), ["1111110", "1111111"]),
        (7, 9, (0, 1, 2), (3,), ["111111110", "111111111"]),
    ]
    assert pack_trees([[[1] * 9]]).lengths == (9,)


def test_one_row_is_one_causal_segment() -> None:
    stream = pack_trees([[[5, 6, 7]]])
    assert (stream.ids_N.tolist(), stream.positions_N.tolist(), stream.subtree_end_N.tolist()) == ([5, 6, 7], [0, 1, 2], [3, 3, 3])
    assert stream.paths == ((0,),)
    assert [outline(block) for block in stream.blocks()] == [(0, 3, (), (0,), None)]


def test_equal_rows_are_one() -> None:
    stream = pack_trees([[[*PROMPT, 1], [*PROMPT, 2], [*PROMPT, 1]]])
    assert stream.ids_N.tolist() == [*PROMPT, 1, 2]
    assert stream.paths == ((0, 1), (0, 2), (0, 1))
    assert stream.last_token_indices().tolist() == [10, 11, 10]


def test_a_row_that_another_begins_with_ends_within_it() -> None:
    stream = pack_trees([[[*PROMPT, 1], PROMPT]])
    assert stream.ids_N.tolist() == [*PROMPT, 1]
    assert stream.paths == ((0, 1), (0,))
    assert stream.last_token_indices().tolist() == [10, 9]


def test_rows_with_nothing_in_common_stand_side_by_side() -> None:
    stream = pack_trees([[[5, 6], [7]]])
    assert stream.ids_N.tolist() == [5, 6, 7]
    assert stream.positions_N.tolist() == [0, 1, 0]
    assert stream.subtree_end_N.tolist() == [2, 2, 3]
    assert stream.paths == ((0,), (1,))
    assert [outline(block) for block in stream.blocks()] == [(0, 3, (), (0, 1), ["100", "110", "001"])]


def test_seven_common_tokens_stay_double_and_eight_are_shared() -> None:
    seven, eight = PROMPT[:7], PROMPT[:8]
    assert pack_trees([[[*seven, 1], [*seven, 2]]]).ids_N.tolist() == [*seven, 1, *seven, 2]
    assert pack_trees([[[*eight, 1], [*eight, 2]]]).ids_N.tolist() == [*eight, 1, 2]
    # 10 tokens are common to all; the 7 behind them, common to two rows, stay double.
    stream = pack_trees([[[*PROMPT, 1], [*PROMPT, *seven, 1], [*PROMPT, *seven, 2]]])
    assert stream.lengths == (10, 1, 8, 8)
    assert stream.paths == ((0, 1), (0, 2), (0, 3))


def test_groups_have_nothing_in_common_without_a_preamble() -> None:
    stream = pack_trees([[[*PROMPT, 1]], [[*PROMPT, 2]]])
    assert stream.ids_N.tolist() == [*PROMPT, 1, *PROMPT, 2]
    assert stream.subtree_end_N.tolist() == [11] * 11 + [22] * 11
    assert stream.paths == ((0,), (1,))
    assert [outline(block) for block in stream.blocks()] == [(0, 11, (), (0,), None), (11, 22, (), (1,), None)]


def test_a_preamble_stands_once_above_the_groups_that_begin_with_it() -> None:
    stream = pack_trees([[[9, 8, 1, 2], [9, 8, 3]], [[9, 8, 1, 2, 4]]], [9, 8])
    assert stream.ids_N.tolist() == [9, 8, 1, 2, 3, 1, 2, 4]
    assert stream.positions_N.tolist() == [0, 1, 2, 3, 2, 2, 3, 4]
    assert stream.subtree_end_N.tolist() == [8, 8, 4, 4, 5, 8, 8, 8]
    assert stream.paths == ((0, 1), (0, 2), (0, 3))
    assert [outline(block) for block in stream.blocks()] == [
        (0, 2, (), (0,), None),
        (2, 5, (0,), (1, 2), ["11100", "11110", "11001"]),
        (5, 8, (0,), (3,), ["11100", "11110", "11111"]),
    ]


def test_a_group_that_begins_otherwise_does_not_come_to_stand_below_the_preamble() -> None:
    stream = pack_trees([[[9, 8, 1]], [[7, 6]], [[9, 8, 2]]], [9, 8])
    assert stream.ids_N.tolist() == [9, 8, 1, 2, 7, 6]  # the rows keep their numbers, the subtree is in one piece
    assert stream.subtree_end_N.tolist() == [4, 4, 3, 4, 6, 6]
    assert stream.paths == ((0, 1), (3,), (0, 2))
    assert [block.context for block in stream.blocks()] == [(), (0,), (0,), ()]


@pytest.mark.parametrize("other", [[9, 8], [9], [9, 7, 1]])
def test_a_group_goes_below_the_preamble_only_if_all_of_its_rows_go_on_from_it(other: list[int]) -> None:
    rows = [[9, 8, 1], other]
    stream, without = pack_trees([rows], [9, 8]), pack_trees([rows])
    assert (stream.ids_N.tolist(), stream.paths) == (without.ids_N.tolist(), without.paths)
    assert [stream.ids_N[stream.token_indices(row)].tolist() for row in range(2)] == rows


def test_a_row_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="Row 1 has no tokens"):
        pack_trees([[[1, 2], []]])
    with pytest.raises(ValueError, match="Row 0 has no tokens"):
        pack_trees([[[9, 1]], [[]]], [9])


def test_a_stream_moves_to_a_device_with_all_its_tensors() -> None:
    stream = pack_trees([[[5, 6], [7]], [[4]]])
    moved = stream.to(torch.device("meta"))
    tensors = [
        moved.ids_N,
        moved.positions_N,
        moved.subtree_end_N,
        moved.blocks()[0].mask_QK,
        moved.last_token_indices(),
        moved.sequences().query_bounds,
    ]
    assert all(tensor is not None and tensor.is_meta for tensor in tensors)
    assert moved.blocks()[1].mask_QK is None
    assert (moved.paths, moved.lengths) == (stream.paths, stream.lengths)


def test_batches_hold_about_their_budget_and_the_largest_groups_come_first() -> None:
    # 4, 10, 5 and 6 unique tokens. 10 fill a batch; 6 and 5 do not fit together; 5 and 4 do.
    groups = [[[1, 2, 3], [1, 2, 4]], [list(range(10))], [[1] * 5], [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]]]
    assert tree_batches(groups, 10) == [[1], [3], [2, 0]]
    assert tree_batches(groups, 1) == [[1], [3], [2], [0]]
    assert tree_batches(groups, 25) == [[1, 3, 2, 0]]
    assert tree_batches(groups, 24) == [[1, 3, 2], [0]]
    assert tree_batches([], 10) == []


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """`common_prefix_length`, naively."""
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


def random_groups(draw: random.Random) -> tuple[list[list[list[int]]], list[int]]:
    """Groups of rows that branch off each other over an alphabet of two or three tokens, some below the preamble."""
    letters = draw.choice(["ab", "abc"])
    letter = {"a": 1, "b": 2, "c": 3}

    def tokens(most: int) -> list[int]:
        return [letter[draw.choice(letters)] for _ in range(draw.randint(0, most))]

    preamble = tokens(4)
    groups: list[list[list[int]]] = []
    for _ in range(draw.randint(1, 4)):
        rows = [[*(preamble if draw.random() < 0.8 else []), *tokens(25), 1]]
        for _ in range(draw.randint(0, 6)):
            other = draw.choice(rows)
            rows.append([*other[: draw.randint(1, len(other))], *tokens(draw.choice([0, 3, 12]))])
        draw.shuffle(rows)
        groups.append(rows)
    return groups, preamble


def seen_by(stream: Stream, query: int) -> list[int]:
    """The keys that a query sees by the rule."""
    return [key for key, until in enumerate(stream.subtree_end_N.tolist()) if key <= query < until]


LIMITS = pytest.mark.parametrize("limits", [(1, 1, 1), (1, 6, 1000), (2, 10, 4), (3, 1000, 5), (8, 64, 128)], ids=str)


@LIMITS
def test_every_row_can_be_read_back_and_sees_itself_alone(monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int, int]) -> None:
    min_shared, max_block, max_queries = limits
    with_limits(monkeypatch, min_shared=min_shared, max_block=max_block, max_queries=max_queries)
    for seed in range(60):
        groups, preamble = random_groups(random.Random(seed))
        rows = [row for group in groups for row in group]
        stream = pack_trees(groups, preamble)
        assert len(stream.paths) == len(rows)
        held: set[int] = set()
        for number, row in enumerate(rows):
            places = stream.token_indices(number).tolist()
            assert stream.ids_N[places].tolist() == row
            assert stream.positions_N[places].tolist() == list(range(len(row)))
            assert stream.last_token_indices()[number] == places[-1]
            for count, place in enumerate(places, start=1):
                if place not in held:
                    assert seen_by(stream, place) == places[:count]
            held.update(places)
        assert held == set(range(len(stream.ids_N)))  # nothing that belongs to no row


@LIMITS
def test_the_blocks_part_the_stream_and_show_what_the_rule_says(monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int, int]) -> None:
    min_shared, max_block, max_queries = limits
    with_limits(monkeypatch, min_shared=min_shared, max_block=max_block, max_queries=max_queries)
    for seed in range(60):
        stream = pack_trees(*random_groups(random.Random(seed)))
        assert [segment for block in stream.blocks() for segment in block.segments] == list(range(len(stream.lengths)))
        starts = [sum(stream.lengths[:segment]) for segment in range(len(stream.lengths))]
        end = 0
        for block in stream.blocks():
            assert block.start == end
            end = block.end
            assert end - block.start == sum(stream.lengths[segment] for segment in block.segments)
            assert end - block.start <= max_block or len(block.segments) == 1
            assert end - block.start <= max(max_queries, max_block) or not block.context
            keys = [starts[s] + i for s in (*block.context, *block.segments) for i in range(stream.lengths[s])]
            for query in range(block.start, block.end):
                shown = keys[: query + 1 - block.start]  # causal
                if block.mask_QK is not None:
                    shown = [key for key, seen in zip(keys, block.mask_QK[query - block.start].tolist(), strict=True) if seen]
                assert shown == seen_by(stream, query)
        assert end == len(stream.ids_N)


def own_blocks(stream: Stream, rows: Sequence[int]) -> list[Any]:
    """The blocks of a group by what they hold: the tokens of their context, those of their segments, and their masks."""
    pieces = [piece.tolist() for piece in stream.ids_N.split(stream.lengths)]
    own = {segment for row in rows for segment in stream.paths[row]}
    return [
        ([pieces[s] for s in block.context], [pieces[s] for s in block.segments], drawn(block.mask_QK))
        for block in stream.blocks()
        if set(block.segments) <= own
    ]


@LIMITS
def test_the_blocks_of_a_group_are_the_same_whatever_else_is_in_the_stream(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int, int]
) -> None:
    min_shared, max_block, max_queries = limits
    with_limits(monkeypatch, min_shared=min_shared, max_block=max_block, max_queries=max_queries)
    for seed in range(60):
        groups, preamble = random_groups(random.Random(seed))
        together, row = pack_trees(groups, preamble), 0
        for group in groups:
            alone = pack_trees([group], preamble)
            assert own_blocks(together, range(row, row + len(group))) == own_blocks(alone, range(len(group)))
            row += len(group)


def test_counts_of_tokens_equal_those_of_naive_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    with_limits(monkeypatch, min_shared=1, max_block=64)
    for seed in range(200):
        groups, _ = random_groups(random.Random(seed))
        for rows in groups:
            beginnings = {tuple(row[:length]) for row in rows for length in range(1, len(row) + 1)}
            assert num_unique_tokens(rows) == len(beginnings) == len(pack_trees([rows]).ids_N)
            assert [common_prefix_length(rows[0], row) for row in rows] == [common(rows[0], row) for row in rows]
