"""A sample of kills and faults holds, and the harness notices what it is there for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.case import Case, chosen
from tests.faults.child import Ended, forked
from tests.faults.inputs.overrides import Key, wrong_values
from tests.faults.inputs.trial import BEGAN, Expected, problems_of
from tests.faults.kills.compare import differences
from tests.faults.page import Result, page


def test_a_sample_of_kills_faults_and_inputs_holds() -> None:
    script = [sys.executable, "-m", "tests.faults", "--sample", "5"]
    ended = subprocess.run(script, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-2000:]


def ended(code: int, err: str) -> Ended:
    return Ended(code=code, out="", err=err, seconds=0.1, survivors=0)


@pytest.mark.parametrize(
    ("found", "expected", "problem"),
    [
        (ended(2, "epochs is -1"), Expected.refused, ""),
        (ended(BEGAN, ""), Expected.refused, "accepted in silence"),
        (ended(0, ""), Expected.refused, "accepted in silence"),
        (ended(2, "something is wrong"), Expected.refused, "lacks 'epochs'"),
        (ended(1, "Traceback (most recent call last):\nKeyError: epochs"), Expected.refused, "traceback"),
        (ended(-11, "epochs"), Expected.refused, "ended with -11"),
        (ended(2, "epochs is \x1b[31mred"), Expected.refused, "control characters"),
        (ended(2, "epochs is -1"), Expected.accepted, "was refused"),
        (ended(BEGAN, ""), Expected.accepted, ""),
    ],
)
def test_an_end_is_judged_by_its_code_and_message(found: Ended, expected: Expected, problem: str) -> None:
    problems = problems_of(found, expected, ("epochs",))
    assert len(problems) == bool(problem)
    assert problem in " ".join(problems)


def run_of(folder: Path, lines: list[dict[str, object]], record: dict[str, object], *, extra: str = "") -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "record.json").write_text(json.dumps(record))
    if extra:
        (folder / extra).touch()
    return folder


def test_two_runs_differ_by_a_repeated_step_another_value_a_leftover_and_a_record_but_not_by_times(tmp_path: Path) -> None:
    line = {"axis": "train/step", "train/step": 1, "time": 3.0, "train/loss": 0.5, "train/hook_seconds": 2.0}
    whole = run_of(tmp_path / "whole", [line], {"status": "finished", "wall_s": 1.0})
    same = run_of(tmp_path / "same", [{**line, "time": 4.0, "train/hook_seconds": 9.0}], {"status": "finished", "wall_s": 2.0})
    assert differences(same, whole) == []
    assert "1 time(s) more" in differences(run_of(tmp_path / "twice", [line, line], {"status": "finished"}), whole)[0]
    assert "1 time(s) less" in differences(run_of(tmp_path / "lost", [], {"status": "finished"}), whole)[0]
    assert "0.6 instead of 0.5" in differences(run_of(tmp_path / "other", [{**line, "train/loss": 0.6}], {"status": "finished"}), whole)[0]
    assert "status is running" in differences(run_of(tmp_path / "torn", [line], {"status": "running"}), whole)[0]
    left = run_of(tmp_path / "left", [line], {"status": "finished"}, extra=".tmp-x")
    assert differences(left, whole) == ["left over: .tmp-x"]


def test_a_forked_command_has_its_own_streams_code_and_signals(tmp_path: Path) -> None:
    def work() -> None:
        print("seen")
        raise SystemExit(7)

    assert (forked(work, tmp_path).code, forked(work, tmp_path).out) == (7, "seen\n")
    assert forked(lambda: os.kill(os.getpid(), 9), tmp_path).code == -9
    assert "ZeroDivisionError" in forked(lambda: 1 / 0, tmp_path).err
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_outlives_its_command_is_counted_and_ended(tmp_path: Path) -> None:
    assert forked(lambda: subprocess.Popen(["sleep", "60"]), tmp_path, grace=0.2).survivors == 1


def test_a_sample_takes_turns_among_the_groups_and_is_the_same_for_a_seed() -> None:
    cases = [Case(name=f"kills/{job}/{i}", what="", run=lambda folder: []) for job in ("rm", "ppo") for i in range(9)]
    sample = chosen(cases, only=[], sample=4, seed=3)
    assert [case.group for case in sample] == ["kills/rm"] * 2 + ["kills/ppo"] * 2
    assert sample == chosen(cases, only=[], sample=4, seed=3)
    assert [case.group for case in chosen(cases, only=[], sample=1, seed=3)] == ["kills/rm"]
    assert [case.name for case in chosen(cases, only=["ppo/3"], sample=0, seed=0)] == ["kills/ppo/3"]


def test_a_key_is_tried_with_what_its_type_forbids() -> None:
    assert "null" in wrong_values(Key(name="epochs", kind="int", optional=False))
    assert "null" not in wrong_values(Key(name="micro_batch_size", kind="int", optional=True))
    assert "-1" not in wrong_values(Key(name="seed", kind="int", optional=False))


def test_the_page_counts_by_group_and_names_what_does_not_hold() -> None:
    text = page([Result(name="kills/rm/00", problems=[]), Result(name="kills/rm/01", problems=["lost | a step"])], seed=0, tried="today")
    assert "**1 of 2 held** (seed 0, today)" in text
    assert "| rm | 2 | 1 |" in text
    assert "- `kills/rm/01`: lost / a step" in text
