"""Runs are found by folder, id, name, study and pattern, and a killed one is told from one that runs."""

from pathlib import Path

import pytest

from core.runs.record import fail_run
from launch.history.find import find_runs, one_run, status_of
from tests.launch.history.runs import made


def names(terms: list[str], runs_dir: Path) -> list[str]:
    return [Path(record["dir"]).name.rpartition("-")[0] for record in find_runs(terms, runs_dir)]


def test_a_term_is_a_folder_an_id_a_name_a_study_or_a_pattern(tmp_path: Path) -> None:
    tulu, _, other = made(tmp_path, "tulu-lr1e-5"), made(tmp_path, "tulu-lr1e-6"), made(tmp_path, "tulu-lr1e-5", study="sweep")
    assert names([tulu.id], tmp_path) == ["rm-tulu-lr1e-5"]
    assert names([str(other.dir)], tmp_path / "nowhere") == ["rm-tulu-lr1e-5"]
    assert names([str(tmp_path / "demo")], tmp_path / "nowhere") == ["rm-tulu-lr1e-5", "rm-tulu-lr1e-6"]
    assert names(["demo"], tmp_path) == ["rm-tulu-lr1e-5", "rm-tulu-lr1e-6"]
    assert len(find_runs(["rm-*1e-5*"], tmp_path)) == 2
    assert [record["id"] for record in find_runs(["sweep/rm-tulu-lr1e-5"], tmp_path)] == [other.id]  # as runs are listed
    assert len(find_runs(["sweep/*", "rm-tulu-lr1e-5", other.id], tmp_path)) == 2  # each once


def test_a_term_that_names_no_run_is_refused_and_so_are_several_where_one_is_meant(tmp_path: Path) -> None:
    made(tmp_path, "a")
    made(tmp_path, "b")
    with pytest.raises(ValueError, match=r"nope is the folder, id, name or study of no run under .*`rewardloop runs runs_dir="):
        find_runs(["demo", "nope"], tmp_path)
    with pytest.raises(ValueError, match="names 2 runs"):
        one_run("rm-*", tmp_path)


def test_a_run_without_a_process_is_killed(tmp_path: Path) -> None:
    run = made(tmp_path, "a", status="running")
    [record] = find_runs([run.id], tmp_path)
    assert status_of(record) == "running"
    fail_run(run, "it lets go of its lock")
    assert status_of(record) == "killed"  # as the record was when its process ended
