"""Training of a policy as a job: its rewards, its hook, its run, and what the record says of its end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from core.data.token_rows import require_readable
from core.disk import BrokenFileError, read_json, write_json
from core.engines.resume import forget_states
from core.hooks.hook import read_evaluations
from core.hooks.run_context import RunContext
from core.models.load import load_tokenizer
from core.process.world import World, join_world
from core.progress import NoProgress, Progress
from core.records import AXIS, Sampling, Scorer, Tracker
from core.runs.record import Run
from core.runs.retention import kept
from core.runs.warnings import plain
from core.scorers.ensemble import EnsembleScorer
from core.scorers.implicit import ImplicitRewardScorer
from core.scorers.reward_model import RewardModelScorer
from core.scorers.vllm import VLLMScorer
from core.scorers.weighted import WeightedScorer
from evalhooks.budget import Budget
from evalhooks.checkpoints.policy import PolicyHook
from evalhooks.checkpoints.reward_used import static_scores
from evalhooks.measured_rows import kept_sizes
from evalhooks.report import write_over_optimisation
from launch.compose import Composed
from launch.entry import print_on_main
from launch.inputs import PPOInputs
from launch.jobs import samples
from launch.jobs.lifecycle import Record, RunPlan, carry_out
from launch.rewards.build import build_terms, critic_source, without_verifiers
from launch.schema import PPOJob
from ppo.config import Algo
from ppo.critic_free.train import train_critic_free
from ppo.run import PPOResult
from ppo.train import train


def run(composed: Composed[PPOJob], plan: RunPlan, inputs: PPOInputs, progress: Progress) -> Record:
    """Trains the policy and returns the record of its run. Where several processes were started together, all of them call it."""
    job = composed.job
    world = join_world()

    def work(run: Run, tracker: Tracker) -> Mapping[str, Any]:
        outcome = _trained(job, run.dir, inputs, tracker, progress, world, plan.facts["lineage"]["warnings"])
        return {
            "last_step": outcome.last_step,
            "best_step": outcome.best_step,
            "best": {job.best_metric: outcome.best_value},
            **_course(run.dir, outcome),
            "train_s": outcome.train_s,
            "hooks_s": outcome.hooks_s,
            "num_dropped_prompts": outcome.num_dropped_prompts,
            "stopped_because": outcome.stopped_because,
            "checkpoints": kept(run.dir, job.keep),
            **kept_sizes(run.dir),
        }

    return carry_out(composed, plan, work, world=world, tidy=_tidy)


def _course(run_dir: Path, outcome: PPOResult) -> dict[str, Mapping[str, float]]:
    """The metrics of the policy at its start, its best and its last checkpoint."""
    steps = {"start": 0, "at_best": outcome.best_step, "final": outcome.last_step}
    found = read_evaluations(run_dir, set(steps.values()))
    return {name: {key: value for key, value in found.get(step, {}).items() if key != AXIS} for name, step in steps.items()}


def _trained(
    job: PPOJob, run_dir: Path, inputs: PPOInputs, tracker: Tracker, progress: Progress, world: World, unfit: Sequence[str]
) -> PPOResult:
    """Loads the rewards, and trains by the algorithm that was asked for; `unfit` says why a reward model does not fit the policy."""
    warn = RunContext(dir=run_dir, world=world).warn  # before rewards are loaded, which takes long
    warn(*plain("unfit_reward", "reward.path", unfit), samples.of_tasks(inputs.tasks, job.tasks))
    warn(*samples.of_hooks(job.hooks, inputs.rewardbench2, ()))
    tokenizer = load_tokenizer(job.model)
    scorer = build_terms(job, inputs.rewards, inputs.prompts, tokenizer, say=print_on_main)
    _require_readable(job, inputs, scorer, tokenizer, progress if world.is_main else NoProgress())
    prompts = [prompt.dialogue for prompt in inputs.prompts]
    hooks = [_hook(job, run_dir, inputs, scorer, world)]
    context = RunContext(dir=run_dir, world=world, hooks=hooks, tracker=tracker, progress=progress)
    if job.algo != Algo.ppo:
        return train_critic_free(job, context, prompts=prompts, scorer=scorer)
    reward_model = critic_source(scorer, tokenizer, job)
    if job.critic == "reward" and reward_model is None:
        print_on_main("note: no reward model reads the policy's tokens, so the critic starts from the policy.")
    return train(job, context, prompts=prompts, scorer=scorer, reward_model=reward_model)


def _require_readable(job: PPOJob, inputs: PPOInputs, scorer: WeightedScorer, policy: PreTrainedTokenizerBase, progress: Progress) -> None:
    """Raises `ValueError` for prompts that the chat template of the policy or of a reward refuses: it might come to them days later."""
    asked = {prompt.id: prompt.dialogue for prompt in inputs.prompts}
    drawn = {name: task for name, task in inputs.tasks.items() if task.choices is None}
    tasks = {f"{name}, {prompt.id}": prompt.dialogue for name, task in drawn.items() for prompt in task.prompts}
    require_readable(policy, asked | tasks, job.model.path, say=print_on_main, progress=progress)
    for term in scorer.terms:
        for tokenizer in _tokenizers(term.scorer):
            require_readable(tokenizer, asked | tasks, f"reward {term.name}", say=print_on_main, progress=progress)


def _tokenizers(scorer: Scorer) -> list[PreTrainedTokenizerBase]:
    """The tokenizers of a reward, whose chat templates write what it reads."""
    match scorer:
        case RewardModelScorer() | ImplicitRewardScorer() | VLLMScorer():
            return [scorer.tokenizer]
        case EnsembleScorer():
            return [tokenizer for member in scorer.members for tokenizer in _tokenizers(member)]
        case _:
            return []


def _hook(job: PPOJob, run_dir: Path, inputs: PPOInputs, scorer: WeightedScorer, world: World) -> PolicyHook:
    """Measures the tasks, and the rewards on them as far as these can score prompts of tasks."""
    elsewhere = without_verifiers(scorer)
    downstream = job.hooks.downstream
    longest = downstream.max_new_tokens if inputs.tasks else job.max_new_tokens
    return PolicyHook(
        tasks=inputs.tasks,
        sampling=Sampling(n=downstream.n, temperature=downstream.temperature, max_new_tokens=longest, seed=downstream.seed),
        prompts=inputs.prompts,
        prompt_scorer=scorer,
        scorer=elsewhere,
        static=_static_scores(elsewhere, inputs, run_dir, world) if elsewhere else {},
        budget=_budget(job, inputs),
    )


def _budget(job: PPOJob, inputs: PPOInputs) -> Budget | None:
    """What training draws between two checkpoints, beside the share of its time that tasks may take."""
    if job.hooks.budget is None:
        return None
    episodes = job.batch_size * job.num_batches // job.num_checkpoints
    sampling = Sampling(temperature=job.temperature, max_new_tokens=job.max_new_tokens, seed=job.seed)
    return Budget(share=job.hooks.budget, num_episodes=episodes, prompts=inputs.prompts, sampling=sampling)


def _static_scores(scorer: WeightedScorer, inputs: PPOInputs, run_dir: Path, world: World) -> dict[str, float]:
    """RewardBench 2 of the rewards, which training does not change: scored once for a run, by all processes."""
    cache = run_dir / "static.json"
    if not inputs.rewardbench2:
        return {}
    if (kept := world.from_main(lambda: _kept(cache))) is not None:
        return kept
    found = static_scores(scorer, inputs.rewardbench2, print_on_main, world=world)

    def write() -> dict[str, float]:
        write_json(cache, found)
        return _numbers(cache)

    return world.from_main(write)


def _kept(cache: Path) -> dict[str, float] | None:
    """The scores that an earlier session of the run has written; None where there are none that can be read."""
    try:
        return _numbers(cache) if cache.exists() else None
    except BrokenFileError as error:
        print_on_main(str(error))
        return None


def _numbers(cache: Path) -> dict[str, float]:
    remedy = "the rewards are scored again"
    try:
        return {name: float(value) for name, value in read_json(cache, remedy=remedy).items()}
    except TypeError as error:
        raise BrokenFileError(f"{cache} holds something other than numbers ({error}); {remedy}.") from error


def _tidy(run_dir: Path) -> None:
    """Draws the picture of a finished run, and removes what only resuming needs."""
    picture = run_dir / "over_optimisation.png"
    if not picture.exists():
        write_over_optimisation(run_dir, picture)
    forget_states(run_dir)
