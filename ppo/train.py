"""PPO as one loop: rollout, rewards, advantages, update, log, checkpoint, hooks.

Shapes: B episodes, T tokens of a completion.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel

from core.hooks.run_context import RunContext
from core.process.signals import Preemption
from core.records import Dialogue, Scorer
from ppo.advantages import gae, token_rewards, whiten
from ppo.config import KLPlace, PPOConfig
from ppo.guards import guarded, require_kl_below
from ppo.kl import kl_estimate, next_coefficient
from ppo.metrics import BatchWatch, Metric, batch_metrics, live_note, rollout_metrics
from ppo.rollout import Episodes
from ppo.run import PPOResult, PPORun
from ppo.session import PPOSession, open_session
from ppo.shaping import ScoreStatistics, shaped_scores
from ppo.state import PPOState, tell_dropped


def train(
    config: PPOConfig, context: RunContext, *, prompts: Sequence[Dialogue], scorer: Scorer, reward_model: PreTrainedModel | None
) -> PPOResult:
    """Trains a policy against `scorer`; continues from the newest complete checkpoint in the run's folder, if there is one.

    The critic starts from `reward_model` if one is given and `config.critic` asks for it. The hooks run on the untrained policy
    as step 0 and at every checkpoint. All processes call it.

    Raises `DivergenceError`, a `ValueError` that names batch, remedy and last checkpoint, if scores, loss or gradients are not
    finite or the KL is above `config.kl.stop`; and `Preempted`, with everything saved, after a SIGTERM or Ctrl-C.
    """
    with Preemption().listening() as preemption:
        with preemption.interruptible():
            session = open_session(
                config,
                prompts=prompts,
                scorer=scorer,
                reward_model=reward_model,
                world=context.world,
                say=context.say,
                progress=context.progress,
            )
            tell_dropped(context, session.num_dropped_prompts, len(prompts), config.max_prompt_length)
            if session.networks.padding_reason:
                context.say(f"training with padding: {session.networks.padding_reason}")
            run = PPORun(session, context, preemption)
            state = run.begin()
        try:
            _loop(run, state)
        finally:
            run.saver.close()
    return run.finish(state)


def _loop(run: PPORun, state: PPOState) -> None:
    session, context = run.session, run.context
    watch = BatchWatch(session.config, context, kl=state.metrics[Metric.KL], num_equal=state.num_equal)
    context.progress.start("PPO", session.config.num_batches, unit="batch", done=state.step)
    while not run.is_over(state):
        with guarded(context.dir, session.config.algo, state.step + 1):
            episodes = session.episodes(state.step + 1)
            run.stop_if_asked(state)
            measured = _learn(session, state, episodes)
        watch.see(measured, state.step)
        state.num_equal = watch.num_equal
        context.log_training(measured, state.step)
        context.progress.note(live_note(measured))
        context.progress.advance()
        run.checkpoint(state)
    context.progress.finish()


def _learn(session: PPOSession, state: PPOState, episodes: Episodes) -> dict[str, float]:
    """One PPO step on the episodes of a batch; advances `state` by a step and returns the metrics to log."""
    config = session.config
    state.step += 1
    state.metrics = rollout_metrics(episodes)
    state.statistics = state.statistics.seen(episodes.scores_B)
    scores_B = shaped(episodes, state.statistics, config)
    rewards_BT = rewards(episodes, scores_B, state.kl_coef, config)
    advantages = gae(rewards_BT, episodes.values_BT, episodes.mask_BT, gamma=config.gamma, lam=config.lam)
    measured = {**state.metrics, **batch_metrics(episodes, scores_B, advantages), Metric.KL_COEF: state.kl_coef}
    if config.whiten_advantages:
        advantages = replace(advantages, advantages_BT=whiten(advantages.advantages_BT, episodes.mask_BT))
    require_kl_below(state.metrics[Metric.KL], config.kl)
    measured |= session.update(episodes, advantages, step=state.step, kl_coef=state.kl_coef)
    if state.step > config.value_warmup:
        state.kl_coef = next_coefficient(state.kl_coef, state.metrics[Metric.KL], config.kl, num_episodes=config.batch_size)
    return measured


def shaped(episodes: Episodes, statistics: ScoreStatistics, config: PPOConfig) -> Tensor:
    """The shaped scores of the episodes, of shape (B,)."""
    return shaped_scores(
        episodes.scores_B,
        finished_B=episodes.finished_B,
        lengths_B=episodes.lengths_B,
        max_length=config.max_new_tokens,
        config=config.shaping,
        statistics=statistics,
    )


def rewards(episodes: Episodes, scores_B: Tensor, kl_coef: float, config: PPOConfig) -> Tensor:
    """Rewards per token, of shape (B, T): the KL penalty, unless it is in the loss, plus the shaped score at the end."""
    kl_BT = kl_estimate(episodes.logprobs_BT, episodes.reference_BT, config.kl.estimator)
    return token_rewards(scores_B, kl_BT, episodes.mask_BT, beta=kl_coef if config.kl.place == KLPlace.reward else 0.0)
