"""Sweeps: which jobs there are, what sets them apart, and what is told and kept at their end."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.process.signals import EXIT_CODE, Preempted
from core.runs.record import finish_run
from core.runs.tracking import JsonlTracker
from launch.compose import ConfigError, combinations, command, composed
from launch.entry import Composed
from launch.overrides.differences import common, differences, text_of
from launch.parallel.sweep_jobs import warning_lines
from launch.schema import RMJob
from launch.sweep import JobOutcome, JobStatus, outcome_of
from tests.launch.sweeps import OWN, code_of, never, opened, record, settings

pytestmark = pytest.mark.usefixtures("alone")


# Which jobs there are


def test_choices_ranges_and_globs_sweep_as_in_hydra() -> None:
    assert combinations(["epochs=choice(1,3)", "seed=range(0,3)"]) == [
        [f"epochs={epochs}", f"seed={seed}"] for epochs in (1, 3) for seed in (0, 1, 2)
    ]
    assert combinations(["data=glob(h*)"]) == [["data=harbor"], ["data=hh_rlhf"]]


def test_the_last_of_two_values_for_a_key_counts() -> None:
    assert combinations(["optim.lr=1e-3,1e-4", "epochs=2", "optim.lr=1e-5"]) == [["optim.lr=1e-5", "epochs=2"]]


def test_an_interval_is_refused_since_it_has_no_end() -> None:
    with pytest.raises(ConfigError, match="interval"):
        combinations(["optim.lr=interval(0,1)"])


def test_the_command_line_counts_more_than_the_sweep_of_the_file() -> None:
    jobs = command(RMJob, ["experiment=rb2_rm_grid", "model=tulu_70b_sft", "data=both", "optim.lr=1e-6,5e-6"], multirun=True).jobs
    assert settings(jobs) == [(1e-6, 1), (1e-6, 2), (5e-6, 1), (5e-6, 2)]
    assert {job.model.path for job in jobs} == {"allenai/Llama-3.1-Tulu-3-70B-SFT"}


def test_without_multirun_an_experiment_that_sweeps_is_one_job() -> None:
    found = command(RMJob, ["experiment=rb2_rm_grid"], multirun=False)
    assert not found.sweeping
    assert [(job.model.path, job.data.name, job.optim.lr) for job in found.jobs] == [("allenai/Llama-3.1-Tulu-3-8B-SFT", "tulu", 3e-6)]


def test_commas_without_multirun_are_refused_unless_the_mode_is_set() -> None:
    with pytest.raises(ConfigError, match="--multirun"):
        command(RMJob, [*OWN, "epochs=1,2"], multirun=False)
    assert len(command(RMJob, [*OWN, "epochs=1,2", "hydra.mode=MULTIRUN"], multirun=False).jobs) == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=rb2_rm_grid", "model=qwen_7b_instruct", "data=both,tulu", "epochs=1"],
        ["data=atlas,harbor", "optim.lr=1e-3,1e-4", "data.flip=0,1", "tasks=gsm8k", "tasks.gsm8k.path=x.jsonl"],
        [*OWN, "data.paths=[a.jsonl],[b.jsonl,c.jsonl]", "optim={lr:1e-3,schedule:cosine},{lr:1e-4}", "name='a, b',c"],
        ["world=a,b", "hooks.rewardbench2='${world}/rows.jsonl',other.jsonl", "micro_batch_size=null,8"],
    ],
    ids=["files", "values", "lists", "interpolations"],
)
def test_jobs_are_composed_together_as_hydra_composes_each(overrides: list[str]) -> None:
    params = ["optim.lr=1e-6,3e-6,2e-5", "seed=0"] if "experiment" in overrides[0] else []
    one_by_one = [composed(RMJob, chosen).job for chosen in combinations([*overrides, *params])]
    assert len(one_by_one) > 3
    together = command(RMJob, overrides, multirun=True).jobs
    assert sorted(map(repr, together)) == sorted(map(repr, one_by_one))


def test_hydra_runs_the_jobs_that_were_checked_in_the_same_order() -> None:
    seen: list[Any] = []
    arguments = ["experiment=rb2_rm_grid", "model=tulu_8b_rl", "data=glob(*wo*,exclude=tulu)", "epochs=choice(2,1)"]
    assert code_of(lambda found: seen.append(found.job), ["-m", *arguments]) == 0
    assert tuple(seen) == command(RMJob, arguments, multirun=True).jobs
    assert settings(seen) == [(lr, epochs) for lr in (1e-6, 3e-6, 2e-5) for epochs in (2, 1)]


def test_a_wrong_value_in_the_sweep_of_a_file_is_refused_before_the_first_job(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "hydra.sweeper.params.epochs='1,0'"  # stands for such a line in the file
    assert code_of(never, ["-m", "experiment=rb2_rm_grid", "model=tulu_8b_sft", wrong]) == 2
    assert "epochs is 0" in capsys.readouterr().err


def test_a_sweep_over_experiments_that_sweep_is_refused() -> None:
    with pytest.raises(ConfigError, match="one at a time"):
        command(RMJob, ["experiment=rb2_rm_grid,rb2_rm_flipped"], multirun=True)


# What sets them apart


def test_jobs_differ_in_resolved_values_and_a_name_tells_what_goes_with_it() -> None:
    found = differences(command(RMJob, ["data=skywork,both", "optim.lr=1e-4,2.5e-3"], multirun=True).jobs)
    assert found.keys == ("data.name", "optim.lr")
    assert [tuple(row.values()) for row in found.rows] == [
        ("skywork", "1e-4"), ("skywork", "0.0025"), ("both", "1e-4"), ("both", "0.0025"),
    ]  # fmt: skip
    tulu, skywork = "allenai/llama-3.1-tulu-3-8b-preference-mixture", "Skywork/Skywork-Reward-Preference-80K-v0.2"
    assert found.with_them == {  # both hold Skywork's pairs, so these set nothing apart
        ("data.name", "both"): {"data.sources.tulu.path": tulu}
    }
    assert common(command(RMJob, ["data=skywork,both"], multirun=True).jobs)["data.sources.skywork.path"] == skywork


def test_files_under_one_name_are_told_themselves() -> None:
    found = differences(command(RMJob, [*OWN, "data.paths=[a.jsonl],[b.jsonl]"], multirun=True).jobs)
    assert found.keys == ("data.paths",)
    assert [row["data.paths"] for row in found.rows] == ["[a.jsonl]", "[b.jsonl]"]


def test_common_settings_are_those_that_all_jobs_share_against_the_defaults() -> None:
    jobs = command(RMJob, [*OWN, "epochs=2,3", "max_length=2048", "batch_size=64", "data.flip=0.5", "micro_batch_size=null"], multirun=True)
    assert common(jobs.jobs) == {  # max_length is the dataclass's own, epochs differ
        "model.path": "org/base", "data.paths": "[pairs.jsonl]", "data.flip": "0.5", "batch_size": "64",
    }  # fmt: skip


def test_values_read_as_on_the_command_line() -> None:
    values = [1e-4, 2.5e-6, 0.5, 1.0, 0.0, True, None, [1, 16], "", "a", JobStatus.failed]
    assert [text_of(value) for value in values] == ["1e-4", "2.5e-6", "0.5", "1.0", "0.0", "true", "null", "[1,16]", "''", "a", "failed"]


# The end of a sweep


def train(found: Composed[RMJob]) -> dict[str, Any]:
    """Stands for a training: one epoch works, two are finished already, three fail."""
    run = opened(found)
    if found.job.epochs == 3:
        raise ValueError("the data, which are few, are too few")
    if not (run.dir / "metrics.jsonl").is_file():
        tracker = JsonlTracker(run.dir / "metrics.jsonl")
        for step, overall in ((5, 0.25), (10, 0.75), (15, 0.5)):
            tracker.log({"rewardbench2/overall": overall}, axis="checkpoint/step", step=step)
        tracker.close()
        finish_run(run, final={"rewardbench2/overall": 0.5})
    return record(run)


def test_a_sweep_ends_with_a_table_of_its_jobs_and_leaves_it_as_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(train, [*OWN, "study=S", "epochs=2"]) == 0
    path = tmp_path / "runs" / "s" / "sweep-rm.csv"
    assert not path.exists()  # one job is no sweep
    capsys.readouterr()
    code = code_of(train, ["-m", *OWN, "study=S", "epochs=1,2,3"])
    said = capsys.readouterr()
    assert code == 1
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "job", "epochs", "status", "message", "rewardbench2/overall best", "rewardbench2/overall last", "held_out/accuracy best",
        "held_out/accuracy last", "wall_s", "dir",
    ]  # fmt: skip
    assert [(row["job"], row["epochs"], row["status"], row["message"]) for row in rows] == [
        ("1", "1", "finished", ""),
        ("2", "2", "skipped", ""),
        ("3", "3", "failed", "the data, which are few, are too few"),
    ]
    # Of 0.25, 0.75 and 0.5 the best is the second, the last the third.
    best_and_last = [(row["rewardbench2/overall best"], row["rewardbench2/overall last"]) for row in rows]
    assert best_and_last == [("0.75", "0.5"), ("0.75", "0.5"), ("", "")]
    assert [row["held_out/accuracy best"] for row in rows] == ["", "", ""]
    assert [Path(row["dir"]).parent.name for row in rows] == ["s", "s", "s"]  # the failed job has left a run too
    assert len({row["dir"] for row in rows}) == 3
    assert all(float(row["wall_s"]) >= 0 for row in rows[:2])
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".tmp")] == []

    for text in ("finished", "skipped: finished before", "failed", "75.0", "50.0", "points of 100", rows[0]["dir"]):
        assert text in said.out
    assert said.out.endswith(f"{path.relative_to(tmp_path)}\n")
    assert "held_out/accuracy" not in said.out  # measured nowhere
    assert said.err.count("the data, which are few, are too few") == 1
    assert "the data" not in said.out  # each error once
    assert "1 of 3 jobs failed; their errors stand above" in said.err


def test_a_sweep_says_which_of_its_scores_do_not_compare(capsys: pytest.CaptureFixture[str]) -> None:
    def measured(found: Composed[RMJob]) -> dict[str, Any]:
        part = {1: {"rows": {"rewardbench2": [41, 1865], "held_out": [3, 9]}}, 2: {"rows": {"held_out": [3, 9]}}}
        finish_run(opened(found), final={"rewardbench2/overall": 0.5, "held_out/accuracy": 0.5}, **part[found.job.epochs])
        return record(opened(found))

    assert code_of(measured, ["-m", *OWN, "epochs=1,2"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert line == (
        "warning: rewardbench2 was measured on different rows (41 of 1865 rows: job 1; all rows: job 2), so that its scores do not compare"
        "; set hooks.budget=null, which measures all rows."
    )


def test_jobs_side_by_side_end_in_the_same_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Sequence[str]] = []

    def together(name: str, jobs: Sequence[RMJob], overrides: Sequence[Sequence[str]]) -> list[JobOutcome]:
        asked.extend(overrides)
        return [JobOutcome(status=JobStatus.finished), JobOutcome(status=JobStatus.failed, message="no such kernel (see rm-2.log)")]

    monkeypatch.setattr("launch.parallel.sweep_jobs.run_together", together)
    assert code_of(never, ["-m", *OWN, "epochs=1,2", "parallel=2"]) == 1
    said = capsys.readouterr()
    assert [[text for text in own if text.startswith("epochs")] for own in asked] == [["epochs=1"], ["epochs=2"]]
    assert "sweep of 2 jobs" in said.out
    assert "1 of 2 jobs failed" in said.err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert code_of(never, ["-m", *OWN, "epochs=1,2", "parallel=2"]) == 2
    assert "torchrun several" in capsys.readouterr().err


def test_a_smaller_sweep_does_not_replace_the_table_of_a_larger_one(tmp_path: Path) -> None:
    assert code_of(train, ["-m", *OWN, "study=s", "epochs=1,2,4"]) == 0
    assert code_of(train, ["-m", *OWN, "study=s", "epochs=1,2"]) == 0
    assert code_of(train, ["-m", *OWN, "study=s", "epochs=1,2,4,5"]) == 0
    place = tmp_path / "runs" / "s"
    found = {file.name: len(file.read_text().splitlines()) - 1 for file in place.glob("*.csv")}
    assert found == {"sweep-rm.csv": 4, "sweep-rm-2.csv": 2}


def test_a_table_fits_the_terminal_and_runs_stand_below_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.entry.WIDTH", 100)
    assert code_of(train, ["-m", *OWN, "epochs=1,2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if line[:1] in "┏┃┡│└") <= 100
    assert sum("runs/default/rm-base-" in line and "│" not in line for line in lines) == 2


def test_the_same_error_of_several_jobs_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    def run(found: Composed[RMJob]) -> None:
        raise ValueError("no such model")

    assert code_of(run, ["-m", *OWN, "epochs=1,2,4"]) == 1
    err = capsys.readouterr().err
    assert err.count("no such model") == 1
    assert err.count(": the same") == 2
    assert "3 of 3 jobs failed" in err


def test_a_sweep_over_studies_leaves_a_csv_in_each(tmp_path: Path) -> None:
    assert code_of(lambda _: None, ["-m", *OWN, "study=a,b", "epochs=1,2"]) == 0
    for study in ("a", "b"):
        with (tmp_path / "runs" / study / "sweep-rm.csv").open(newline="") as file:
            assert [(row["study"], row["epochs"]) for row in csv.DictReader(file)] == [(study, "1"), (study, "2")]


def test_a_run_counts_as_skipped_if_it_was_finished_before_its_job_began() -> None:
    at = "2026-01-02T03:04:05.{}+00:00".format
    assert outcome_of({"finished": at("678")}, begun=at("679")).status == JobStatus.skipped
    assert outcome_of({"finished": at("679")}, begun=at("678")).status == JobStatus.finished
    assert outcome_of({"finished": at("678")}, begun=at("678")).status == JobStatus.finished
    assert outcome_of(None, begun=at("678")).status == JobStatus.finished


def test_an_unforeseen_failure_is_told_with_its_kind_and_the_other_jobs_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def run(found: Composed[RMJob]) -> None:
        seen.append(found.job.epochs)
        if found.job.epochs == 1:
            raise MemoryError("too large")

    assert code_of(run, ["-m", *OWN, "epochs=1,2"]) == 1
    assert seen == [1, 2]
    assert "MemoryError: too large" in capsys.readouterr().err


def test_preemption_stops_the_whole_sweep_with_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def run(found: Composed[RMJob]) -> None:
        seen.append(found.job.epochs)
        raise Preempted("stopped by a signal; the same command goes on from there")

    assert code_of(run, ["-m", *OWN, "epochs=1,2"]) == EXIT_CODE
    assert seen == [1]
    assert capsys.readouterr().err.count("the same command goes on") == 1


def test_an_interrupt_stops_the_whole_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: Composed[RMJob]) -> None:
        raise KeyboardInterrupt

    assert code_of(run, ["-m", *OWN, "epochs=1,2"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_of_several_processes_all_do_the_jobs_and_the_first_one_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def run(found: Composed[RMJob]) -> None:
        seen.append(found.job.epochs)
        if found.job.epochs == 2:
            raise ValueError("no")

    monkeypatch.setattr("core.process.together.failed_together", lambda error: True)  # no other process is there to be asked
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    arguments = ["-m", *OWN, "epochs=1,2"]
    assert code_of(run, arguments) == 1
    assert code_of(never, [*arguments, "dry_run=true"]) == 0
    assert code_of(never, ["epochs=0"]) == 2
    assert seen == [1, 2]
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.rglob("*.csv"))
    monkeypatch.setenv("RANK", "0")
    assert code_of(run, arguments) == 1
    assert seen == [1, 2, 1, 2]
    assert "sweep of 2 jobs" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("*.csv"))) == 1


def test_what_kills_a_process_alone_is_told_by_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: Composed[RMJob]) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setenv("RANK", "3")
    assert code_of(run, OWN) == 1
    assert capsys.readouterr().err == "process 3: failed: RuntimeError: no such kernel\n"


def test_jobs_side_by_side_have_each_of_their_warnings_told_once() -> None:
    def ended(*texts: str) -> JobOutcome:
        return JobOutcome(status=JobStatus.finished, record={"warnings": [{"what": "w", "key": "k", "text": text} for text in texts]})

    failed = JobOutcome(status=JobStatus.failed, message="no such kernel")
    assert warning_lines([ended("few pairs", "few steps"), ended("few pairs"), failed]) == [
        "warning: jobs 1, 2: few pairs",
        "warning: job 1: few steps",
    ]
    assert warning_lines([ended("few pairs"), ended("few pairs")]) == ["warning: few pairs"]
