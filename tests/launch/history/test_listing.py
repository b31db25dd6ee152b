"""`rewardloop runs` and `rewardloop show` say of runs what a person looks for."""

import sys
from itertools import islice
from pathlib import Path

import pytest

from core.disk import write_json
from core.hooks.hook import eval_file
from core.records import AXIS
from launch.history import listing, one
from launch.history.arguments import parse
from launch.history.find import one_run
from tests.launch.history.runs import made

KEYS = ("status", "job", "sort", "runs_dir")


def listed(tmp_path: Path, *arguments: str) -> list[str]:
    lines = listing.listed(parse([*arguments, f"runs_dir={tmp_path}"], keys=KEYS))
    return [Path(line.record["dir"]).name.rpartition("-")[0] for line in lines]


def test_runs_are_filtered_by_status_and_job_and_sorted_by_score(tmp_path: Path) -> None:
    made(tmp_path, "good", s1=0.5, s2=0.9)
    made(tmp_path, "bad", s1=0.7, s2=0.6)
    made(tmp_path, "torn", job="ppo", status="stopped")
    assert listed(tmp_path, "sort=score") == ["ppo-torn", "rm-bad", "rm-good"]
    assert listed(tmp_path, "sort=score", "job=rm") == ["rm-bad", "rm-good"]
    assert listed(tmp_path, "status=stopped,failed") == ["ppo-torn"]
    assert listed(tmp_path, "rm-g*") == ["rm-good"]
    with pytest.raises(ValueError, match="status=done is unknown; choose among running, finished"):
        listed(tmp_path, "status=done")
    with pytest.raises(ValueError, match="statu=finished is unknown; the settings are status="):
        listed(tmp_path, "statu=finished")


def test_a_score_is_that_of_the_best_checkpoint_beside_that_of_the_last(tmp_path: Path) -> None:
    made(tmp_path, "bad", s1=0.7, s2=0.6)
    [line] = listing.listed(parse([f"runs_dir={tmp_path}"], keys=KEYS))
    assert line.scores is not None
    assert (line.scores.metric, line.scores.best, line.scores.best_step, line.scores.last) == ("held_out/accuracy", 0.7, 1, 0.6)


def test_show_puts_nested_facts_in_words(tmp_path: Path) -> None:
    lineage = {"base": "a", "policy": {"told_by": "its name", "sources": []}, "rewards": {"reward": {"same_lineage": "yes"}}}
    told = one.described({"dir": str(tmp_path), "job": "ppo", "id": "0123abcd", "status": "finished", "lineage": lineage})
    said = [line.strip() for line in islice(told, 8)]
    assert said[-3:] == ["base: a", "policy: told by its name", "rewards: reward same lineage yes"]


def test_show_says_how_a_run_ended_what_was_measured_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(tmp_path, "tulu", s1=0.7, s2=0.6, status="stopped")
    monkeypatch.setattr(sys, "argv", ["rewardloop show", run.id, f"runs_dir={tmp_path}"])
    one.main()
    out = capsys.readouterr().out
    assert f"rm {run.id} of study demo: stopped" in out
    assert "stopped by Ctrl-C and saved at step 5 of 9" in out
    assert "best checkpoint: step 1, held_out/accuracy 70.0 (last 60.0)" in out
    assert f"go on with it: rewardloop rerun {run.id}" in out


def test_a_score_that_misses_0_by_rounding_has_no_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(tmp_path, "policy", job="ppo")
    write_json(eval_file(run.dir, 0), {AXIS: 0, "rm_score": -4.7e-9, "kl": 0.0})
    monkeypatch.setattr(sys, "argv", ["rewardloop show", run.id, f"runs_dir={tmp_path}"])
    one.main()
    out = capsys.readouterr().out
    assert "0.000" in out
    assert "-0.000" not in out


def test_a_run_that_is_not_there_ends_the_command_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rewardloop show", "nope", f"runs_dir={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        one.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("rewardloop show: nope is the folder, id, name or study of no run")


def test_show_tells_what_a_benchmark_and_best_of_n_found_once_they_are_finished(tmp_path: Path) -> None:
    record = one_run(made(tmp_path, "b", job="bench").id, tmp_path) | {"final": {"rewardbench2/overall": 0.5}}
    scores = "rewardbench2: overall 50.0 (points of 100 +- standard error)"
    assert scores in one.described(record)
    assert scores not in one.described({**record, "status": "failed"})
    pools = {**record, "job": "bon", "final": {}, "lineage": {"rewards": ["a"]}}
    unknown = "no correctness is known, so there is no accuracy; picks.jsonl has what each reward chose"
    assert unknown in one.described(pools)
    assert unknown not in one.described({**pools, "status": "stopped"})
