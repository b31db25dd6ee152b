"""Jobs in processes of their own."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.progress import Progress
from launch.parallel.display import Bars
from launch.parallel.scheduler import Failure, Job, Results, Same, Task, run_jobs
from launch.parallel.slots import slots


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.progress: list[tuple[str, int, int]] = []

    def started(self, key: str) -> None:
        self.events.append(("started", key))

    def progressed(self, key: str, description: str, done: int, total: int) -> None:
        self.progress.append((description, done, total))

    def ended(self, key: str, failure: Failure | None) -> None:
        self.events.append(("failed" if failure else "ended", key))


def double(argument: int, progress: Progress) -> int:
    progress.start("doubling", 2)
    progress.advance(2)
    print("said aloud")
    return 2 * argument


def fail(progress: Progress) -> None:
    raise ValueError("no plums left")


def die(progress: Progress) -> None:
    os._exit(7)


def be_killed(progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interval(argument: float, progress: Progress) -> tuple[float, float]:
    started = time.monotonic()
    time.sleep(argument)
    return started, time.monotonic()


def task(function: Callable[..., object], *arguments: object) -> Callable[[Results], Task]:
    """A task that depends on no results."""
    return lambda _: partial(function, *arguments)


def number(result: object) -> int:
    assert isinstance(result, int)
    return result


def run(jobs: list[Job], logs: Path, slots: int = 2, gpus: Sequence[str] = ()) -> tuple[Mapping[str, Any], Recorder]:
    recorder = Recorder()
    return run_jobs(jobs, slots=slots, threads=1, gpus=gpus, logs=logs, display=recorder, preload=()), recorder


def test_a_job_gets_the_results_of_those_it_waits_for(tmp_path: Path) -> None:
    jobs = [
        Job(key="last", task=lambda results: partial(double, 1 + number(results["first"])), after=("first",)),
        Job(key="first", task=task(double, 3)),
    ]
    results, recorder = run(jobs, tmp_path)
    assert results == {"first": 6, "last": 14}
    assert recorder.events == [("started", "first"), ("ended", "first"), ("started", "last"), ("ended", "last")]
    assert ("doubling", 2, 2) in recorder.progress
    assert "said aloud" in (tmp_path / "first.log").read_text()


def test_a_failure_stops_those_that_wait_for_it_and_no_other(tmp_path: Path) -> None:
    jobs = [Job(key="bad", task=task(fail)), Job(key="waits", task=task(double, 1), after=("bad",)), Job(key="good", task=task(double, 1))]
    results, _ = run(jobs, tmp_path)
    assert results["good"] == 2
    assert results["bad"].message == "no plums left"
    assert "bad failed" in results["waits"].message
    assert "Traceback" in results["bad"].log.read_text()


def own_gpu(progress: Progress) -> str | None:
    time.sleep(0.5)  # until all slots are taken
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_more_jobs_than_gpus_share_them(tmp_path: Path) -> None:
    results, _ = run([Job(key=str(i), task=task(own_gpu)) for i in range(3)], tmp_path, slots=3, gpus=("4", "GPU-5a"))
    assert results == {"0": "4", "1": "GPU-5a", "2": "4"}


@pytest.mark.parametrize(("given", "found", "parallel", "expected"), [
    (None, 2, 0, (2, 4, ("0", "1"))),
    (None, 1, 3, (3, 2, ("0",))),
    ("4, GPU-5a", 2, 0, (2, 4, ("4", "GPU-5a"))),
    ("4,99", 1, 2, (2, 4, ("4",))),  # CUDA stops at the first that it does not know
    (None, 0, 0, (8, 1, ())),
    ("", 0, 2, (2, 4, ())),
])  # fmt: skip
def test_jobs_are_dealt_out_to_the_gpus_that_were_given(
    given: str | None, found: int, parallel: int, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr("torch.cuda.device_count", lambda: found)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert slots(parallel) == expected


def test_a_job_that_does_the_work_of_another_has_its_result_and_no_process(tmp_path: Path) -> None:
    jobs = [
        Job(key="same", task=lambda _: Same(key="first")),
        Job(key="next", task=lambda results: partial(double, number(results["same"])), after=("same",)),
        Job(key="first", task=task(double, 3)),
        Job(key="chained", task=lambda _: Same(key="same")),
        Job(key="bad", task=task(fail)),
        Job(key="as bad", task=lambda _: Same(key="bad")),
    ]
    results, recorder = run(jobs, tmp_path, slots=1)
    assert (results["same"], results["next"], results["chained"]) == (6, 12, 6)
    assert results["as bad"].message == "no plums left"
    assert sorted(key for event, key in recorder.events if event == "started") == ["bad", "first", "next"]
    assert ("failed", "as bad") in recorder.events


def refuse(results: Results) -> Task:
    raise ValueError("none has a score")


def test_a_job_whose_task_cannot_be_made_fails_alone(tmp_path: Path) -> None:
    results, recorder = run([Job(key="bad", task=refuse), Job(key="good", task=task(double, 1))], tmp_path)
    assert results["good"] == 2
    assert results["bad"].message == "none has a score"
    assert results["bad"].log.read_text() == "none has a score\n"
    assert ("failed", "bad") in recorder.events


def test_a_killed_process_is_a_failure_with_its_exit_code(tmp_path: Path) -> None:
    results, _ = run([Job(key="dies", task=task(die))], tmp_path)
    assert "code 7" in results["dies"].message


ORPHAN = """
from pathlib import Path
from tests.launch.test_scheduler import Job, announce, run, task

if __name__ == "__main__":
    run([Job(key="long", task=task(announce, "{file}"))], Path("{logs}"))
"""


def announce(argument: str, progress: Progress) -> None:
    Path(argument).write_text(str(os.getpid()))
    time.sleep(60)


def test_a_job_dies_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    pid_file, script = tmp_path / "pid", tmp_path / "script.py"
    script.write_text(ORPHAN.format(file=pid_file, logs=tmp_path))
    parent = subprocess.Popen([sys.executable, str(script)], cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."})
    assert comes_true(lambda: pid_file.exists() and pid_file.read_text() != "")
    pid = int(pid_file.read_text())
    parent.kill()
    parent.wait()
    assert comes_true(lambda: not Path(f"/proc/{pid}").exists())


SLOW = """
import os, pathlib, time
pathlib.Path("{file}").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the server notices once it has imported everything")
def test_the_server_of_jobs_dies_with_its_parent_while_it_still_imports(tmp_path: Path) -> None:
    pid_file, script = tmp_path / "pid", tmp_path / "script.py"
    (tmp_path / "slow_module.py").write_text(SLOW.format(file=pid_file))
    script.write_text(
        "from pathlib import Path\n"
        "from tests.launch.test_scheduler import Job, Recorder, double, run_jobs, task\n"
        'if __name__ == "__main__":\n'
        f'    jobs, logs = [Job(key="a", task=task(double, 1))], Path("{tmp_path}")\n'
        '    run_jobs(jobs, slots=1, threads=1, gpus=(), logs=logs, display=Recorder(), preload=("slow_module",))\n'
    )
    path = os.pathsep.join([".", str(tmp_path)])
    parent = subprocess.Popen([sys.executable, str(script)], cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": path})
    assert comes_true(lambda: pid_file.exists() and pid_file.read_text() != "")
    parent.kill()
    parent.wait()
    assert comes_true(lambda: not Path(f"/proc/{pid_file.read_text()}").exists(), seconds=20)


def comes_true(condition: Callable[[], bool], *, seconds: float = 60) -> bool:
    """Whether a condition comes true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_job_that_the_system_kills_is_said_to_lack_memory(tmp_path: Path) -> None:
    results, _ = run([Job(key="big", task=task(be_killed))], tmp_path)
    assert results["big"].message == (
        "the process was killed by SIGKILL, as the system does when memory runs out: lower parallel, so that fewer jobs run at a time"
    )


def test_no_more_jobs_run_at_a_time_than_there_are_slots(tmp_path: Path) -> None:
    jobs = [Job(key=f"job-{i}", task=task(interval, 0.2)) for i in range(3)]
    results, _ = run(jobs, tmp_path, slots=1)
    spans = sorted(results.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_a_job_that_needs_any_of_several_runs_once_one_of_them_has_a_result(tmp_path: Path) -> None:
    jobs = [
        Job(key="chooses", task=lambda results: partial(double, number(results["good"])), any_of=("bad", "good")),
        Job(key="in-vain", task=task(double, 1), after=("good",), any_of=("bad", "worse")),
        Job(key="lacks", task=task(double, 1), after=("good", "worse"), any_of=("bad", "good")),
        Job(key="bad", task=task(fail)),
        Job(key="worse", task=task(fail)),
        Job(key="good", task=task(double, 1)),
    ]
    results, _ = run(jobs, tmp_path)
    assert results["chooses"] == 4
    assert "bad failed" in results["in-vain"].message
    assert "worse failed" in results["lacks"].message  # what it needs besides those that it chooses from


def test_a_failure_with_brackets_in_its_message_is_shown_as_it_is() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    bars = Bars(console, 1)
    bars.ended("rm-01", Failure(message="ValueError: data.paths=[/data/pairs.jsonl] broken", log=Path("rm-01.log")))
    bars.close()
    assert isinstance(console.file, io.StringIO)
    assert "data.paths=[/data/pairs.jsonl] broken (see rm-01.log)" in console.file.getvalue()
