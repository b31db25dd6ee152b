"""Batches hold every sequence once, stay within the budget, and mask what is padding."""

import random

from core.data.padding import pad_left, pad_right, token_budget_batches


def test_the_longest_come_first_and_fill_the_budget_of_padded_tokens() -> None:
    # Sorted: 7 (index 1), 4 (3), 3 (0), 3 (2), 1 (4). Budget 10: [7] since 2 x 7 > 10; [4, 3] since 2 x 4 <= 10 < 3 x 4;
    # [3, 1] since 2 x 3 <= 10.
    assert token_budget_batches([3, 7, 3, 4, 1], 10) == [[1], [3, 0], [2, 4]]


def test_a_batch_may_fill_its_budget_to_the_last_token() -> None:
    assert token_budget_batches([5, 5, 5], 10) == [[0, 1], [2]]


def test_a_sequence_above_the_budget_is_a_batch_of_its_own() -> None:
    assert token_budget_batches([2, 30, 2], 10) == [[1], [0, 2]]


def test_every_sequence_is_in_one_batch_and_no_batch_of_several_exceeds_the_budget() -> None:
    draw = random.Random(0)
    for _ in range(50):
        lengths = [draw.randint(1, 40) for _ in range(draw.randint(0, 30))]
        batches = token_budget_batches(lengths, 64)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        assert all(max(lengths[i] for i in batch) * len(batch) <= 64 for batch in batches)


def test_no_sequences_give_no_batches() -> None:
    assert token_budget_batches([], 10) == []


def test_padding_at_the_end_is_masked() -> None:
    ids, mask = pad_right([[5, 6, 7], [8]], pad_id=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_padding_at_the_start_is_masked() -> None:
    ids, mask = pad_left([[5, 6, 7], [8]], pad_id=9)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_token_of_the_text_that_equals_pad_stays_attended() -> None:
    _, mask = pad_right([[9, 6, 9], [8]], pad_id=9)
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
