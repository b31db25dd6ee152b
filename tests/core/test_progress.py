"""Progress is a bar on a terminal and a few lines in a log."""

import io
import re

import pytest
from rich.console import Console

from core.progress import LineProgress, NoProgress, Progress, RichProgress, console_progress


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def lines_of(*, total: int, seconds_per_item: float) -> list[str]:
    clock, stream = Clock(), io.StringIO()
    progress = LineProgress(stream, clock)
    progress.start("scoring", total)
    for _ in range(total):
        clock.seconds += seconds_per_item
        progress.advance()
    progress.finish()
    return stream.getvalue().splitlines()


def test_a_line_says_share_rate_and_time_left() -> None:
    # 120 of 400 items in 10 s are 12 a second; the other 280 need 23.3 s.
    clock, stream = Clock(), io.StringIO()
    progress = LineProgress(stream, clock)
    progress.start("scoring", 400)
    clock.seconds = 10
    progress.advance(120)
    assert stream.getvalue() == "scoring: 120/400 (30%), 12.0/s, 0:00:23 left\n"


def test_quick_work_says_one_line_at_its_end() -> None:
    assert lines_of(total=100, seconds_per_item=0.05) == ["scoring: 100/100 in 5.0 s, 20.0/s"]


def test_work_of_minutes_says_a_line_per_tenth() -> None:
    # 200 s in all, a tenth every 20 s: ten lines, the tenth of which is at the end, and the closing one.
    lines = lines_of(total=100, seconds_per_item=2.0)
    assert [line.split()[1] for line in lines] == [f"{tenth}0/100" for tenth in range(1, 11)] + ["100/100"]


def test_two_lines_are_never_within_ten_seconds() -> None:
    # 30 s in all, a tenth every 3 s: a line each 10 s only.
    assert len(lines_of(total=30, seconds_per_item=1.0)) == 3 + 1


def test_slow_work_says_a_line_each_minute() -> None:
    # Half an hour in all, a tenth every 3 minutes: 30 lines of a minute each, and the closing one.
    assert len(lines_of(total=1800, seconds_per_item=1.0)) == 30 + 1


def test_work_of_nothing_and_work_given_up_end_without_an_error() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream, Clock())
    progress.start("nothing", 0)
    progress.finish()
    progress.start("given up", 10)
    progress.advance(3)
    progress.finish()
    assert stream.getvalue().splitlines() == ["nothing: 0/0 in 0.0 s", "given up: 3/10 in 0.0 s"]


def test_a_bar_shows_the_count_on_a_terminal_and_can_be_used_again() -> None:
    stream = io.StringIO()
    progress = RichProgress(Console(file=stream, force_terminal=True, width=100))
    for description in ("scoring", "sampling"):
        progress.start(description, 4)
        progress.advance(3)
        progress.advance()
        progress.finish()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert re.search(r"scoring.* 4/4 ", shown)
    assert re.search(r"sampling.* 4/4 ", shown)


def test_the_console_gets_a_bar_only_where_it_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(console_progress(), LineProgress)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    assert isinstance(console_progress(), RichProgress)


def test_no_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress: Progress = NoProgress()
    progress.start("scoring", 1)
    progress.advance()
    progress.finish()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
