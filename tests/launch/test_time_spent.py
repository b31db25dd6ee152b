"""The time of a study is that of all its commands, however each ended."""

from pathlib import Path

import pytest

from core.disk import write_json
from launch.parallel.display import Lines
from launch.studies import time_spent
from launch.studies.time_spent import TIME, Timed, TimeSpent


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the clock shows."""
    now = [1000.0]
    monkeypatch.setattr(time_spent.time, "monotonic", lambda: now[0])
    return now


def test_a_command_goes_on_from_where_the_one_before_ended_or_was_killed(tmp_path: Path, clock: list[float]) -> None:
    killed = TimeSpent(tmp_path)
    clock[0] += 40
    Timed(Lines(2), killed).ended("rm-01", None)
    clock[0] += 7  # of which nothing is known any more
    resumed = TimeSpent(tmp_path)
    clock[0] += 60
    assert resumed.total(worked=True) == 40 + 60
    again = TimeSpent(tmp_path)
    clock[0] += 5
    again.note()
    assert again.total(worked=False) == 40 + 60
    assert TimeSpent(tmp_path).total(worked=True) == 40 + 60


def test_a_study_that_was_made_before_its_time_was_kept_goes_on_from_its_report(tmp_path: Path, clock: list[float]) -> None:
    write_json(tmp_path / "report" / "summary.json", {"wall_s": 300.0})
    resumed = TimeSpent(tmp_path)
    clock[0] += 20
    assert resumed.total(worked=True) == 320


def test_a_command_with_nothing_to_do_and_no_time_before_it_has_its_own(tmp_path: Path, clock: list[float]) -> None:
    spent = TimeSpent(tmp_path)
    clock[0] += 3
    assert spent.total(worked=False) == 3


def test_a_time_that_cannot_be_read_is_told_and_counted_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / TIME).write_text("{")
    assert TimeSpent(tmp_path).total(worked=True) < 1
    assert f"{TIME}" in capsys.readouterr().out
