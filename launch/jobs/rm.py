"""Training of a reward model as a job: its hooks, its run, and what the record says of its end."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bon.pools import load_pools
from core.data.token_rows import require_readable
from core.engines.resume import forget_states
from core.hooks.hook import Hook
from core.hooks.run_context import RunContext
from core.models.load import load_tokenizer
from core.models.positions import limit_of
from core.process.world import join_world
from core.progress import NoProgress, Progress
from core.records import Preference, Tracker
from core.runs.record import Run
from core.runs.retention import kept
from core.runs.warnings import few_held_out, rows_left_out
from evalhooks.budget import rows_within_budget
from evalhooks.checkpoints.held_out import HeldOutHook
from evalhooks.checkpoints.reward_model import RewardModelHook
from evalhooks.config import Where
from evalhooks.measured_rows import kept_sizes
from evalhooks.row_share import LORA_PASSES, PASSES, Scored, Trained
from launch.compose import Composed
from launch.entry import print_on_main, rank
from launch.inputs import RMInputs
from launch.jobs import samples
from launch.jobs.lifecycle import Record, RunPlan, carry_out
from launch.schema import RMJob
from rmtrain.batches import num_steps, planned_steps
from rmtrain.tokens import comparable, tokenize
from rmtrain.train import train


def run(composed: Composed[RMJob], plan: RunPlan, inputs: RMInputs, progress: Progress) -> Record:
    """Trains the reward model and returns the record of its run. Where several processes were started together, all of them call it."""
    job = composed.job
    scored = _scored(job, inputs, progress)
    _hooks(job, scored)  # what is refused, here and above, leaves no run behind
    world = join_world()

    def work(run: Run, tracker: Tracker) -> Mapping[str, Any]:
        context = RunContext(dir=run.dir, world=world, tracker=tracker, progress=progress)
        context.warn(rows_left_out(inputs.preferences.counts["sources"]))
        measured = _within_budget(job, inputs, scored, context)
        if job.data.held_out or job.data.validation:
            num_held_out = len(measured.held_out)
            context.warn(few_held_out(num_held_out, num_held_out, max_length=job.max_length, validation=job.data.validation))
        context.warn(*samples.of_hooks(job.hooks, measured.rewardbench2, measured.rewardbench1), samples.of_pools(measured.pools))
        separate = job.hooks.device if job.hooks.where == Where.separate else None
        training = replace(context, hooks=_hooks(job, measured))
        outcome = train(job, training, preferences=inputs.preferences.training, separate=separate)
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
            **kept_sizes(run.dir),
        }

    return carry_out(composed, plan, work, world=world, tidy=forget_states)


def _scored(job: RMJob, inputs: RMInputs, progress: Progress) -> Scored:
    """What the hooks score. Raises `ValueError` for rows that the model's chat template refuses."""
    tokenizer = load_tokenizer(job.model)
    pools = load_pools(Path(job.hooks.pools)) if job.hooks.pools else {}
    benchmarks = [*inputs.benchmarks.rewardbench2, *inputs.benchmarks.rewardbench1]
    measured = {row.where or row.id: row.dialogue for row in benchmarks}
    measured |= {f"{task}, {row.id}": row.prompt for task, rows in pools.items() for row in rows}
    require_readable(tokenizer, measured, "what the hooks score", say=print_on_main)
    held_out = comparable(
        inputs.preferences.held_out,
        tokenizer,
        skip_broken=job.data.skip_broken,
        progress=progress if rank() == 0 else NoProgress(),
        say=print_on_main,
    )
    return Scored(rewardbench2=inputs.benchmarks.rewardbench2, rewardbench1=inputs.benchmarks.rewardbench1, pools=pools, held_out=held_out)


def _within_budget(job: RMJob, inputs: RMInputs, scored: Scored, context: RunContext) -> Scored:
    """As much of it as `hooks.budget` pays for."""
    if job.hooks.budget is None:
        return scored
    return rows_within_budget(job.hooks.budget, lambda: _trained(job, inputs.preferences.training, context.progress), scored, context)


def _trained(job: RMJob, pairs: Sequence[Preference], progress: Progress) -> Trained:
    """What is trained on between two checkpoints. The tokens that tell are found again when training begins."""
    tokens = tokenize(
        pairs,
        load_tokenizer(job.model),
        max_length=limit_of(job.model, job.max_length),
        overlong=job.overlong,
        skip_broken=job.data.skip_broken,
        progress=progress,
    )
    num_checkpoints = len(planned_steps(job, num_steps(len(tokens.pairs), batch_size=job.batch_size, epochs=job.epochs)))
    passes = LORA_PASSES if job.lora.rank else PASSES
    return Trained(pairs=pairs, shares_N=tokens.shares_N.tolist(), epochs=job.epochs / num_checkpoints, passes=passes)


def _hooks(job: RMJob, scored: Scored) -> list[Hook]:
    hooks: list[Hook] = [
        RewardModelHook(
            rewardbench2=scored.rewardbench2,
            rewardbench1=scored.rewardbench1,
            pools=scored.pools,
            best_of=job.hooks.best_of,
            batch_tokens=job.hooks.batch_tokens,
            max_length=job.hooks.max_length,
        )
    ]
    if scored.held_out:
        hooks.append(HeldOutHook(scored.held_out, max_length=job.max_length, batch_tokens=job.hooks.batch_tokens))
    return hooks
