"""A run's configuration, composed once more, is the same configuration; other settings are other runs."""

from pathlib import Path

import pytest

from core.runs.record import open_run
from launch.compose import composed
from launch.history.find import one_run
from launch.history.rerun import arguments_of
from launch.overrides.command_line import parse
from launch.schema import BenchJob, BoNJob, PPOJob, RMJob

CASES = {
    "rm": (RMJob, ["model=custom", "model.path=org/base", "data=custom", "data.paths=[pairs.jsonl]", "optim.lr=3e-6"]),
    "a microworld's rm": (RMJob, ["data=union", "seed=3"]),
    "ppo": (PPOJob, ["model=custom", "model.path=org/base", "reward.path=org/rm", "prompts=[p.jsonl]", "best_metric=rm_score"]),
    "a microworld's ppo": (PPOJob, ["reward.path=org/rm"]),
    "bench": (BenchJob, ["reward.path=org/rm", "rows=rows.jsonl", "limit=0.5"]),
    "bon": (BoNJob, ["model=custom", "model.path=org/base", "tasks=gsm8k", "tasks.gsm8k.path=t.jsonl", "rewards=[org/rm]", "pool.n=4"]),
    "a microworld's bon": (BoNJob, ["rewards=[org/rm]"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_settings_of_a_run_are_kept_but_for_those_that_are_given(tmp_path: Path, case: str) -> None:
    schema, overrides = CASES[case]
    first = composed(schema, [*overrides, f"runs_dir={tmp_path}", "study=a"])
    job = case.split()[-1]
    run, _ = open_run(runs_dir=tmp_path, study="a", job=job, name="x", identity={"case": case}, config_yaml=first.yaml)
    (tmp_path / "settings").mkdir()
    arguments = arguments_of(one_run(run.id, tmp_path), job, ["tracker.project=other", "dry_run=true"], tmp_path / "settings")
    again = composed(schema, parse(schema, arguments).overrides).job
    assert (again.tracker.project, again.dry_run) == ("other", True)
    again.tracker.project, again.dry_run = first.job.tracker.project, False
    assert again == first.job
