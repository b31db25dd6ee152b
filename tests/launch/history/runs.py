"""Runs on disk as commands find them, made without training."""

from pathlib import Path
from typing import Any

from core.disk import write_json
from core.hooks.hook import eval_file
from core.records import AXIS
from core.runs.record import Run, finish_run, open_run, stop_run


def made(runs_dir: Path, name: str, *, study: str = "demo", job: str = "rm", status: str = "finished", **course: float) -> Run:
    """A run with `held_out/accuracy` by step, given as s1=0.5; of one process that is gone if its status is "running"."""
    run, _ = open_run(
        runs_dir=runs_dir, study=study, job=job, name=name, identity={"name": name, "study": study, "job": job}, config_yaml="epochs: 1\n"
    )
    values = {int(step[1:]): value for step, value in course.items()}
    for step, value in values.items():
        write_json(eval_file(run.dir, step), {AXIS: step, "held_out/accuracy": value})
    best = max(values, key=lambda step: values[step], default=0)
    results: dict[str, Any] = {"final": {}, "step": max(values, default=0), "best_step": best, "best_metric": "held_out/accuracy"}
    if status == "finished":
        finish_run(run, **results)
    elif status == "stopped":
        stop_run(run, "stopped by Ctrl-C and saved at step 5 of 9; the same command goes on from there")
    return run
