"""What several jobs build from their configuration: hooks, trackers, rewards, identities."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bon.pools import load_pools
from core.config import ModelConfig
from core.models.adapters import model_fingerprint
from core.process.signals import Preempted
from core.records import Sampling, Scorer, Tracker
from core.runs.identity import fingerprint
from core.runs.record import Run, RunState, fail_run, open_run, read_record, stop_run
from core.runs.tracking import JsonlTracker, Trackers, WandbTracker
from evalhooks.checkpoints import PolicyHook, RewardModelHook
from evalhooks.config import HooksConfig, SamplingConfig, TaskConfig
from evalhooks.tasks.task import load_tasks
from launch.entry import Composed
from launch.inputs import BenchmarkRows
from launch.schema import NO_MATTER, RunSettings

KEYS = {"model": "model.path", "reward": "reward.path"}


def tracker_of(job: RunSettings, run: Run, config: Mapping[str, Any]) -> Tracker:
    """Plain files, and W&B beside them unless it is disabled."""
    files = JsonlTracker(run.dir / "metrics.jsonl")
    if job.tracker.mode == "disabled":
        return files
    wandb = WandbTracker(
        project=job.tracker.project, name=run.dir.name, group=job.study, dir=run.dir, config=config, mode=job.tracker.mode, id=run.id
    )
    return Trackers([files, wandb])


def opened(composed: Composed, kind: str, name: str, identity: Mapping[str, Any], **extra: Any) -> tuple[Run, bool]:
    """The run of a job, and whether there is still work to do: a finished one is left as it is, and a line says so."""
    job = composed.job
    assert isinstance(job, RunSettings)
    run, state = open_run(
        runs_dir=Path(job.runs_dir),
        study=job.study,
        job=kind,
        name=job.name or name,
        identity=identity,
        config_yaml=composed.yaml,
        resume=job.resumes,
        extra=extra,
    )
    if state == RunState.finished:
        print(f"{run.dir} is finished already", file=sys.stderr)
    return run, state != RunState.finished


def record_of(run: Run) -> dict[str, Any]:
    """The record of a run, with its folder as `dir`."""
    return {"dir": str(run.dir), **read_record(run.dir)}


@contextmanager
def tracked(job: RunSettings, run: Run, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """The tracker of a run; whatever ends the run before its time is written to its record."""
    tracker: Tracker | None = None
    try:
        tracker = tracker_of(job, run, config)
        yield tracker
    except (Preempted, KeyboardInterrupt) as error:
        stop_run(run, str(error) or type(error).__name__)
        raise
    except BaseException as error:
        fail_run(run, f"{type(error).__name__}: {error}")
        raise
    finally:
        if tracker is not None:
            tracker.close()


def reward_model_hook(hooks: HooksConfig, rows: BenchmarkRows) -> RewardModelHook:
    """The hook of reward-model training; raises `ValueError` for pools that cannot be read, before any training."""
    return RewardModelHook(
        rewardbench2=rows.rewardbench2,
        rewardbench1=rows.rewardbench1,
        pools=load_pools(Path(hooks.pools)) if hooks.pools else None,
        best_of=hooks.best_of,
        batch_tokens=hooks.batch_tokens,
        max_length=hooks.max_length,
    )


def policy_hook(hooks: HooksConfig, tasks: Mapping[str, TaskConfig], scorer: Scorer | None, static: Mapping[str, float]) -> PolicyHook:
    """The hook of a policy; `static` is logged beside what it measures at every checkpoint."""
    return PolicyHook(tasks=load_tasks(tasks), sampling=sampling_of(hooks.downstream), scorer=scorer, static=static)


def sampling_of(config: SamplingConfig) -> Sampling:
    """The sampling that a configuration asks for."""
    return Sampling(n=config.n, temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=config.seed)


def identity_of(config: Any, *, models: Mapping[str, ModelConfig], files: Mapping[str, str]) -> dict[str, Any]:
    """What determines a result: the settings, with every input by its content instead of its place."""
    settings = asdict(config)
    for key in (*NO_MATTER, "name", "dry_run"):  # the last two are a label and a question
        *above, own = key.split(".")
        place = settings
        for part in above:
            place = place.get(part, {})
        place.pop(own, None)
    settings.pop("tracker", None)
    inputs = {key: model_fingerprint(model, KEYS[key]) for key, model in models.items()}
    inputs |= {key: fingerprint(path) for key, path in files.items() if path}
    return {**_without_paths(settings), "inputs": inputs}


def _without_paths(value: Any) -> Any:
    """The settings without the keys that name places: their contents stand among the inputs."""
    if isinstance(value, dict):
        places = {"path", "paths", "prompts", "pools", "rewardbench2", "rewardbench1", "lineage"}
        return {key: _without_paths(item) for key, item in value.items() if key not in places}
    return value
