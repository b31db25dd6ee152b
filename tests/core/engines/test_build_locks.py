"""What a killed compiler leaves, and what one that still works holds."""

import os
import threading
import time
from pathlib import Path

import pytest

from core.engines.build_locks import await_builds


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / "py311_cpu" / "shm").mkdir(parents=True)
    lock = tmp_path / "py311_cpu" / "shm" / "lock"
    lock.touch()
    return lock


def test_a_lock_that_a_killed_process_left_is_removed_and_said(lock: Path) -> None:
    said: list[str] = []
    os.utime(lock, (time.time() - 600, time.time() - 600))
    await_builds(said.append)
    assert not lock.exists()
    assert said == [f"removed {lock}, which a process that was killed while it compiled has left 10 minutes ago"]


def test_a_lock_of_a_process_that_compiles_is_waited_for(lock: Path) -> None:
    said: list[str] = []
    threading.Timer(0.2, lock.unlink).start()
    await_builds(said.append, poll_s=0.01)
    assert said == ["waiting for shm, which another process compiles"]
