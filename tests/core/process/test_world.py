"""What the processes of a group give each other: the same answer, or the same error, everywhere."""

from typing import Any

import pytest
import torch

from core.process import world
from core.process.world import World, join_world

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_each_process_knows_its_rank_and_only_the_first_is_main(two_ranks: Any) -> None:
    assert [found["rank"] for found in two_ranks[1]] == [[0, 2, True], [1, 2, False]]


def test_what_the_main_process_makes_is_on_all_of_them(two_ranks: Any) -> None:
    assert [found["from_main"] for found in two_ranks[1]] == ["made by 0"] * 2


def test_what_the_main_process_raises_is_raised_on_all_of_them(two_ranks: Any) -> None:
    assert [found["main_fails"] for found in two_ranks[1]] == ["ValueError: no such run, says 0"] * 2
    assert [found["main_is_preempted"] for found in two_ranks[1]] == ["Preempted: told to stop"] * 2


def test_what_each_makes_is_gathered_by_rank_and_the_error_of_one_is_raised_on_all(two_ranks: Any) -> None:
    assert [found["all_gather"] for found in two_ranks[1]] == [[0, 10]] * 2
    assert [found["second_fails"] for found in two_ranks[1]] == ["ValueError: out of memory"] * 2


def test_sums_over_processes_are_in_fp64(two_ranks: Any) -> None:
    # fp32 has neither 0.1 + 0.2 to more than eight digits nor whole numbers up to 2 to the 53rd.
    for found in two_ranks[1]:
        assert found["all_sum"] == [pytest.approx(0.3, abs=1e-15), 2.0**53]


def test_things_in_a_row_are_dealt_out_in_order_without_gap_or_overlap(two_ranks: Any) -> None:
    assert [found["shard"] for found in two_ranks[1]] == [[0, 1, 2], [3, 4, 5]]
    assert [found["uneven"] for found in two_ranks[1]] == [[0, 1], [2, 3, 4]]


def test_one_that_fails_between_two_exchanges_fails_all_and_none_is_left_waiting(two_ranks: Any) -> None:
    assert [found["fails_inside"] for found in two_ranks[1]] == ["ValueError: before"] * 2
    assert [found["fails_after"] for found in two_ranks[1]] == ["ValueError: after"] * 2
    assert [found["and_go_on"] for found in two_ranks[1]] == [[0, 1]] * 2


def test_an_error_that_the_others_cannot_import_keeps_its_message(two_ranks: Any) -> None:
    assert [found["not_portable"] for found in two_ranks[1]] == ["ValueError: of this process alone"] * 2


def test_each_draws_and_scores_its_share_or_the_one_that_can_draws_for_all(two_ranks: Any) -> None:
    assert [found["drawn"] for found in two_ranks[1]] == [[["10 one"]] * 2, [["11 two", "12 three"]] * 2]
    assert [found["scored"] for found in two_ranks[1]] == [[[1.0, 2.0], [3.0], []]] * 2
    for found in two_ranks[1]:
        assert found["unreadable"].startswith("UnreadableError: 1 of 3 dialogues cannot be written")
        assert "number 3: no such role" in found["unreadable"]


def test_no_process_passes_a_barrier_before_the_last_has_come(two_ranks: Any) -> None:
    assert [found["barrier"] for found in two_ranks[1]] == [True, True]


@pytest.mark.parametrize(("local_rank", "visible", "expected"), [(3, 8, 3), (0, 1, 0), (5, 1, 0)])
def test_a_process_takes_the_gpu_of_its_local_rank_or_the_only_one_it_sees(
    local_rank: int, visible: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    assert world._own_gpu() == expected  # pyright: ignore[reportPrivateUsage]


def test_more_processes_than_gpus_are_refused_with_the_number_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "4")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(ValueError, match=r"LOCAL_RANK=4, but this process sees 4 GPUs; start .*--nproc-per-node 4"):
        world._own_gpu()  # pyright: ignore[reportPrivateUsage]


def test_a_process_alone_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    world = join_world()
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert not torch.distributed.is_initialized()


def test_alone_everything_is_ones_own() -> None:
    assert ALONE.from_main(lambda: "own") == "own"
    assert ALONE.all_gather(lambda: "own") == ["own"]
    assert ALONE.all_sum([0.1, 2]) == [0.1, 2]
    assert [*range(6)][ALONE.shard(6)] == [*range(6)]
    ALONE.barrier()
    with pytest.raises(ZeroDivisionError):
        ALONE.all_gather(lambda: 1 / 0)
