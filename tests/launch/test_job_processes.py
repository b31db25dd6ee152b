"""The processes of a study's job, ended by others: who waits for whom, and how long."""

# pyright: reportPrivateUsage=false

import os
import signal
import subprocess
import sys

import pytest

from core.process.signals import EXIT_CODE
from core.progress import NoProgress
from launch.parallel import processes


def ended(monkeypatch: pytest.MonkeyPatch, first: int, *, second_s: float) -> list[int]:
    """The codes of two processes: one ends at once with the code `first`, the other so many seconds later with that of a stopped run."""
    monkeypatch.setattr(processes, "PATIENCE_S", 0.2)
    reader, writer = os.pipe()
    programs = (f"raise SystemExit({first})", f"import time; time.sleep({second_s}); raise SystemExit({EXIT_CODE})")
    workers = [subprocess.Popen([sys.executable, "-c", program], pass_fds=[writer]) for program in programs]
    os.close(writer)
    try:
        processes._heard(reader, workers, NoProgress())
    finally:
        os.close(reader)
        for worker in workers:
            worker.kill()
    return [worker.wait() for worker in workers]


def test_a_process_that_was_told_to_stop_has_the_time_to_save_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(monkeypatch, EXIT_CODE, second_s=2.0) == [EXIT_CODE, EXIT_CODE]


def test_a_process_that_waits_for_one_that_failed_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(monkeypatch, 1, second_s=60.0) == [1, -signal.SIGKILL]
