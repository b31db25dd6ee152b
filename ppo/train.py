"""PPO as one loop: rollout, rewards, advantages, update, log, checkpoint, hooks."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from core.hooks.hook import Hook
from core.process.signals import Preempted, Preemption
from core.process.world import World, join_world
from core.progress import NoProgress, Progress
from core.records import Dialogue, RunEnded, Scorer, Tracker
from ppo.advantages import gae, token_rewards, whiten
from ppo.config import PPOConfig
from ppo.kl import kl_estimate, next_coefficient
from ppo.metrics import Metric, batch_metrics, rollout_metrics, training_row
from ppo.rollout import Episodes
from ppo.session import PPOSession, open_session
from ppo.shaping import ScoreStatistics, shaped_scores
from ppo.state import PPOState
from ppo.stopping import checkpoint_batches


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOResult:
    """The last and the best checkpoint's steps (0 is the policy as it was before training), and the best value.

    `stopped_because` is empty for a run that did all its batches.
    """

    last_step: int
    best_step: int
    best_value: float | None
    num_dropped_prompts: int
    stopped_because: str = ""


def train(
    config: PPOConfig,
    run_dir: Path,
    *,
    prompts: Sequence[Dialogue],
    scorer: Scorer,
    reward_model: PreTrainedModel | None,
    hooks: Sequence[Hook],
    tracker: Tracker,
    progress: Progress,
    say: Callable[[str], None] = print,
    world: World | None = None,
) -> PPOResult:
    """Trains a policy against `scorer`; continues from the newest complete checkpoint in `run_dir`, if there is one.

    `reward_model`, where given, is what the critic starts from (config.critic says whether it should). The hooks run on
    the untrained policy as step 0 and at every checkpoint. All processes call it; `hooks`, `tracker`, `progress` and `say`
    are used on the main one alone.

    Raises `DivergenceError`, a `ValueError` that names batch, remedy and last checkpoint, where scores, loss or gradients are not
    finite or the KL is above `config.kl.stop`; and `Preempted`, all saved, after a SIGTERM.
    """
    world = world or join_world()
    if not world.is_main:
        progress, say = NoProgress(), _silent
    planned = checkpoint_batches(config)
    with Preemption().listening() as preemption:
        with preemption.interruptible():
            session = open_session(
                config, run_dir, prompts=prompts, scorer=scorer, reward_model=reward_model, hooks=hooks, tracker=tracker, world=world
            )
            if session.num_dropped_prompts:
                say(f"dropped {session.num_dropped_prompts} prompts longer than max_prompt_length={config.max_prompt_length} tokens")
            if session.plain.why_padded:
                say(f"training with padding: {session.plain.why_padded}")
            state = session.begin(planned, say)
        _loop(session, state, planned, preemption, progress)
    if state.stopped_because:
        say(f"stopped after batch {state.step} of {config.num_batches}: {state.stopped_because}")
    if world.is_main:
        for hook in hooks:
            hook.on_end(RunEnded(run_dir=run_dir, step=state.step))
    return PPOResult(
        last_step=state.step,
        best_step=state.best_step,
        best_value=state.best_value,
        num_dropped_prompts=session.num_dropped_prompts,
        stopped_because=state.stopped_because,
    )


def _loop(session: PPOSession, state: PPOState, planned: Sequence[int], preemption: Preemption, progress: Progress) -> None:
    config, world = session.config, session.world
    progress.start("PPO", config.num_batches)
    progress.advance(state.step)
    saved, saved_at = state.step, time.monotonic()
    while state.step < config.num_batches and not state.stopped_because:
        episodes = session.episodes(state.step + 1)
        if any(world.all_sum([preemption.requested])):  # the update is still to come, so the weights are those of the batch before
            if saved < state.step:
                session.save(state, planned)
            raise _preempted(state.step, config)
        state.step += 1
        state.metrics = rollout_metrics(episodes)
        state.statistics = state.statistics.seen(episodes.scores_B)
        scores_B = shaped(episodes, state.statistics, config)
        rewards_BT = rewards(episodes, scores_B, state.kl_coef, config)
        advantages = gae(rewards_BT, episodes.values_BT, episodes.mask_BT, gamma=config.gamma, lam=config.lam)
        measured = {**state.metrics, **batch_metrics(episodes, scores_B, advantages), Metric.KL_COEF: state.kl_coef}
        if config.whiten_advantages:
            advantages = replace(advantages, advantages_BT=whiten(advantages.advantages_BT, episodes.mask_BT))
        started = time.perf_counter()
        measured |= session.update(state, episodes, advantages)
        measured["seconds/update"] = time.perf_counter() - started
        if state.step > config.value_warmup:
            state.kl_coef = next_coefficient(state.kl_coef, state.metrics[Metric.KL], config.kl, num_episodes=config.batch_size)
        if world.is_main:
            session.tracker.log(training_row(measured), axis="train/step", step=state.step)
        progress.advance()
        stop, overdue = world.all_sum([preemption.requested, time.monotonic() - saved_at > 60 * config.save_minutes])
        if state.step in planned or stop or overdue:
            session.save(state, planned)
            saved, saved_at = state.step, time.monotonic()
        if stop:
            raise _preempted(state.step, config)
        if state.step in planned:
            with preemption.interruptible():
                session.evaluate(state)
    progress.finish()


def _preempted(step: int, config: PPOConfig) -> Preempted:
    return Preempted(f"stopped by a signal and saved at batch {step} of {config.num_batches}; the same command goes on from there")


def shaped(episodes: Episodes, statistics: ScoreStatistics, config: PPOConfig) -> torch.Tensor:
    """The shaped scores of the episodes, of shape (B,)."""
    return shaped_scores(
        episodes.scores_B,
        finished_B=episodes.finished_B,
        lengths_B=episodes.lengths_B,
        max_length=config.max_new_tokens,
        config=config.shaping,
        statistics=statistics,
    )


def rewards(episodes: Episodes, scores_B: torch.Tensor, kl_coef: float, config: PPOConfig) -> torch.Tensor:
    """Rewards per token of shape (B, T): the KL penalty, unless it is in the loss, and the shaped score at the end."""
    kl_BT = kl_estimate(episodes.logprobs_BT, episodes.reference_BT, config.kl.estimator)
    return token_rewards(scores_B, kl_BT, episodes.mask_BT, beta=kl_coef if config.kl.place == "reward" else 0.0)


def _silent(line: str) -> None:
    """The other processes leave speaking to the main one."""
