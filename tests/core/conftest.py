"""What two processes of one group did, run once for all tests of `core` that ask for it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder that `tests.core.spread` worked in, and what it wrote on each of two processes."""
    folder = tmp_path_factory.mktemp("spread")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.core.spread"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    ended = subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
