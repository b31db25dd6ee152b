"""Best-of-N as a job: the pools, drawn, found or given, each reward's scores of them, and what it picks by these."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bon.draw import PoolPlan, PoolTask, is_made, make_pools
from bon.pools import flat_scores, not_finite
from bon.rows import Pools
from core.config import RolloutKind
from core.data.chat import prompt_lengths
from core.data.token_rows import require_readable
from core.disk import jsonable, write_json
from core.functions import load_function
from core.generators.open import open_generator
from core.hooks.run_context import RunContext
from core.models.load import load_policy, load_tokenizer
from core.models.origin import family, lineage_of
from core.models.positions import require_room
from core.process.world import World, join_world
from core.progress import NoProgress, Progress
from core.records import AXIS, Dialogue, Generator, RolloutEngine, Sampling, Tracker, num_truncated
from core.runs.identity import INPUTS, clean_name
from core.runs.record import Run
from core.runs.tracking import METRICS, forget_later
from core.runs.warnings import answers_cut, few_rows, plain, texts_cut
from core.scorers.shared import SharedScorer
from evalhooks.selection.answers import answer_of
from evalhooks.selection.biases import bias_metrics, panels_of
from evalhooks.selection.pictures import draw_biases, draw_curves, draw_table
from launch.compose import Composed
from launch.entry import print_on_main
from launch.identity import identity_of_part
from launch.inputs import BoNInputs
from launch.jobs.bon_result import (
    BIASES,
    CURVES,
    MATRIX,
    PANEL,
    PICKS,
    RESULT,
    SCORES,
    TABLE,
    Scores,
    measured,
    metrics_of,
    read_scores,
    result_of,
    with_ensembles,
    write_biases,
    write_picks,
    write_scores,
    write_table,
)
from launch.jobs.lifecycle import Record, RunPlan, carry_out
from launch.rewards.build import Limits, build_reward
from launch.rewards.config import RewardKind
from launch.rewards.locate import LocatedReward
from launch.schema import BoNJob


def run(composed: Composed[BoNJob], plan: RunPlan, inputs: BoNInputs, folder: str, progress: Progress) -> Record:
    """Makes the pools in `folder`, unless they are there or given, has every reward choose from them, and returns the record of the run.

    Where several processes were started together, all of them call it, and each does its share.
    """
    job, world = composed.job, join_world()
    wanted = None if inputs.given else pool_plan(job, inputs)
    if wanted is not None:
        world.from_main(lambda: is_made(Path(folder), wanted))  # other pools there are refused before a run begins
    _require_readable(inputs)

    def work(run: Run, tracker: Tracker) -> Mapping[str, Any]:
        forget_later(run.dir / METRICS, -1)  # of a killed attempt
        context = RunContext(dir=run.dir, world=world, tracker=tracker, progress=progress)
        pools = inputs.given if wanted is None else drawn(job, wanted, Path(folder), world, context.progress)
        sizes = job.sizes_of(min(len(row.completions) for rows in pools.values() for row in rows))
        _warn_of_pools(job, pools, context)
        scores = {name: _scores(name, reward, job, inputs, pools, context) for name, reward in inputs.rewards.items()}
        results = world.from_main(lambda: _written(job, run.dir, pools, scores, sizes, folder, inputs.rewards))
        tracker.log(results["final"], axis=AXIS, step=0)
        return results

    return carry_out(composed, plan, work, world=world)


def pool_plan(job: BoNJob, inputs: BoNInputs) -> PoolPlan:
    """The pools that a job asks for: known by the policy's content, the prompts and the sampling, and apart from that by the verifiers."""
    settings, contents = inputs.identity["tasks"], inputs.identity[INPUTS]
    tasks = {
        name: PoolTask(
            prompts=task.prompts[: job.pool.limit],
            verifier=task.verifier,
            identity={"settings": settings[name], "program": {k: v for k, v in contents.items() if k == f"tasks.{name}.verifier"}},
        )
        for name, task in inputs.tasks.items()
    }
    sampling = Sampling(n=job.pool.n, temperature=job.pool.temperature, max_new_tokens=job.pool.max_new_tokens, seed=job.pool.seed)
    template = str(load_tokenizer(job.model).chat_template or "")
    policy = {**identity_of_part(job.model, "model", job.runs_dir), "template": template}
    return PoolPlan(tasks=tasks, sampling=sampling, policy=policy, limit=job.pool.limit, origin=inputs.identity)


def drawn(job: BoNJob, plan: PoolPlan, folder: Path, world: World, progress: Progress) -> Pools:
    """The pools of a plan, made as far as they are not there."""
    asked = {f"{task}, {prompt.id}": prompt.dialogue for task, own in plan.tasks.items() for prompt in own.prompts}
    per_process = max(1, job.rollout.batch_size // job.pool.n)
    if job.rollout.kind == RolloutKind.vllm:
        per_process = 2 * job.rollout.parallel * len(job.rollout.addresses)  # so that a server seldom waits for the last of a batch

    def opened() -> Generator | None:
        needed = job.rollout.kind != RolloutKind.vllm or world.is_main
        return _policy(job, asked, plan.sampling) if needed else None

    return make_pools(
        folder, plan, opened, batch_size=per_process, world=world, progress=progress if world.is_main else NoProgress(), say=print_on_main
    )


def _policy(job: BoNJob, asked: Mapping[str, Dialogue], sampling: Sampling) -> Generator:
    """The loaded policy. Raises `ValueError` if it cannot read all prompts in `asked`, by name, or has no room for them."""
    policy, tokenizer = load_policy(job.model)
    require_readable(tokenizer, asked, job.model.path)
    require_room(policy, max(prompt_lengths(tokenizer, list(asked.values()))), sampling.max_new_tokens)
    generator = open_generator(job.rollout, policy, tokenizer)
    if isinstance(generator, RolloutEngine):
        generator.load_weights(policy.state_dict().items())
    return generator


def _require_readable(inputs: BoNInputs) -> None:
    """Raises `ValueError` for prompts that the chat template of a reward refuses: it would come to them after the pools are drawn."""
    asked = {f"{task}, {prompt.id}": prompt.dialogue for task, own in inputs.tasks.items() for prompt in own.prompts}
    asked |= {f"{task}, {row.id}": row.prompt for task, rows in inputs.given.items() for row in rows}
    for name, reward in inputs.rewards.items():
        if reward.config.kind in (RewardKind.model, RewardKind.ensemble, RewardKind.dpo, RewardKind.vllm):
            for model in reward.models.values():
                require_readable(load_tokenizer(model), asked, f"reward {name}", say=print_on_main)


def _warn_of_pools(job: BoNJob, pools: Pools, context: RunContext) -> None:
    ended = [finished for rows in pools.values() for row in rows for finished in row.finished]
    if ended:
        share, limit = sum(ended) / len(ended), None if job.takes_pools else job.pool.max_new_tokens
        context.warn(answers_cut(share, where="in the pools", key="pool.max_new_tokens", limit=limit))
    key = "pools" if job.takes_pools else "pool.limit" if job.pool.limit is not None else "tasks"
    remedy = "give more prompts" if job.takes_pools else f"raise {key}, or give larger tasks"
    context.warn(few_rows({task: len(rows) for task, rows in pools.items()}, what="a task", key=key, remedy=remedy))
    texts: list[str] = []
    for task, rows in pools.items():
        sizes = [len(row.completions) for row in rows]
        if max(sizes) == 1:
            texts.append(f"every prompt of {task} has one completion, so there is nothing to choose among; give several under one id.")
        if min(sizes) < max(sizes):
            few = sizes.count(min(sizes))
            texts.append(
                f"{few} of {len(rows)} prompts of {task} have {min(sizes)} completions and others up to {max(sizes)}: every n goes up to "
                f"{min(sizes)}; leave out the prompts with few to go further."
            )
        if (unknown := sum(not row.correct for row in rows)) and (unknown < len(rows) or not job.takes_pools):
            texts.append(f"{unknown} of {len(rows)} prompts of {task} have no correctness: accuracy leaves them out, picks have them.")
    context.warn(*plain("uneven_pools", "pools", texts))


def _scores(name: str, reward: LocatedReward, job: BoNJob, inputs: BoNInputs, pools: Pools, context: RunContext) -> Scores:
    """A reward's scores of all completions, from a file where an interrupted run has left them; the reward is loaded for them alone."""
    world, file = context.world, context.dir / SCORES / f"{clean_name(name)}.parquet"
    if (kept := world.from_main(lambda: read_scores(file, pools))) is not None:
        return kept
    limits = Limits(batch_tokens=job.hooks.batch_tokens, max_length=lambda _: job.hooks.max_length)
    prompts = [prompt for task in inputs.tasks.values() for prompt in task.prompts]
    scorer = build_reward(reward, limits, progress=context.progress, say=print_on_main, prompts=prompts)
    scores = flat_scores(pools, SharedScorer(scorer, world))
    cut = int(sum(world.all_sum([num_truncated(scorer) or 0])))
    total = sum(len(row.completions) for rows in pools.values() for row in rows)
    context.warn(texts_cut(cut, total, key="hooks.max_length", limit=job.hooks.max_length, what=f"texts that {name} scores"))
    if cut:
        print_on_main(
            f"{name}: {cut} of {total} texts were cut to hooks.max_length={job.hooks.max_length} tokens, at the end of the answer"
        )
    for line in not_finite(pools, scores):
        print_on_main(f"{name}: {line}")
    world.from_main(lambda: write_scores(file, pools, scores))
    return scores


def _written(
    job: BoNJob,
    run_dir: Path,
    pools: Pools,
    scores: Mapping[str, Scores],
    sizes: Sequence[int],
    folder: str,
    rewards: Mapping[str, LocatedReward],
) -> dict[str, Any]:
    """Writes what came out, and returns what the record says of it."""
    read: Callable[[str], str] = _voting(job.vote) if job.vote else answer_of
    together = with_ensembles(scores)
    tasks = measured(pools, together, read)
    write_table(run_dir / TABLE, pools, tasks, together)
    if together:
        write_picks(run_dir / PICKS, pools, together, sizes)
    panels = panels_of(pools, scores, {name: _family(reward) for name, reward in rewards.items()})
    if panels:
        write_biases(run_dir / BIASES, panels)
    write_json(run_dir / RESULT, {**result_of(tasks, pools, sizes, folder), "biases": jsonable(panels)})
    if tasks:
        draw_curves(run_dir / CURVES, tasks, title=f"best of n from {Path(folder).name}")
        if len(tasks) > 1:
            draw_table(run_dir / MATRIX, tasks, n=min(max(sizes), *(found.n for found in tasks.values())))
    if any(panel.biases for panel in panels.values()):
        draw_biases(run_dir / PANEL, panels)
    metrics = metrics_of(tasks, sizes) | bias_metrics(panels)
    return {
        "final": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "pools": folder,
        "num_prompts": {task: len(rows) for task, rows in pools.items()},
        "biases": {name: [bias.feature for bias in panel.biases if bias.is_found] for name, panel in panels.items()},
    }


def _family(reward: LocatedReward) -> str:
    """The family of models that a reward comes from; empty for what is no model, and for an ensemble of several families."""
    models = list(reward.models.values())[: 1 if reward.config.kind == RewardKind.dpo else None]  # then comes what it is compared with
    families = {family(lineage_of(model)) for model in models}
    return families.pop() if len(families) == 1 else ""


def _voting(name: str) -> Callable[[str], str]:
    function = load_function(name, "vote:")
    return lambda text: str(function(text))
