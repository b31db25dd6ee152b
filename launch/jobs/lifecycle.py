"""The life of a run, the same for every job: found finished or opened, tracked while it works, and closed with its results.

Imports no torch, so that a finished run is found without it.
"""

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.data.dates import pin_date
from core.disk import BrokenFileError
from core.hooks.hook import log_unlogged
from core.process.shortage import ShortageError, shortage, told
from core.process.signals import EXIT_CODE, INTERRUPTED, Preempted
from core.records import Tracker
from core.runs.record import (
    RECORD,
    Run,
    RunState,
    RunStatus,
    date_of,
    fail_run,
    finish_run,
    is_finished,
    open_run,
    read_record,
    run_of,
    stop_run,
)
from core.runs.trackers.mirror import Mirror, TrackedRun
from core.runs.trackers.mlflow_tracker import MLflow
from core.runs.trackers.tensorboard_tracker import TensorBoard
from core.runs.trackers.trackio_tracker import Trackio
from core.runs.trackers.wandb_tracker import WandbTracker
from core.runs.tracking import METRICS, JsonlTracker, Trackers
from launch.compose import Composed
from launch.identity import rounding_settings
from launch.settings import RunSettings, TrackerMode

if TYPE_CHECKING:
    from core.process.world import World

_SMALLER = {
    "rm": "lower micro_batch_tokens, max_length or hooks.batch_tokens, or set gradient_checkpointing=true, lora.rank or engine=fsdp2",
    "ppo": "lower micro_batch_size or max_new_tokens, or set gradient_checkpointing=true, lora.rank or engine=fsdp2",
    "bon": "lower rollout.batch_size, hooks.batch_tokens or hooks.max_length, or set model.dtype=bf16",
    "bench": "lower batch_tokens or max_length, or set reward.dtype=bf16",
}
"""By kind of run, the settings that take less memory."""
PASSES = "passes"
"""The key of a record for the settings of forward passes: what bounds memory and changes results by rounding alone."""

Record = dict[str, Any]
"""The record of a run (see `core.runs.record`), with its folder as `dir`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """The run that a job asks for: what kind it is, what it is called where the user gives no name, and what identifies it.

    `facts` stand in its record from the start, such as the lineage of its models.

    >>> RunPlan(kind="rm", name="tulu-lr3e-6", identity={"seed": 0}).facts
    {}
    """

    kind: str
    name: str
    identity: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


def finished_record(job: RunSettings, plan: RunPlan) -> Record | None:
    """The record of the planned run if it is finished already; None where there is work to do."""
    run = run_of(runs_dir=Path(job.runs_dir), study=job.study, job=plan.kind, name=job.name or plan.name, identity=plan.identity)
    return record_of(run) if is_finished(run) else None


def carry_out(
    composed: Composed[RunSettings],
    plan: RunPlan,
    work: Callable[[Run, Tracker], Mapping[str, Any]],
    *,
    world: "World",
    tidy: Callable[[Path], None] = lambda run_dir: None,
) -> Record:
    """Opens the planned run, does `work`, and closes the run with the results that it returns; returns the run's record.

    A finished run is left as it is, and a line says so. `tidy` is given the folder of a finished run: in the end, and again
    when it is found finished, in case its process was killed before it came to that. All processes of `world` call this and
    do the work; the main one alone writes. Whatever ends the work early is noted in the record and raised again.
    """
    job = composed.job
    run, state, day = world.from_main(lambda: _opened(composed, job, plan))
    if state == RunState.finished:
        if world.is_main:
            say_finished(run.dir)
            tidy(run.dir)
        return record_of(run)
    pin_date(day)
    with _tracked(job, run, plan) if world.is_main else _untracked(run, plan, world.rank) as tracker:
        results = work(run, tracker)
        if world.is_main:
            finish_run(run, **(_of_all_processes(results) if state == RunState.torn else results))
            tidy(run.dir)
    world.barrier()
    return record_of(run)


def carry_out_alone(composed: Composed[RunSettings], plan: RunPlan, work: Callable[[Run, Tracker], Mapping[str, Any]]) -> Record:
    """As `carry_out`, for work that one process does without torch."""
    run, state, _ = _opened(composed, composed.job, plan)
    if state != RunState.finished:
        with _tracked(composed.job, run, plan) as tracker:
            finish_run(run, **work(run, tracker))
    return record_of(run)


def _of_all_processes(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a run that was gone on with, without the times that are those of its last process alone. `wall_s` has all."""
    return {name: value for name, value in results.items() if name not in ("train_s", "hooks_s")}


def record_of(run: Run) -> Record:
    """The record of a run, with its folder as `dir`."""
    return {"dir": str(run.dir), **read_record(run.dir)}


def say_finished(run_dir: Path | str) -> None:
    """Tells the user that there is nothing to do."""
    print(f"{run_dir} is finished already", file=sys.stderr)


def _opened(composed: Composed[RunSettings], job: RunSettings, plan: RunPlan) -> tuple[Run, RunState, date]:
    """The run, how it was found, and its date for chat templates."""
    name, passes = job.name or plan.name, rounding_settings(job)
    run = run_of(runs_dir=Path(job.runs_dir), study=job.study, job=plan.kind, name=name, identity=plan.identity)
    before = _passes_before(run)
    run, state = open_run(
        runs_dir=Path(job.runs_dir),
        study=job.study,
        job=plan.kind,
        name=name,
        identity=plan.identity,
        config_yaml=composed.yaml,
        resume=job.resumes,
        extra={**plan.facts, **({PASSES: passes} if passes else {})},
    )
    changed = [f"{key}={passes[key]} ({value} before)" for key, value in before.items() if key in passes and passes[key] != value]
    if state == RunState.torn and changed:
        print(f"{run.dir} goes on with {', '.join(changed)}, which changes its results by rounding alone", file=sys.stderr)
    return run, state, date_of(read_record(run.dir))


def _passes_before(run: Run) -> Mapping[str, Any]:
    """The settings of the forward passes with which a run was last worked on, as far as its record says."""
    try:
        return read_record(run.dir).get(PASSES, {}) if (run.dir / RECORD).is_file() else {}
    except BrokenFileError:
        return {}


@contextmanager
def _tracked(job: RunSettings, run: Run, plan: RunPlan) -> Generator[Tracker]:
    """The tracker of a run; whatever ends the run early is noted in its record."""
    tracker: Tracker | None = None
    code = 1
    try:
        tracker = _tracker(job, run, plan)
        log_unlogged(run.dir, run.dir / METRICS, tracker)
        yield tracker
        code = 0
    except (Preempted, KeyboardInterrupt) as error:
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_CODE
        if _is_open(run):
            stop_run(run, str(error) or type(error).__name__)
        raise
    except BaseException as error:  # of any kind: the record says how the run ended
        said = _shortage(error, run, plan)
        if _is_open(run):
            fail_run(run, said or told(error))
        if said is None:
            raise
        raise ShortageError(said) from error
    finally:
        if tracker is not None:
            tracker.close(exit_code=code)


@contextmanager
def _untracked(run: Run, plan: RunPlan, rank: int) -> Generator[Tracker]:
    """What the other processes have for a tracker. If one of them fails alone, it says so in the record: the main one, which waits for it,
    is killed before it can."""
    try:
        yield Trackers([])
    except Exception as error:  # of any kind, likewise
        from core.process.together import failed_together  # imports torch, as this process has long done

        if not failed_together(error) and _is_open(run):
            fail_run(run, f"process {rank}: {_shortage(error, run, plan) or told(error)}")
        raise


def _is_open(run: Run) -> bool:
    """Whether no process has noted yet how the run ended: what comes after the first failure follows from it."""
    return read_record(run.dir)["status"] == RunStatus.running


def _shortage(error: BaseException, run: Run, plan: RunPlan) -> str | None:
    return shortage(error, run.dir, smaller=_SMALLER.get(plan.kind, "use smaller batches"))


def _tracker(job: RunSettings, run: Run, plan: RunPlan) -> Tracker:
    """Plain files, and beside them what the user chose."""
    chosen = job.tracker
    lineage = {key: plan.facts[key] for key in ("lineage",) if key in plan.facts}
    config = {**plan.identity, **lineage}
    trackers: list[Tracker] = [JsonlTracker(run.dir / METRICS)]
    if chosen.mode != TrackerMode.disabled:
        named = {"project": chosen.project, "name": run.dir.name, "group": job.study, "job": plan.kind}
        trackers.append(WandbTracker(**named, dir=run.dir, config=config, mode=chosen.mode, id=run.id))
    tracked = TrackedRun(dir=run.dir, id=run.id, job=plan.kind, study=job.study, project=chosen.project, config=config)
    mirrors = {TensorBoard: chosen.tensorboard, MLflow: chosen.mlflow, Trackio: chosen.trackio}
    trackers += [Mirror(mirror(tracked), run.dir) for mirror, is_chosen in mirrors.items() if is_chosen]
    return Trackers(trackers)
