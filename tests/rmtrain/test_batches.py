"""Pairs are dealt out over steps, processes and forward passes: each once, none forgotten, the same for all who ask."""

import random

import pytest

from rmtrain.batches import Order, micro_batches, num_steps, padded_micro_batches


def draw_sizes(num: int, *, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randint(20, 700) for _ in range(num)]


def places_of(dealt: list[list[list[int]]]) -> list[int]:
    return sorted(place for process in dealt for micro in process for place in micro)


def test_the_number_of_steps_counts_the_last_short_batch_of_every_epoch() -> None:
    # 10 pairs in batches of 4: 4, 4 and 2.
    assert [num_steps(10, batch_size=4, epochs=epochs) for epochs in (1, 2, 3)] == [3, 6, 9]
    assert num_steps(8, batch_size=4, epochs=1) == 2
    assert num_steps(3, batch_size=128, epochs=2) == 2


def test_every_epoch_has_every_pair_once_in_an_order_of_its_own() -> None:
    order = Order(10, batch_size=4, seed=0)
    epochs = [[order.batch(step) for step in range(first, first + 3)] for first in (1, 4)]
    for batches in epochs:
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert sorted(i for batch in batches for i in batch) == list(range(10))
    assert epochs[0] != epochs[1]


def test_a_step_has_the_same_pairs_whatever_was_asked_before() -> None:
    order = Order(50, batch_size=8, seed=3)
    inorder = [order.batch(step) for step in range(1, 15)]
    assert [Order(50, batch_size=8, seed=3).batch(step) for step in range(1, 15)] == inorder
    assert Order(50, batch_size=8, seed=4).batch(1) != inorder[0]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("max_pairs", [None, 1, 5])
@pytest.mark.parametrize("budget", [500, 2000, 10**6])
def test_a_batch_is_dealt_out_whole_within_the_budget_and_as_often_to_every_process(
    budget: int, max_pairs: int | None, processes: int
) -> None:
    sizes = draw_sizes(37, seed=budget)
    dealt = micro_batches(sizes, budget=budget, max_pairs=max_pairs, processes=processes)
    assert places_of(dealt) == list(range(37))
    assert len(dealt) == processes
    assert len({len(process) for process in dealt}) == 1
    for micro in (micro for process in dealt for micro in process):
        assert sum(sizes[i] for i in micro) <= budget or len(micro) == 1
        assert len(micro) <= (max_pairs or 37)


def test_one_process_makes_no_more_passes_than_the_budget_asks_for() -> None:
    # 8 times 100 tokens in passes of 400 are two of four pairs.
    assert [len(micro) for micro in micro_batches([100] * 8, budget=400)[0]] == [4, 4]
    assert [len(micro) for micro in micro_batches([100] * 8, budget=10_000)[0]] == [8]


def test_pairs_above_the_budget_go_alone_and_no_pass_is_empty() -> None:
    # 8 times 700 tokens would fill 11 passes of 512.
    assert [len(micro) for micro in micro_batches([700] * 8, budget=512)[0]] == [1] * 8


def test_passes_that_run_at_the_same_time_are_of_about_one_size() -> None:
    sizes = draw_sizes(64, seed=1)
    first, second = micro_batches(sizes, budget=3000, processes=2)
    for a, b in zip(first, second, strict=True):
        totals = [sum(sizes[i] for i in micro) for micro in (a, b)]
        assert max(totals) <= 1.15 * min(totals)


def test_with_fewer_pairs_than_processes_some_passes_are_empty() -> None:
    dealt = micro_batches([10, 20], budget=100, processes=4)
    assert sorted(len(micro) for process in dealt for micro in process) == [0, 0, 1, 1]
    assert [len(process) for process in dealt] == [1, 1, 1, 1]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("max_pairs", [None, 3])
def test_padded_passes_stay_within_the_budget_with_their_padding(processes: int, max_pairs: int | None) -> None:
    lengths = draw_sizes(29, seed=5)
    dealt = padded_micro_batches(lengths, budget=4000, max_pairs=max_pairs, processes=processes)
    assert places_of(dealt) == list(range(29))
    assert len({len(process) for process in dealt}) == 1
    for micro in (micro for process in dealt for micro in process):
        assert len(micro) <= (max_pairs or 29)
        assert not micro or 2 * len(micro) * max(lengths[i] for i in micro) <= 4000 or len(micro) == 1


def test_padded_pairs_go_with_those_of_their_length() -> None:
    # Two sides each: 4 * 2 * 10 = 80 and 2 * 2 * 500 = 2000 tokens.
    assert padded_micro_batches([500, 10, 500, 10, 10, 10], budget=2000) == [[[0, 2], [1, 3, 4, 5]]]


def test_padded_with_fewer_pairs_than_processes_leaves_some_without() -> None:
    dealt = padded_micro_batches([10, 20], budget=100, processes=4)
    assert places_of(dealt) == [0, 1]
    assert [len(process) for process in dealt] == [1, 1, 1, 1]
