"""A lock has one holder, and the next one learns who that is."""

import os
from pathlib import Path

import pytest

from core.runs.lock import BusyError, locked


def test_a_second_holder_is_told_which_process_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "study.lock"
    with locked(path), pytest.raises(BusyError, match=f"study.lock is locked by pid {os.getpid()} on "), locked(path):
        pass
    with locked(path):  # released again
        pass
