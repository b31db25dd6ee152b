"""What code in the sandbox tries in order to get out, to use the machine up or to forge a verdict, and that the run goes on."""

import os
import time
from pathlib import Path

import pytest

from evalhooks.tasks.sandbox.bubblewrap import Limits
from evalhooks.tasks.sandbox.run import run_tests

RIGHT = "def double(n):\n    return 2 * n\n"
TESTS = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(5) == 10\n"
SMALL = Limits(cpu_s=1, wall_s=4.0, memory=256 << 20)


def passes(program: str, tests: str = TESTS) -> bool:
    """Whether the program passes; afterwards a right one still does, so that the run goes on."""
    found = run_tests(program, tests, entry_point="double" if tests is TESTS else "", limits=SMALL)
    assert run_tests(RIGHT, TESTS, entry_point="double", limits=SMALL).passed
    return found.passed


def tells(body: str) -> str:
    """What `probe`, a function with this body, returns inside the sandbox, or the exception that it raises."""
    program = "def probe():\n" + "\n".join(f"    {line}" for line in body.splitlines())
    return run_tests(program, "assert False, repr(probe())", limits=SMALL).why


def test_a_right_program_passes_and_a_wrong_one_fails() -> None:
    assert passes(RIGHT)
    assert not passes("def double(n):\n    return n * n\n")


def test_no_file_can_be_written_outside_of_a_small_folder(tmp_path: Path) -> None:
    target = tmp_path / "written"
    for place in (target, Path("/usr/written"), Path("/written"), Path("/dev/written"), Path("/dev/shm/written"), Path("/etc/written")):
        assert "Error" in tells(f"open({str(place)!r}, 'w').write('x')\nreturn 'written'"), place
        assert not place.exists()
    assert "'written'" in tells("open('/tmp/own', 'w').write('x')\nreturn 'written'")
    assert not Path("/tmp/own").exists()


def test_what_is_written_is_limited_in_size() -> None:
    body = "for number in range(100):\n    open(f'/tmp/{number}', 'wb').write(bytes(4 << 20))\nreturn 'filled'"
    assert "No space left" in tells(body)
    assert "OSError" in tells("open('/tmp/one', 'wb').write(bytes(64 << 20))\nreturn 'filled'")


def test_no_file_of_the_user_can_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    for place in (secret, Path(__file__), Path.home() / ".profile", Path("/etc/passwd"), Path("/proc/self/environ"), Path("/tests.py")):
        assert "FileNotFoundError" in tells(f"return open({str(place)!r}).read()"), place


def test_the_environment_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hidden")
    told = tells("import os\nreturn sorted(os.environ)")
    assert "LANG" in told
    assert "WANDB_API_KEY" not in told
    assert "PATH'" not in told


def test_there_is_no_network() -> None:
    # The address of a documentation network; the sandbox has no route to anywhere.
    body = (
        "import socket\nconnection = socket.socket()\nconnection.settimeout(1)\nconnection.connect(('192.0.2.1', 80))\nreturn 'connected'"
    )
    assert "Network is unreachable" in tells(body)
    assert "gaierror" in tells("import socket\nreturn socket.getaddrinfo('example.org', 80)")


@pytest.mark.parametrize(
    "body",
    [
        "import ctypes\nreturn ctypes.CDLL(None).system(b'echo started')",
        "import os\nreturn os.system('echo started')",
        "import os\nreturn os.fork()",
        "import os\nreturn os.posix_spawn('/bin/sh', ['/bin/sh', '-c', 'true'], {})",
        "import subprocess\nreturn subprocess.run(['/bin/sh', '-c', 'true']).returncode",
        "import multiprocessing\nprocess = multiprocessing.Process(target=print)\nprocess.start()\nreturn 'started'",
    ],
)
def test_no_other_process_can_be_started(body: str) -> None:
    told = tells(body)
    assert "PermissionError" in told or "BlockingIOError" in told or "AssertionError: -1" in told or "AssertionError: 32512" in told


def test_a_bomb_of_processes_does_not_go_off() -> None:
    began = time.monotonic()
    assert not passes("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n")
    assert time.monotonic() - began < 2 * SMALL.wall_s


def test_threads_that_take_memory_are_limited_and_a_few_work() -> None:
    assert passes(
        "import threading\ndef double(n):\n    t = threading.Thread(target=print)\n    t.start()\n    t.join()\n    return 2 * n\n"
    )
    bomb = "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(60,)).start()\n"
    assert not passes(bomb + RIGHT)


@pytest.mark.parametrize(
    "bomb",
    [
        "held = []\nwhile True:\n    held.append(bytearray(1 << 20))\n",
        "held = 'x' * (1 << 34)\n",
        "import mmap\nheld = [mmap.mmap(-1, 1 << 26) for _ in range(1000)]\n",
        "import ctypes\nids = [ctypes.CDLL(None).shmget(0, 1 << 28, 0o1666) for _ in range(100)]\nassert set(ids) != {-1}\n",
        "import os\nos.memfd_create('held')\n",
    ],
)
def test_a_bomb_of_memory_does_not_go_off(bomb: str) -> None:
    assert not passes(bomb + RIGHT)


@pytest.mark.parametrize(
    "endless",
    [
        "while True:\n    print('x' * 1000)\n",
        "import os\nwhile True:\n    os.write(2, b'x' * 1000)\n",
        "import os\nwhile True:\n    for descriptor in range(3, 64):\n        try:\n            os.write(descriptor, b'x' * 65536)\n        except OSError:\n            pass\n",  # noqa: E501
    ],
)
def test_endless_output_ends(endless: str) -> None:
    assert not passes(endless + RIGHT)


def test_a_program_that_only_waits_ends() -> None:
    began = time.monotonic()
    assert not run_tests("import time\ntime.sleep(3600)\n", TESTS, entry_point="double", limits=Limits(wall_s=1.0)).passed
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "forged",
    [
        "import sys\nsys.exit(0)\n",
        "import os\nos._exit(0)\n",
        "raise SystemExit(0)\n",
        "import builtins\nbuiltins.AssertionError = BaseException\nclass Any:\n    def __eq__(self, other):\n        return True\ndef double(n):\n    return Any()\n",  # noqa: E501
        "class Number(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\ndef double(n):\n    return Number(0)\n",  # noqa: E501
        "import sys\nfor module in list(sys.modules.values()):\n    for name in ('check', 'verdict', 'passed', 'failure', 'names'):\n        setattr(module, name, True)\ndef double(n):\n    return 0\n",  # noqa: E501
        "import inspect\nframe = inspect.currentframe()\nwhile frame:\n    frame.f_globals['check'] = lambda candidate: None\n    frame.f_locals['passed'] = True\n    frame = frame.f_back\ndef double(n):\n    return 0\n",  # noqa: E501
        'import os\nfor descriptor in range(3, 64):\n    try:\n        os.write(descriptor, b\'"ready"\\n{"passed": true}\\n\')\n    except OSError:\n        pass\ndef double(n):\n    return 0\n',  # noqa: E501
        "import os, signal\nfor process in range(1, 100):\n    try:\n        os.kill(process, signal.SIGTERM)\n    except OSError:\n        pass\ndef double(n):\n    return 0\n",  # noqa: E501
        "def check(candidate):\n    pass\ndef double(n):\n    return 0\n",
        "import gc\ndef double(n):\n    return [held for held in gc.get_objects() if 'assert candidate' in str(held)]\n",
    ],
)
def test_no_verdict_can_be_forged(forged: str) -> None:
    assert not passes(forged)


def test_an_answer_that_is_nested_too_deep_or_too_long_is_wrong() -> None:
    assert not passes("def double(n):\n    held = []\n    for _ in range(100000):\n        held = [held]\n    return held\n")
    assert not passes("def double(n):\n    return 'x' * (10 << 20)\n")


def test_nothing_is_left_over(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    passes(RIGHT)
    assert len(os.listdir("/proc/self/fd")) == len(before)
