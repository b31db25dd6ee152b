"""PPO as one loop: rollout, rewards, advantages, update, log, checkpoint, hooks."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from core.chat import encode_prompts
from core.checkpoint import step_folder
from core.config import Dtype
from core.generate import TransformersGenerator
from core.hooks import Hook, eval_file, read_evaluation, run_hooks
from core.models import load_policy
from core.progress import Progress
from core.records import CheckpointSaved, Dialogue, RunEnded, Sampling, Scorer, Tracker
from ppo.advantages import gae, kl_estimate, token_rewards, whiten
from ppo.config import PPOConfig
from ppo.model import ActorCritic, actor_critic, frozen_copy
from ppo.rollout import Episodes, rollout
from ppo.state import Progressed, RewardStatistics, load, metric_of, point_best, save
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
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier job of this process may have used another precision
    accelerator = Accelerator(mixed_precision="bf16" if config.model.dtype == Dtype.bf16 else "no", cpu=not torch.cuda.is_available())
    actor, tokenizer = load_policy(replace(config.model, dtype=Dtype.fp32))
    prompts, num_dropped = _fitting(prompts, tokenizer, config)
    if num_dropped:
        say(f"dropped {num_dropped} prompts longer than max_prompt_length={config.max_prompt_length} tokens")
    reference = frozen_copy(actor).to(accelerator.device)
    model = actor_critic(actor, reward_model if config.critic == "reward" else None, temperature=config.temperature)
    optimizer, scheduler = _optimizer(model, config)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    plain: ActorCritic = accelerator.unwrap_model(model)
    generator = TransformersGenerator(plain.actor, tokenizer)

    def episodes_of(step: int) -> Episodes:
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=config.seed * 100_003 + step)
        with accelerator.autocast():
            return rollout(
                batch_of(prompts, step, config),
                generator=generator,
                scorer=scorer,
                model=plain,
                reference=reference,
                tokenizer=tokenizer,
                sampling=sampling,
                micro_batch_size=config.micro_batch_size,
            )

    def checkpointed(state: Progressed, path: Path) -> None:
        event = CheckpointSaved(
            step=state.step,
            num_steps=config.num_batches,
            path=path,
            run_dir=run_dir,
            model=plain.actor,
            tokenizer=tokenizer,
            metrics=state.metrics,
        )
        with accelerator.autocast():
            metrics = run_hooks(hooks, event, tracker)
        if state.consider(state.step, metric_of(metrics, config.best_metric)) and state.step:
            point_best(run_dir, state.step)

    model.eval()  # dropout stays off: the ratio of the first minibatch must be 1
    state = load(run_dir, plain, optimizer, scheduler, say)
    if state is None:
        before = episodes_of(0)
        state = Progressed(step=0, statistics=statistics(before, config), metrics=rollout_metrics(before))
        checkpointed(state, Path(config.model.path))
    elif not eval_file(run_dir, state.step).exists():
        checkpointed(state, step_folder(run_dir, state.step))
    elif state.consider(state.step, metric_of(read_evaluation(run_dir, state.step), config.best_metric)):
        point_best(run_dir, state.step)

    progress.start("PPO", config.num_batches)
    progress.advance(state.step)
    save_at = {round(config.num_batches * (i + 1) / config.num_checkpoints) for i in range(config.num_checkpoints)}
    while state.step < config.num_batches:
        state.step += 1
        episodes = episodes_of(state.step)
        rewards_BT = rewards(episodes, state.statistics, config)
        advantages = gae(rewards_BT, episodes.values_BT, episodes.mask_BT, gamma=config.gamma, lam=config.lam)
        variance = explained_variance(episodes, advantages.returns_BT)
        if config.whiten_advantages:
            advantages = replace(advantages, advantages_BT=whiten(advantages.advantages_BT, episodes.mask_BT))
        losses = update(model, optimizer, scheduler, accelerator, config, episodes, advantages, seed=config.seed * 100_003 + state.step)
        state.metrics = rollout_metrics(episodes)
        measured = {**state.metrics, **losses, "explained_variance": variance, "lr": scheduler.get_last_lr()[0]}
        tracker.log({f"train/{key}": value for key, value in measured.items()}, axis="train/step", step=state.step)
        progress.advance()
        if state.step in save_at:
            # The best checkpoint so far goes on disk with the state, so that a resumed run knows it.
            checkpointed(state, save(run_dir, state, plain, tokenizer, optimizer, scheduler))
    progress.finish()
    for hook in hooks:
        hook.on_end(RunEnded(run_dir=run_dir, step=state.step))
    return Outcome(last_step=state.step, best_step=state.best_step, best_value=state.best_value, num_dropped_prompts=num_dropped)


def batch_of(prompts: Sequence[Dialogue], step: int, config: PPOConfig) -> list[Dialogue]:
    """The prompts of batch `step`, a function of seed and step: shuffled passes over all prompts, one after another."""
    start = max(0, step - 1) * config.batch_size

    def stream() -> Iterator[Dialogue]:
        passed = start // len(prompts)
        while True:
            order = random.Random(f"{config.seed} {passed}").sample(range(len(prompts)), len(prompts))
            yield from (prompts[i] for i in order)
            passed += 1

    drawn, skip = stream(), start % len(prompts)
    for _ in range(skip):
        next(drawn)
    return [next(drawn) for _ in range(config.batch_size)]


def statistics(episodes: Episodes, config: PPOConfig) -> RewardStatistics:
    """Centre and scale of the rewards: the mean over the reference's answers, and the configured or measured deviation."""
    std = config.reward_scale or max(episodes.scores_B.std(correction=0).item(), 1e-6)
    return RewardStatistics(mean=episodes.scores_B.mean().item(), std=std)


def rewards(episodes: Episodes, scale: RewardStatistics, config: PPOConfig) -> torch.Tensor:
    """Rewards per token of shape (B, T): the KL penalty, and the centred, scaled and clipped score at the end."""
    scores_B = (episodes.scores_B - scale.mean) / scale.std
    if config.reward_clip is not None:
        scores_B = scores_B.clamp(-config.reward_clip, config.reward_clip)
    if config.missing_eos_score is not None:
        scores_B = torch.where(episodes.finished_B, scores_B, config.missing_eos_score)
    kl_BT = kl_estimate(episodes.logprobs_BT, episodes.reference_BT, config.kl.estimator)
    return token_rewards(scores_B, kl_BT, episodes.mask_BT, beta=config.kl.beta)


def rollout_metrics(episodes: Episodes) -> dict[str, float]:
    """KL to the reference in nats per completion, the raw score, length, EOS rate, and seconds spent."""
    mask_BT = episodes.mask_BT
    k1_B = (kl_estimate(episodes.logprobs_BT, episodes.reference_BT, "k1") * mask_BT).sum(-1)
    k3_B = (kl_estimate(episodes.logprobs_BT, episodes.reference_BT, "k3") * mask_BT).sum(-1)
    return {
        "kl": k1_B.mean().item(),
        "kl_k3": k3_B.mean().item(),
        "rm_score": episodes.scores_B.mean().item(),
        "rm_score_std": episodes.scores_B.std(correction=0).item(),
        "length": mask_BT.sum(-1).float().mean().item(),
        "eos_rate": episodes.finished_B.float().mean().item(),
        **{f"seconds/{part}": seconds for part, seconds in episodes.seconds.items()},
    }


def explained_variance(episodes: Episodes, returns_BT: torch.Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over all tokens: 1 for a perfect critic, 0 for a constant one."""
    mask_BT = episodes.mask_BT.bool()
    returns_N, values_N = returns_BT[mask_BT], episodes.values_BT[mask_BT]
    return (1 - (returns_N - values_N).var() / returns_N.var().clamp(min=1e-12)).item()


def _fitting(prompts: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase, config: PPOConfig) -> tuple[list[Dialogue], int]:
    lengths = map(len, encode_prompts(tokenizer, prompts))
    fitting = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= config.max_prompt_length]
    if not fitting:
        raise ValueError(f"No prompt fits into max_prompt_length={config.max_prompt_length} tokens; raise max_prompt_length.")
    return fitting, len(prompts) - len(fitting)


def _optimizer(model: ActorCritic, config: PPOConfig) -> tuple[torch.optim.AdamW, Any]:
    optim = config.optim
    critic = [parameter for name, parameter in model.named_parameters() if name.startswith("critic_")]
    groups = [{"params": list(model.actor.parameters()), "lr": optim.lr}, {"params": critic, "lr": config.critic_lr or optim.lr}]
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, eps=optim.adam_eps, weight_decay=optim.weight_decay)
    num_steps = config.num_batches * config.epochs * (config.batch_size // config.minibatch_size)
    name = "constant_with_warmup" if optim.schedule == "constant" else str(optim.schedule)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=round(optim.warmup_ratio * num_steps), num_training_steps=num_steps)
    return optimizer, scheduler
