"""Two processes share the drawing and the verifying of pools, and go on with them after one of them was killed."""

import os
import subprocess
import sys
from pathlib import Path

from bon.draw import make_pools
from bon.pools import load_pools
from tests.bon.spread import Logged, plan

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.bon.spread")


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *TORCHRUN, *arguments], env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes_draw_what_one_does_and_nothing_twice_after_a_kill(tmp_path: Path) -> None:
    whole = make_pools(tmp_path / "one", plan(), lambda: Logged(str(tmp_path / "one.txt"), -1), batch_size=2, say=lambda line: None)
    killed = start(str(tmp_path / "pools"), str(tmp_path / "two.txt"), "1")
    assert killed.returncode != 0
    before = (tmp_path / "two.txt").read_text().split()
    ended = start(str(tmp_path / "pools"), str(tmp_path / "two.txt"))
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert load_pools(tmp_path / "pools") == whole
    assert [row.completions[0] for row in whole["a"]] == [str(i) for i in range(10)]
    drawn = (tmp_path / "two.txt").read_text().split()
    # Four prompts at a time, two for each process. The first four were stored; the second four only the process drew that lived.
    assert sorted(before[:4]) == ["0?", "1?", "2?", "3?"]
    assert all(drawn.count(f"{i}?") == 1 for i in (0, 1, 2, 3, 6, 7, 8, 9))
    for file in (tmp_path / "one").rglob("*.parquet"):
        assert (tmp_path / "pools" / file.relative_to(tmp_path / "one")).read_bytes() == file.read_bytes()
