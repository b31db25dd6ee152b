"""PPO as one loop: rollout, rewards, advantages, update, log, checkpoint, hooks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from core.hooks import Hook
from core.progress import Progress
from core.records import Dialogue, RunEnded, Scorer, Tracker
from ppo.advantages import gae, kl_estimate, token_rewards, whiten
from ppo.config import PPOConfig
from ppo.rollout import Episodes, rollout_metrics
from ppo.session import open_session
from ppo.state import RewardStatistics
from ppo.update import update


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The last and the best checkpoint's steps (0 is the policy as it was before training), and the best value."""

    last_step: int
    best_step: int
    best_value: float | None
    num_dropped_prompts: int


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
) -> Outcome:
    """Trains a policy against `scorer`; continues from the last complete checkpoint in `run_dir`, if there is one.

    `reward_model`, where given, is what the critic starts from (config.critic says whether it should). The hooks run on
    the untrained policy as step 0 and at every checkpoint.
    """
    session = open_session(config, run_dir, prompts=prompts, scorer=scorer, reward_model=reward_model, hooks=hooks, tracker=tracker)
    if session.num_dropped_prompts:
        say(f"dropped {session.num_dropped_prompts} prompts longer than max_prompt_length={config.max_prompt_length} tokens")
    state = session.begin(say)
    progress.start("PPO", config.num_batches)
    progress.advance(state.step)
    save_at = {round(config.num_batches * (i + 1) / config.num_checkpoints) for i in range(config.num_checkpoints)}
    while state.step < config.num_batches:
        state.step += 1
        episodes = session.episodes(state.step)
        rewards_BT = rewards(episodes, state.statistics, config)
        advantages = gae(rewards_BT, episodes.values_BT, episodes.mask_BT, gamma=config.gamma, lam=config.lam)
        variance = explained_variance(episodes, advantages.returns_BT)
        if config.whiten_advantages:
            advantages = replace(advantages, advantages_BT=whiten(advantages.advantages_BT, episodes.mask_BT))
        engine = (session.model, session.optimizer, session.scheduler, session.accelerator)
        losses = update(*engine, config, episodes, advantages, seed=config.seed * 100_003 + state.step)
        state.metrics = rollout_metrics(episodes)
        measured = {**state.metrics, **losses, "explained_variance": variance, "lr": session.scheduler.get_last_lr()[0]}
        tracker.log({f"train/{key}": value for key, value in measured.items()}, axis="train/step", step=state.step)
        progress.advance()
        if state.step in save_at:
            session.checkpoint(state)
    progress.finish()
    for hook in hooks:
        hook.on_end(RunEnded(run_dir=run_dir, step=state.step))
    return Outcome(
        last_step=state.step, best_step=state.best_step, best_value=state.best_value, num_dropped_prompts=session.num_dropped_prompts
    )


def rewards(episodes: Episodes, scale: RewardStatistics, config: PPOConfig) -> torch.Tensor:
    """Rewards per token of shape (B, T): the KL penalty, and the centred, scaled and clipped score at the end."""
    scores_B = (episodes.scores_B - scale.mean) / scale.std
    if config.reward_clip is not None:
        scores_B = scores_B.clamp(-config.reward_clip, config.reward_clip)
    if config.missing_eos_score is not None:
        scores_B = torch.where(episodes.finished_B, scores_B, config.missing_eos_score)
    kl_BT = kl_estimate(episodes.logprobs_BT, episodes.reference_BT, config.kl.estimator)
    return token_rewards(scores_B, kl_BT, episodes.mask_BT, beta=config.kl.beta)


def explained_variance(episodes: Episodes, returns_BT: torch.Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over all tokens: 1 for a perfect critic, 0 for a constant one."""
    mask_BT = episodes.mask_BT.bool()
    returns_N, values_N = returns_BT[mask_BT], episodes.values_BT[mask_BT]
    return (1 - (returns_N - values_N).var() / returns_N.var().clamp(min=1e-12)).item()
