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


def test_the_time_in_parts_of_a_task_counts_for_the_time_left_but_not_for_its_rate() -> None:
    # Two steps of 10 s, and hooks of 40 s after the first: 10 s a step, but 30 s for each of the two steps that are left.
    clock, stream = Clock(), io.StringIO()
    progress = LineProgress(stream, clock)
    progress.start("training", 4, unit="step")
    clock.seconds = 10
    progress.advance()
    progress.start("hooks", 2)
    clock.seconds = 50
    progress.finish()
    clock.seconds = 60
    progress.advance()
    assert stream.getvalue().splitlines()[-1] == "training: 2/4 (50%), 10.0 s/step, 0:01:00 left"


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
    with console_progress() as progress:
        assert isinstance(progress, LineProgress)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    with console_progress() as progress:
        assert isinstance(progress, RichProgress)


def test_what_is_slower_than_one_a_second_is_told_in_seconds_each_with_what_it_has_come_to() -> None:
    # Two of the four steps that are left take 60 s each; the other two need 120 s. The two that were done before count for no rate.
    clock, stream = Clock(), io.StringIO()
    progress = LineProgress(stream, clock)
    progress.start("training", 6, unit="step", done=2)
    for loss in ("0.70", "0.65"):
        clock.seconds += 60
        progress.note(f"loss {loss}")
        progress.advance()
    assert stream.getvalue().splitlines()[-1] == "training: 4/6 (67%), loss 0.65, 60.0 s/step, 0:02:00 left"
    progress.finish()
    assert stream.getvalue().splitlines()[-1] == "training: 4/6 in 120.0 s, loss 0.65, 60.0 s/step"


def test_a_part_is_told_if_it_takes_long_and_leaves_the_whole_as_it_was() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = LineProgress(stream, clock)
    progress.start("training", 2, unit="step")
    progress.start("quick", 1)
    progress.advance()
    progress.finish()
    progress.start("hooks of step 1", 30)
    clock.seconds = 15
    progress.advance(30)
    progress.finish()
    clock.seconds = 25
    progress.advance(2)
    progress.finish()
    assert stream.getvalue().splitlines() == [
        "hooks of step 1: 30/30 (100%), 2.0/s, 0:00:00 left",
        "hooks of step 1: 30/30 in 15.0 s, 2.0/s",
        "training: 2/2 (100%), 5.0 s/step, 0:00:00 left",
        "training: 2/2 in 25.0 s, 5.0 s/step",
    ]


def test_the_line_of_a_terminal_holds_note_rate_and_parts() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = RichProgress(Console(file=stream, force_terminal=True, width=140), clock)
    progress.start("training", 4, unit="step")
    clock.seconds = 10
    progress.note("loss 0.70, accuracy 0.50, 1.2k tokens/s")
    progress.advance()
    progress.start("held-out pairs, step 1", 2)
    progress.advance(2)
    progress.finish()
    progress.finish()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert re.search(r"training .*1/4 .*loss 0.70, accuracy 0.50, 1.2k tokens/s, 10.0 s/step, 0:00:30 left", shown)


def test_no_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress: Progress = NoProgress()
    progress.start("scoring", 1)
    progress.advance()
    progress.finish()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
