"""Training of a reward model as a job: its hooks, its run, and what the record says of its end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bon.pools import load_pools
from bon.rows import Pools
from core.data.token_rows import require_readable
from core.engines.resume import forget_states
from core.hooks.hook import Hook
from core.hooks.run_context import RunContext
from core.models.load import load_tokenizer
from core.process.world import join_world
from core.progress import NoProgress, Progress
from core.records import Tracker
from core.runs.record import Run
from core.runs.retention import kept
from core.runs.warnings import few_held_out, rows_left_out
from evalhooks.checkpoints import HeldOutHook, RewardModelHook
from evalhooks.config import Where
from launch.compose import Composed
from launch.entry import print_on_main, rank
from launch.inputs import RMInputs
from launch.jobs import samples
from launch.jobs.lifecycle import Record, RunPlan, carry_out
from launch.schema import RMJob
from rmtrain.tokens import comparable
from rmtrain.train import train


def run(composed: Composed[RMJob], plan: RunPlan, inputs: RMInputs, progress: Progress) -> Record:
    """Trains the reward model and returns the record of its run. Where several processes were started together, all of them call it."""
    job = composed.job
    pools = load_pools(Path(job.hooks.pools)) if job.hooks.pools else {}  # first: if they cannot be read, they leave no run behind
    hooks = _hooks(job, inputs, pools, progress)
    num_held_out = next((len(hook.pairs) for hook in hooks if isinstance(hook, HeldOutHook)), 0)
    world = join_world()

    def work(run: Run, tracker: Tracker) -> Mapping[str, Any]:
        context = RunContext(dir=run.dir, world=world, hooks=hooks, tracker=tracker, progress=progress)
        context.warn(rows_left_out(inputs.preferences.counts["sources"]))
        if job.data.held_out or job.data.validation:
            context.warn(few_held_out(num_held_out, num_held_out, max_length=job.max_length, validation=job.data.validation))
        context.warn(*samples.of_hooks(job.hooks, inputs.benchmarks.rewardbench2, inputs.benchmarks.rewardbench1), samples.of_pools(pools))
        separate = job.hooks.device if job.hooks.where == Where.separate else None
        outcome = train(job, context, preferences=inputs.preferences.training, separate=separate)
        return {
            "final": dict(outcome.metrics),
            "step": outcome.step,
            "best_step": outcome.best_step,
            "best_metric": outcome.best_metric,
            "best": dict(outcome.best),
            "num_pairs": outcome.num_pairs,
            "num_dropped_pairs": outcome.num_dropped,
            "num_cut_pairs": outcome.num_cut,
            "num_equal_pairs": outcome.num_equal,
            "num_broken_pairs": outcome.num_broken,
            "train_s": outcome.train_s,
            "hooks_s": outcome.hooks_s,
            "checkpoints": kept(run.dir, job.keep),
        }

    return carry_out(composed, plan, work, world=world, tidy=forget_states)


def _hooks(job: RMJob, inputs: RMInputs, pools: Pools, progress: Progress) -> list[Hook]:
    """Raises `ValueError` for rows that the model's chat template refuses."""
    tokenizer = load_tokenizer(job.model)
    benchmarks = [*inputs.benchmarks.rewardbench2, *inputs.benchmarks.rewardbench1]
    measured = {row.where or row.id: row.dialogue for row in benchmarks}
    measured |= {f"{task}, {row.id}": row.prompt for task, rows in pools.items() for row in rows}
    require_readable(tokenizer, measured, "what the hooks score", say=print_on_main)
    hooks: list[Hook] = [
        RewardModelHook(
            rewardbench2=inputs.benchmarks.rewardbench2,
            rewardbench1=inputs.benchmarks.rewardbench1,
            pools=pools,
            best_of=job.hooks.best_of,
            batch_tokens=job.hooks.batch_tokens,
            max_length=job.hooks.max_length,
        )
    ]
    held_out = comparable(
        inputs.preferences.held_out,
        tokenizer,
        skip_broken=job.data.skip_broken,
        progress=progress if rank() == 0 else NoProgress(),
        say=print_on_main,
    )
    if held_out:
        hooks.append(HeldOutHook(held_out, max_length=job.max_length, batch_tokens=job.hooks.batch_tokens))
    return hooks
