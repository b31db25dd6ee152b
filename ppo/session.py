"""What a PPO run holds while it trains: models, optimiser, prompts, and where its metrics go."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from core.chat import encode_prompts
from core.checkpoint import point_best, step_folder
from core.config import Dtype
from core.generate import TransformersGenerator
from core.hooks import Hook, eval_file, read_evaluation, run_hooks
from core.models import load_policy
from core.records import CheckpointSaved, Dialogue, Sampling, Scorer, Tracker
from ppo.advantages import Advantages
from ppo.config import PPOConfig
from ppo.guards import DivergenceError, ended, require_kl_below, why_stop
from ppo.model import ActorCritic, actor_critic, frozen_copy
from ppo.rollout import Episodes, rollout, rollout_metrics
from ppo.shaping import ScoreStatistics
from ppo.state import Progressed, load, metric_of, save
from ppo.update import update


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """The parts of one run. `model` is wrapped by the engine, `plain` is the module inside it."""

    config: PPOConfig
    run_dir: Path
    prompts: Sequence[Dialogue]
    num_dropped_prompts: int
    accelerator: Accelerator
    model: Any
    plain: ActorCritic
    reference: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    scorer: Scorer
    optimizer: Any
    scheduler: Any
    hooks: Sequence[Hook]
    tracker: Tracker

    def episodes(self, step: int) -> Episodes:
        """The episodes of batch `step`: a function of the weights, the seed and the step.

        Raises `ValueError` where the configuration corrects for the engine that drew, and it did not tell its log-probabilities.
        """
        config = self.config
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=config.seed * 100_003 + step)
        with self._guarded(step), self.accelerator.autocast():
            episodes = rollout(
                batch_of(self.prompts, step, config),
                generator=TransformersGenerator(self.plain.actor, self.tokenizer),
                scorer=self.scorer,
                model=self.plain,
                reference=self.reference,
                tokenizer=self.tokenizer,
                sampling=sampling,
                micro_batch_size=config.micro_batch_size,
            )
        if config.importance_cap is not None and episodes.engine_logprobs_BT is None:
            raise ValueError(
                f"importance_cap={config.importance_cap} weighs tokens by the log-probabilities of the engine that drew them, and this "
                "generator gives none; leave importance_cap out."
            )
        return episodes

    def update(self, state: Progressed, episodes: Episodes, advantages: Advantages) -> dict[str, float]:
        """Trains on the episodes of batch `state.step`, unless the policy that drew them has gone too far; returns what was measured."""
        engine = (self.model, self.optimizer, self.scheduler, self.accelerator)
        with self._guarded(state.step):
            require_kl_below(state.metrics["kl"], self.config.kl)
            return update(*engine, self.config, episodes, advantages, step=state.step, kl_coef=state.kl_coef)

    def begin(self, say: Callable[[str], None]) -> Progressed:
        """The state of the newest complete checkpoint, its hooks made up for if they had not run; else step 0, measured."""
        state = load(self.run_dir, self.plain, self.optimizer, self.scheduler, say)
        if state is None:
            before = self.episodes(0)
            statistics = ScoreStatistics.of_reference(before.scores_B)
            state = Progressed(step=0, statistics=statistics, kl_coef=self.config.kl.beta, metrics=rollout_metrics(before))
            self.evaluate(state, Path(self.config.model.path))
        elif not eval_file(self.run_dir, state.step).exists():
            self.evaluate(state, step_folder(self.run_dir, state.step))
        else:
            self._consider(state, metric_of(read_evaluation(self.run_dir, state.step), self.config.best_metric))
        return state

    def checkpoint(self, state: Progressed) -> None:
        """Saves and evaluates. The best step so far is saved with the state, so that a resumed run knows it."""
        path = save(self.run_dir, state, self.plain, self.tokenizer, self.optimizer, self.scheduler)
        self.evaluate(state, path)

    def evaluate(self, state: Progressed, path: Path) -> None:
        """Calls the hooks on the policy in memory, and remembers whether it is the best."""
        event = CheckpointSaved(
            step=state.step,
            num_steps=self.config.num_batches,
            path=path,
            run_dir=self.run_dir,
            model=self.plain.actor,
            tokenizer=self.tokenizer,
            metrics=state.metrics,
        )
        with self.accelerator.autocast():
            metrics = run_hooks(self.hooks, event, self.tracker)
        self._consider(state, metric_of(metrics, self.config.best_metric))

    def _consider(self, state: Progressed, value: float | None) -> None:
        if state.consider(state.step, value) and state.step:
            point_best(self.run_dir, state.step)
        state.stopped_because = why_stop(self.run_dir, state.step, self.config.best_metric, self.config.stop_after_falls)

    @contextmanager
    def _guarded(self, step: int) -> Iterator[None]:
        """Adds to a `DivergenceError` where it happened and which checkpoint is left."""
        try:
            yield
        except DivergenceError as why:
            raise DivergenceError(ended(self.run_dir, step, str(why))) from None


def open_session(
    config: PPOConfig,
    run_dir: Path,
    *,
    prompts: Sequence[Dialogue],
    scorer: Scorer,
    reward_model: PreTrainedModel | None,
    hooks: Sequence[Hook],
    tracker: Tracker,
) -> Session:
    """Loads the policy and puts everything in its place; nothing is trained or drawn yet."""
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier job of this process may have used another precision
    accelerator = Accelerator(mixed_precision="bf16" if config.model.dtype == Dtype.bf16 else "no", cpu=not torch.cuda.is_available())
    actor, tokenizer = load_policy(replace(config.model, dtype=Dtype.fp32))
    fitting, num_dropped = _fitting(prompts, tokenizer, config)
    reference = frozen_copy(actor).to(accelerator.device)
    model = actor_critic(actor, reward_model if config.critic == "reward" else None, temperature=config.temperature)
    model, optimizer, scheduler = accelerator.prepare(model, *_optimizer(model, config))
    model.eval()  # dropout stays off: the ratio of the first minibatch must be 1
    return Session(
        config=config,
        run_dir=run_dir,
        prompts=fitting,
        num_dropped_prompts=num_dropped,
        accelerator=accelerator,
        model=model,
        plain=cast("ActorCritic", accelerator.unwrap_model(model)),
        reference=reference,
        tokenizer=tokenizer,
        scorer=scorer,
        optimizer=optimizer,
        scheduler=scheduler,
        hooks=hooks,
        tracker=tracker,
    )


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
