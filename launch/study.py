"""`rewardloop study`: reward models, best-of-N and PPO side by side, and what the benchmark says of them."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.progress import Progress
from launch.entry import Composed, combinations, composed, start
from launch.inputs import check_inputs
from launch.scheduler import Failure, Job, run_jobs
from launch.schema import BoNJob, Launch, Lineage, Pick, PPOPlan, RewardChoice, RMJob, StudyJob

PRELOAD = ("launch.preload",)


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOArgument:
    """What the process of a PPO run needs: its configuration, complete once its reward model is known."""

    overrides: tuple[str, ...]


def run(composed_study: Composed) -> tuple[dict[str, Any], Path]:
    """Runs what is not finished yet and returns the summary and the path of its report.

    Every configuration is composed, and so checked, before the first job starts. Raises `RuntimeError` at the end if
    jobs failed; the report then covers the others.
    """
    from evalhooks.report.summary import read_summary
    from launch.display import display
    from launch.report import build

    started, begun = time.monotonic(), datetime.now(UTC).isoformat(timespec="milliseconds")
    study = composed_study.job
    assert isinstance(study, StudyJob)
    folder = Path(study.runs_dir) / study.study
    jobs = plan(study, folder)
    shown = display(len(jobs))
    slots, threads, gpus = _slots(study.parallel)
    try:
        results = run_jobs(jobs, slots=slots, threads=threads, gpus=gpus, logs=folder / "logs", display=shown, preload=PRELOAD)
    finally:
        shown.close()
    failures = {key: result for key, result in results.items() if isinstance(result, Failure)}
    records = [result for result in results.values() if isinstance(result, dict) and "job" in result]
    if isinstance(results["pools"], Failure) or not any(record["job"] == "rm" for record in records):
        raise RuntimeError("; ".join(f"{key}: {failure.message} (see {failure.log})" for key, failure in failures.items()))
    wall_s = time.monotonic() - started
    if (folder / "report" / "summary.json").is_file() and all(record["finished"] < begun for record in records):
        wall_s = read_summary(folder / "report")["wall_s"]  # nothing had to be run again
    summary, path = build(
        study=study.study, folder=folder, records=records, pools=Path(results["pools"]["dir"]),
        wall_s=wall_s, notes=study.notes,
    )  # fmt: skip
    if failures:
        lines = [f"{key}: {failure.message} (see {failure.log})" for key, failure in failures.items()]
        raise RuntimeError(f"{len(failures)} of {len(jobs)} jobs failed; the report at {path} covers the others\n  " + "\n  ".join(lines))
    return summary, path


def plan(study: StudyJob, folder: Path) -> list[Job]:
    """All jobs of a study, in the order in which they should be taken up."""
    common = [f"study={study.study}", f"runs_dir={study.runs_dir}", f"world={_world(study, folder)}", *study.common]
    jobs: list[Job] = []
    before: list[str] = []
    if study.embedded:
        jobs.append(Job(key="world", run=_make_world, argument=lambda _: (study, folder)))
        for lineage in _lineages():
            policy = (study, folder, lineage)
            jobs.append(Job(key=f"policy-{lineage}", run=_make_policy, argument=lambda _, policy=policy: policy, after=("world",)))
        before = [job.key for job in jobs]
    pools = composed("bon", [*common, *study.pools])
    assert isinstance(pools.job, BoNJob)
    needed = tuple(key for key in before if key in ("world", f"policy-{Path(pools.job.model.path).name}"))
    jobs.append(Job(key="pools", run=_run_bon, argument=lambda _: pools, after=needed))
    models = {f"rm-{i:02d}": composed("rm", line) for i, line in enumerate(_lines(study, common), 1)}
    checked: list[Launch] = [pools.job, *(model.job for model in models.values())]
    # PPO runs stand before the reward models, since they take longest: each starts as soon as those it chooses from are done.
    for name, planned in study.ppo.items():
        overrides = [*common, f"seed={study.seed}", f"name={name}", *planned.overrides]
        policy = composed("ppo", [*overrides, "reward.path=unknown-yet"]).job
        checked.append(policy)
        after = tuple(key for key, model in models.items() if _could_be(planned.reward, model.job, policy.model.path))
        if not after:
            raise ValueError(f"ppo.{name}.reward fits none of the study's reward models; change its lineage or control.")
        argument = _ppo_argument(planned, overrides, after)
        jobs.append(Job(key=f"ppo-{name}", run=_run_ppo, argument=argument, after=after, any_of=True))
    for key, model in models.items():
        waits = tuple(k for k in before if k == f"policy-{Path(model.job.model.path).name}")
        jobs.append(Job(key=key, run=_run_rm, argument=lambda _, model=model: model, after=(*waits, "pools")))
    if not study.embedded:  # what an embedded world brings is not there yet
        for job in checked:
            check_inputs(job)
    return jobs


def _ppo_argument(planned: PPOPlan, overrides: Sequence[str], after: Sequence[str]) -> Any:
    def argument(results: Mapping[str, Any]) -> PPOArgument:
        chosen = choose([results[key] for key in after if not isinstance(results[key], Failure)], planned.reward.pick)
        return PPOArgument(overrides=(*overrides, f"reward.path={chosen['dir']}"))

    return argument


def choose(records: Sequence[Mapping[str, Any]], pick: Pick) -> Mapping[str, Any]:
    """The record with the best or worst benchmark score: RewardBench 2 overall, or the mean of the domains where one is missing."""

    def score(record: Mapping[str, Any]) -> float:
        final = record["final"]
        domains = [value for key, value in final.items() if key.startswith("rewardbench2/")]
        return final.get("rewardbench2/overall", sum(domains) / max(1, len(domains)))

    return max(records, key=score) if pick == Pick.best else min(records, key=score)


def _could_be(choice: RewardChoice, model: RMJob, policy: str) -> bool:
    """Whether a reward model is among those that a PPO run chooses from."""
    same = model.model.path == policy
    fits = {Lineage.any: True, Lineage.same: same, Lineage.other: not same}[choice.lineage]
    return fits and choice.control == (model.data.flip > 0)


def _lines(study: StudyJob, common: Sequence[str]) -> list[list[str]]:
    """The override lists of all reward models, sweeps expanded."""
    return [[*common, f"seed={study.seed}", *line] for text in study.reward_models for line in combinations(text.split())]


def _world(study: StudyJob, folder: Path) -> Path:
    return folder / f"world-{study.world.seed}"


def _lineages() -> tuple[str, ...]:
    from microworld.world import LINEAGES

    return LINEAGES


def _slots(parallel: int) -> tuple[int, int, bool]:
    """Jobs at a time, threads of each, and whether they are spread over GPUs."""
    import torch

    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    slots = parallel or gpus or cores
    return slots, max(1, cores // slots), gpus > 0


# What runs in a process of its own: functions of this module, found there by name.


def _make_world(argument: tuple[StudyJob, Path], progress: Progress) -> str:
    from microworld.world import build_world

    study, folder = argument
    progress.start("building the world", 1)
    return str(build_world(study.world, _world(study, folder)))


def _make_policy(argument: tuple[StudyJob, Path, str], progress: Progress) -> str:
    from microworld.policy import train_policy

    study, folder, lineage = argument
    world = _world(study, folder)
    progress.start("SFT", study.world.corpus_size)
    return str(train_policy(world, lineage, study.policy, world / "policies" / lineage, progress.advance))


def _run_bon(pools: Composed, progress: Progress) -> dict[str, Any]:
    from launch import bon

    return bon.run(pools, progress)


def _run_rm(model: Composed, progress: Progress) -> dict[str, Any]:
    from launch import rm

    return rm.run(model, progress)


def _run_ppo(argument: PPOArgument, progress: Progress) -> dict[str, Any]:
    from launch import ppo

    return ppo.run(composed("ppo", argument.overrides), progress)


def _command(composed_study: Composed) -> None:
    from rich.console import Console

    from evalhooks.report import print_report

    summary, path = run(composed_study)
    # A log has no width of its own; 120 columns hold every task.
    print_report(summary, path, Console(width=None if sys.stdout.isatty() else 120))


def main() -> None:
    """Entry point."""
    start("study", _command)


if __name__ == "__main__":
    main()
