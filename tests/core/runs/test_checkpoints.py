"""Checkpoints of a run are found by their steps, and torn ones are named."""

from pathlib import Path

import pytest

from core.disk import atomic_folder
from core.runs.checkpoints import complete_steps, latest_complete, step_folder


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
