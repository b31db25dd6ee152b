"""Processes of a group end with their own code, with their output written, and without the interpreter's end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import atexit, sys
import torch.distributed as dist
from core.process.exit import exit_without_teardown

class Late:
    def __del__(self): print("the interpreter was taken down")

late = Late()
atexit.register(print, "exit functions ran")
with exit_without_teardown():
    {group}
    print("worked")
    {end}
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(75)", 75, ""),
        ("sys.exit('no such file')", 1, "no such file"),
        ("raise ValueError('lr is 0')", 1, "ValueError: lr is 0"),
    ],
)
def test_a_process_leaves_with_the_code_it_would_have_had(end: str, code: int, said: str) -> None:
    group = "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)"
    ended = subprocess.run([sys.executable, "-c", SCRIPT.format(group=group, end=end)], capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stdout.splitlines() == ["worked", "exit functions ran"]
    assert said in ended.stderr


def test_a_process_that_is_alone_goes_on() -> None:
    script = SCRIPT.format(group="pass", end="pass") + "print('went on')"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stdout.splitlines() == ["worked", "went on", "exit functions ran", "the interpreter was taken down"]


GROUP = """
import os, torch, torch.distributed as dist
from core.process.exit import exit_without_teardown
with exit_without_teardown():
    dist.init_process_group("gloo")
    held = dist.distributed_c10d._get_default_group()
    dist.all_reduce(torch.ones(4))
    for thread in os.listdir("/proc/self/task"):  # the group's threads come late, as on a busy machine
        if "gloo" in open(f"/proc/self/task/{thread}/comm").read():
            os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
    for _ in range(30):
        dist.all_reduce(torch.ones(8), async_op=True).wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_whose_group_has_slow_threads_end_well(tmp_path: Path) -> None:
    script = tmp_path / "group.py"
    script.write_text(GROUP)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr[-2000:]


PRINTING = """
import sys
from rich.console import Console
from core.process.exit import ending_with_a_closed_pipe

def work():
    {printed}
    print("was worked", file=sys.stderr)
    {end}

with ending_with_a_closed_pipe():
    try:
        work()
    except (OSError, ValueError, Exception) as error:  # as commands tell what is wrong with a file
        print(f"failed: {{error}}", file=sys.stderr)
        raise SystemExit(2) from error
"""
PRINTS = [
    "[print(number, flush=True) for number in range(9)]",
    "print('x' * 1_000_000)",
    "Console(width=80).print('x\\n' * 100_000)",
    "print('held back')",
]


@pytest.mark.parametrize("printed", PRINTS)
@pytest.mark.parametrize(("end", "code"), [("pass", 141), ("sys.exit(0)", 141), ("sys.exit(3)", 3)])
def test_a_program_whose_reader_has_gone_does_its_work_and_says_nothing_of_it(printed: str, end: str, code: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # the reader has gone
    command = [sys.executable, "-c", PRINTING.format(printed=printed, end=end)]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (code, "was worked\n")


def test_a_program_whose_output_is_read_ends_as_it_would() -> None:
    command = [sys.executable, "-c", PRINTING.format(printed="print('größer')", end="pass")]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii:replace"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "gr??er\n", "was worked\n")
