"""Checkpoints are planned and found by their steps, torn ones are named, and saves between them are due by the clock."""

from pathlib import Path

import pytest

from core.disk import atomic_folder
from core.runs import checkpoints
from core.runs.checkpoints import SaveTimer, checkpoint_steps, complete_steps, latest_complete, step_folder


def test_the_latest_complete_checkpoint_is_found_and_newer_torn_ones_are_named(tmp_path: Path) -> None:
    for step in (5, 20, 1_000_000):
        with atomic_folder(step_folder(tmp_path, step)):
            pass
    for step in (7, 2_000_000, 3_000_000):
        step_folder(tmp_path, step).mkdir()
    (tmp_path / "checkpoints" / "step-final").mkdir()
    said: list[str] = []
    assert latest_complete(tmp_path, said.append) == tmp_path / "checkpoints" / "step-1000000"
    assert complete_steps(tmp_path) == [5, 20, 1_000_000]
    # The torn step 7 is older than the one found, so nothing is skipped there.
    assert len(said) == 2
    assert "step-3000000" in said[0]
    assert "step-2000000" in said[1]
    assert all("\n" not in line for line in said)


def test_a_run_without_checkpoints_has_no_latest_one(tmp_path: Path) -> None:
    assert latest_complete(tmp_path, pytest.fail) is None
    assert complete_steps(tmp_path) == []


def test_a_negative_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps start at 0"):
        step_folder(tmp_path, -1)


@pytest.mark.parametrize(
    ("num_steps", "num_checkpoints", "expected"),
    [
        (12, 3, [4, 8, 12]),
        (10, 3, [4, 7, 10]),  # 3.33 and 6.67, rounded up
        (7, 1, [7]),
        (2, 5, [1, 2]),  # 0.4 and 0.8 are step 1; no step comes twice
        (1, 1, [1]),
    ],
)
def test_checkpoints_by_number_are_evenly_spaced_up_to_the_last_step(num_steps: int, num_checkpoints: int, expected: list[int]) -> None:
    assert checkpoint_steps(num_steps, num_checkpoints=num_checkpoints) == expected


def test_steps_may_be_rounded_to_the_nearest_and_step_0_is_none_of_them() -> None:
    assert checkpoint_steps(10, num_checkpoints=3, to_step=round) == [3, 7, 10]
    assert checkpoint_steps(2, num_checkpoints=5, to_step=round) == [1, 2]  # 0.4, 0.8, 1.2, 1.6, 2.0


@pytest.mark.parametrize(
    ("num_steps", "every", "expected"),
    [
        (10, 4, [4, 8, 10]),  # the last step, although it is no multiple
        (8, 4, [4, 8]),
        (10, 2.5, [3, 5, 8, 10]),  # 2.5, 5, 7.5, 10, rounded up
        (3, 0.5, [1, 2, 3]),
        (3, 20, [3]),
        (30, 30 / 9, [4, 7, 10, 14, 17, 20, 24, 27, 30]),  # 9 multiples; rounding must not push 10 and 20 to the next step
    ],
)
def test_checkpoints_by_steps_come_at_every_multiple_and_at_the_end(num_steps: int, every: float, expected: list[int]) -> None:
    assert checkpoint_steps(num_steps, num_checkpoints=1, every=every) == expected


def test_a_save_is_overdue_once_the_minutes_since_the_last_one_have_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    timer = SaveTimer(1.5)
    now[0] += 90
    assert not timer.overdue
    now[0] += 1
    assert timer.overdue
    timer.restart()
    assert not timer.overdue
    now[0] += 91
    assert timer.overdue
