"""Where commands are tried out."""

import sys
from pathlib import Path

import pytest


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder of its own; `start` sets some of these, which are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rewardloop"])
    for name in ("RANK", "WORLD_SIZE", "REWARDLOOP_TRACE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "")
