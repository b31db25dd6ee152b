"""`rewardloop bon`: pools of completions, drawn once or given, and what rewards pick from them."""

import hashlib
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bon.ensembles import MEMBERS
from bon.rows import Pools
from core.data.dialogues import messages_of
from core.data.fingerprint import fingerprint, program_fingerprint
from core.data.rows import dataset_name
from core.disk import is_complete, read_json
from core.functions import load_function
from core.models.locate import resolve
from core.models.origin import lineage_of, trained_from
from core.process.signals import stopping_at_once
from core.progress import Progress, console_progress
from core.records import Prompt
from core.runs.identity import INPUTS, clean_name, identity_hash
from core.runs.record import read_record
from core.shares import with_error
from core.text import printable
from evalhooks.judges.config import require_usable
from evalhooks.tasks.task import Task, load_drawn_tasks
from launch.compose import ConfigError
from launch.entry import Composed, print_on_main, rank, start
from launch.identity import identity_of, identity_of_part
from launch.inputs import BoNInputs, BoNResult, read_pools
from launch.jobs import generators
from launch.jobs.bon_result import AVERAGE, ORACLE, RANDOM, RESERVED, RESULT
from launch.jobs.lifecycle import Record, RunPlan, finished_record, say_finished
from launch.obstacles import task_obstacle
from launch.rewards.config import KINDS, RewardConfig, RewardKind, typed_reward
from launch.rewards.locate import LocatedReward, locate_reward, runs_ending_in, try_program, with_chosen
from launch.schema import BoNJob
from launch.sweep import WIDTH
from launch.terminal.closing import bon_lines


def run(composed: Composed[BoNJob], progress: Progress) -> Record:
    """The record of a configuration's run: the finished one, if its pools are still there, or that of a new one."""
    scorers = {f"scorers.{name}": reward for name, reward in composed.job.scorers.items()}
    composed = with_chosen(BoNJob, composed, scorers, composed.job.runs_dir, print_on_main)
    job = composed.job
    inputs = bon_inputs(job)
    folder = pools_folder(job, inputs)
    plan = plan_of(job, inputs, folder)
    record = finished_record(job, plan)
    if record is not None and (inputs.given or is_complete(Path(folder))):
        if rank() == 0:
            say_finished(record["dir"])
        return record

    with stopping_at_once():
        from core.process.world import join_world
        from launch.jobs import bon  # torch, which takes seconds: what is likely to be wrong has been found by now

    if record is not None:
        print_on_main(f"{record['dir']} is finished, and its pools in {folder} are gone: they are drawn again")
        bon.drawn(job, bon.pool_plan(job, inputs), Path(folder), join_world(), progress)
        return record
    return bon.run(composed, plan, inputs, folder, progress)


def bon_inputs(job: BoNJob) -> BoNInputs:
    """What a job reads. Raises `ValueError` for tasks, pools and rewards that are missing or cannot be read; loads no model."""
    given: Pools = {}
    tasks: Mapping[str, Task] = {}
    if job.takes_pools:
        given = read_pools(job.pools)
        print_on_main(f"{job.pools}: {_sizes(given)}, taken as they are (model.path, tasks and pool.* are not read)")
    else:
        if missing := task_obstacle(job):
            raise ValueError(missing)
        resolve(job.model)
        tasks = load_drawn_tasks(job.tasks)
    if job.vote:
        load_function(job.vote, "vote:")
    identity = {"given": fingerprint(job.pools)} if job.takes_pools else identity_of(job)
    return BoNInputs(tasks=tasks, given=given, rewards=_located(job, tasks, given), identity=identity)


def plan_of(job: BoNJob, inputs: BoNInputs, folder: str) -> RunPlan:
    """The run of a job. A reward that may score otherwise another day gets a new run every time."""
    varies = any(KINDS[reward.config.kind].varies for reward in inputs.rewards.values())
    rewards = {name: identity_of_part(reward.config, f"rewards.{name}", job.runs_dir) for name, reward in inputs.rewards.items()}
    identity: dict[str, Any] = {
        "pools": inputs.identity,
        "rewards": rewards,
        "best_of": job.best_of,
        "max_length": job.hooks.max_length,
        "vote": [job.vote, program_fingerprint(job.vote)] if job.vote else None,
        **({"asked": datetime.now(UTC).isoformat()} if varies else {}),
    }
    base = "" if inputs.given else lineage_of(job.model)
    model = base if Path(job.model.path).exists() else job.model.path.partition("@")[0].removeprefix("pip:")
    tasks = next(iter(inputs.tasks)) if len(inputs.tasks) == 1 else f"{len(inputs.tasks)}-tasks"
    name = dataset_name(job.pools) if inputs.given else f"{model.rpartition('/')[2]}-{tasks}"
    lineage = {"pools": folder, "rewards": list(inputs.rewards)} | ({} if inputs.given else {"base": base, "model": job.model.path})
    kinds = (RewardKind.model, RewardKind.dpo)
    lineage["reward_models"] = {
        name: trained_from(next(iter(reward.models.values()))) for name, reward in inputs.rewards.items() if reward.config.kind in kinds
    }
    return RunPlan(kind="bon", name=name, identity=identity, facts={"lineage": lineage})


def pools_folder(job: BoNJob, inputs: BoNInputs) -> str:
    """Where the pools lie: under `pools`, or else beside the run, by a name that tells policies, sampling and prompts apart."""
    if job.pools:
        return str(Path(job.pools).expanduser()) if job.pools.startswith("~") else job.pools
    rows = [[task, row.id, messages_of(row.dialogue)] for task, own in inputs.tasks.items() for row in own.prompts[: job.pool.limit]]
    prompts = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    model = {key: value for key, value in inputs.identity[INPUTS].items() if key.startswith("model.")}
    known = {"model": inputs.identity["model"], INPUTS: model, "pool": inputs.identity["pool"], "prompts": prompts}
    return f"{job.runs_dir}/{clean_name(job.study)}/pools-{identity_hash(known)}"


def _located(job: BoNJob, tasks: Mapping[str, Task], given: Pools) -> dict[str, LocatedReward]:
    """The rewards by name, found and not yet loaded; programs are tried on the first prompt."""
    prompts = [prompt for task in tasks.values() for prompt in task.prompts]
    rows = [row for own in given.values() for row in own]
    first = prompts[0] if prompts else Prompt(id=rows[0].id, dialogue=rows[0].prompt)
    found: dict[str, LocatedReward] = {}
    for name, (key, reward) in _configured(job).items():
        reward.require_complete(key)
        reward.require_scores_alone(key)
        if reward.kind == RewardKind.verifier and not tasks:
            raise ValueError(f"{key}.kind=verifier judges by the references of tasks, and pools={job.pools} has none; leave it out.")
        if reward.kind == RewardKind.judge:
            require_usable(reward.judge)
        found[name] = locate_reward(reward, job.runs_dir, key, say=print_on_main)
        try_program(reward, first, key, completions=rows[0].completions if rows else ("",))
    return found


def _configured(job: BoNJob) -> dict[str, tuple[str, RewardConfig]]:
    """The rewards by their names, each with its key. Raises `ValueError` for a name that is taken."""
    named = _names(list(dict.fromkeys(job.rewards)), job.runs_dir)
    found = {
        name: (f"rewards[{number}]", RewardConfig(path=path, dtype=job.model.dtype)) for number, (path, name) in enumerate(named.items())
    }
    for name, value in job.scorers.items():
        taken = name in RESERVED or name.startswith(f"{MEMBERS}-") or clean_name(name) in found
        if taken or set(name) & set("/@"):
            raise ConfigError(
                f"scorers.{name} has a name that is taken, or none for a metric; choose another, as in scorers.length.kind=function."
            )
        found[name] = (f"scorers.{name}", typed_reward(name, value, "scorers"))
    return found


def _names(paths: list[str], runs_dir: str) -> dict[str, str]:
    """A name for each path: its end, of a checkpoint that of the run and the step, of a run's id the name of the run; all of it, or the
    name and the id, where two would share one."""
    short: dict[str, str] = {}
    runs: dict[str, str] = {}
    for path in paths:
        if len(found := runs_ending_in(path, runs_dir) or []) == 1:
            record = read_record(found[0])
            short[path], runs[path] = clean_name(str(record["name"])), clean_name(f"{record['name']}-{record['id']}")
            continue
        parts = Path(path).parts
        end = f"{parts[-3]}-{parts[-1]}" if len(parts) > 2 and parts[-2] == "checkpoints" else parts[-1] if parts else path
        short[path] = clean_name(end.removeprefix("pip:"))
    shared = [name for name in short.values() if list(short.values()).count(name) > 1 or name in RESERVED or name.startswith(f"{MEMBERS}-")]
    return {path: runs.get(path) or clean_name(path.replace("/", "-")) if name in shared else name for path, name in short.items()}


def _sizes(pools: Pools) -> str:
    found = [len(row.completions) for rows in pools.values() for row in rows]
    many = f"{min(found)}" if min(found) == max(found) else f"{min(found)} to {max(found)}"
    known = sum(bool(row.correct) for rows in pools.values() for row in rows)
    correct = "with correctness" if known == len(found) else f"{known} of them with correctness" if known else "without correctness"
    return f"{len(found)} prompts x {many} completions, {correct}"


def result_of(record: Record) -> BoNResult:
    """What the run of a record has found."""
    folder = Path(record["dir"])
    found = read_json(folder / RESULT, remedy=f"remove the folder {folder} to measure again")
    return BoNResult(dir=found["pools"], run=str(folder), n=found["n"], bounds=found["bounds"], rewards=found["rewards"])


def _command(composed: Composed[BoNJob]) -> Record:
    with console_progress() as progress:
        record = run(composed, progress)
    if rank() == 0:
        _print(record)
        print_on_main("\n".join(bon_lines(record)))
    return record


def _print(record: Record) -> None:
    """The table of rewards and tasks."""
    result = read_json(Path(record["dir"]) / RESULT, remedy=f"remove the folder {record['dir']} to measure again")
    if not result["tasks"]:
        return
    tasks, size = list(result["tasks"]), max(result["sizes"])
    console, table = Console(width=None if sys.stdout.isatty() else WIDTH), Table()
    title = printable(f"best of {size} from {result['pools']}: accuracy in points of 100, +- one standard error of the choice of prompts")
    console.print(escape(title), soft_wrap=True, highlight=False)  # may be wider than the table
    for column in ("reward", *tasks, AVERAGE):
        table.add_column(escape(printable(column)), overflow="fold", justify="left" if column == "reward" else "right")
    final = record["final"]
    for name in (RANDOM, *result["rewards"], "majority", ORACLE):
        cells = [_cell(final, name, task, size) for task in (*tasks, AVERAGE)]
        table.add_row(escape(printable(f"{name} @{size}" if name != RANDOM else name)), *cells)
    console.print(table)


def _cell(final: Mapping[str, float], name: str, task: str, size: int) -> str:
    value, error = final.get(f"bon/{name}/{task}@{size}"), final.get(f"bon_se/{name}/{task}@{size}")
    return "n/a" if value is None else with_error(value, error)


def main() -> None:
    """Entry point; `bon generators A B` is a command of its own."""
    if sys.argv[1:2] == ["generators"]:
        generators.main(sys.argv[2:])
        return
    start(BoNJob, _command)


if __name__ == "__main__":
    main()
