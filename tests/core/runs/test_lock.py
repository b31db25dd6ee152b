"""A lock has one holder, and the next one learns who that is."""

import fcntl
import os
import threading
from pathlib import Path

import pytest

from core.runs.lock import BusyError, locked


def test_a_second_holder_is_told_which_process_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "study.lock"
    with locked(path), pytest.raises(BusyError, match=f"study.lock is locked by pid {os.getpid()} on "), locked(path):
        pass
    with locked(path):  # released again
        pass


def test_who_asks_for_a_moment_whether_a_lock_is_held_makes_nobody_fail(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    path.touch()
    asking = path.open()
    fcntl.flock(asking, fcntl.LOCK_SH)
    release = threading.Timer(0.03, asking.close)
    release.start()
    with locked(path):
        assert str(os.getpid()) in path.read_text()
    release.join()
