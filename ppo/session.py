"""What a PPO run holds while it trains: networks under their engine, prompts, and where its metrics go."""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.config import Dtype, RolloutKind
from core.data.chat import encode_prompts
from core.engines.engine import Engine, open_engine
from core.engines.optim import schedule
from core.engines.resume import STATE, newest_step, save_step
from core.generators.open import open_generator
from core.hooks.hook import Hook, eval_file, read_evaluation, run_hooks
from core.models.adapters import require_no_adapter
from core.models.export import export_model
from core.models.load import load_policy
from core.models.locate import locate
from core.process.precision import autocast
from core.process.world import World
from core.records import CheckpointSaved, Dialogue, Generator, RolloutEngine, Sampling, Scorer, Tracker
from core.runs.checkpoints import step_folder
from core.scorers.reward_model import RewardModelScorer
from core.scorers.weighted import WeightedScorer
from ppo.advantages import Advantages
from ppo.config import PPOConfig
from ppo.guards import guarded, require_kl_below
from ppo.metrics import Metric, rollout_metrics
from ppo.model import ActorCritic, actor_critic
from ppo.prompts import batch_prompts
from ppo.rollout import Episodes, rollout
from ppo.shaping import ScoreStatistics, value_scale
from ppo.state import PPOState, read_state, write_state
from ppo.stopping import take_evaluation
from ppo.update import num_updates, update, updates_per_batch


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOSession:
    """The parts of one run.

    `plain` are the networks inside the engine, `sampled` is the policy that rollouts and hooks read: the actor itself, or a whole
    copy of it beside an engine that shards. `generator` is None on processes that leave drawing to the main one. `critic_source`
    is the reward model that the critic began as, if it did.
    """

    config: PPOConfig
    run_dir: Path
    prompts: Sequence[Dialogue]
    num_dropped_prompts: int
    world: World
    engine: Engine
    plain: ActorCritic
    sampled: PreTrainedModel
    generator: Generator | None
    critic_source: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    scorer: WeightedScorer
    hooks: Sequence[Hook]
    tracker: Tracker

    def episodes(self, step: int) -> Episodes:
        """The episodes of batch `step`: a function of the weights, the seed and the step.

        Raises `ValueError` where the configuration corrects for the engine that drew, and it did not tell its log-probabilities.
        """
        config = self.config
        self.engine.module.eval()
        self._bring_weights()
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=config.seed * 100_003 + step)
        with guarded(self.run_dir, step), self.autocast():
            episodes = rollout(
                batch_prompts(self.prompts, step, config),
                world=self.world,
                generator=self.generator,
                scorer=self.scorer,
                module=self.engine.module,
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

    def update(self, state: PPOState, episodes: Episodes, advantages: Advantages) -> dict[str, float]:
        """Trains on the episodes of batch `state.step`, unless the policy that drew them has gone too far; returns what was measured."""
        with guarded(self.run_dir, state.step):
            require_kl_below(state.metrics[Metric.KL], self.config.kl)
            # Layers recompute their activations in training mode alone; there is no dropout in it (PPOConfig refuses an adapter's).
            self.engine.module.train(self.config.gradient_checkpointing)
            with self.plain.attention():
                measured = update(self.engine, self.world, self.config, episodes, advantages, step=state.step, kl_coef=state.kl_coef)
        rate = schedule(self.config.optim, state.step * updates_per_batch(self.config) + 1, num_updates(self.config))
        optim = self.config.optim
        return {**measured, Metric.LR: optim.lr * rate, Metric.CRITIC_LR: (self.config.critic_lr or optim.lr) * rate}

    def begin(self, planned: Sequence[int], say: Callable[[str], None]) -> PPOState:
        """The state of the newest complete checkpoint, its hooks made up for if they had not run; else step 0, measured."""
        step = newest_step(self.world, self.run_dir, say)
        if not step:
            before = self.episodes(0)
            statistics = ScoreStatistics.of_reference(before.scores_B)
            state = PPOState(
                step=0,
                statistics=statistics,
                kl_coef=self.config.kl.beta,
                metrics=rollout_metrics(before),
                moments=self.scorer.moments,
                value_scale=self._value_scale(before, statistics),
            )
            self.plain.value_scale = state.value_scale
            self.evaluate(state)
            return state
        folder = step_folder(self.run_dir, step)
        self.engine.load(folder / STATE)
        state = read_state(folder)
        self.scorer.moments, self.plain.value_scale = state.moments, state.value_scale
        if step not in planned:
            return state
        if not self.world.from_main(eval_file(self.run_dir, step).exists):
            self.evaluate(state)
        else:
            self._take(state, self.world.from_main(lambda: read_evaluation(self.run_dir, step)))
        return state

    def save(self, state: PPOState, planned: Sequence[int]) -> None:
        """Writes a checkpoint. The best step so far is saved with the state, so that a resumed run knows it."""
        weights = self.engine.weights("actor.") if self.engine.sharded else None

        def write(folder: Path) -> None:
            export_model(self.plain.actor, self.tokenizer, folder, weights=weights)
            write_state(folder, state)

        save_step(self.world, self.engine, self.run_dir, state.step, planned=planned, write=write)

    def evaluate(self, state: PPOState) -> None:
        """Calls the hooks on the policy in memory, and remembers whether it is the best."""
        self.engine.module.eval()
        if self.engine.sharded:
            self._bring_weights()
        event = CheckpointSaved(
            step=state.step,
            num_steps=self.config.num_batches,
            path=step_folder(self.run_dir, state.step) if state.step else Path(self.config.model.path),
            run_dir=self.run_dir,
            model=self.sampled,
            tokenizer=self.tokenizer,
            metrics=state.metrics,
        )
        with self.autocast():
            self._take(state, self.world.from_main(lambda: run_hooks(self.hooks, event, self.tracker)))

    def autocast(self) -> AbstractContextManager[Any]:
        """Matrix products in bf16 where the model's dtype asks for it, inside the engine and beside it."""
        return autocast(self.world.device, self.config.model.dtype)

    def _take(self, state: PPOState, metrics: dict[str, float]) -> None:
        take_evaluation(state, metrics, self.config, run_dir=self.run_dir, hooks=self.hooks, world=self.world)

    def _bring_weights(self) -> None:
        """Gives the weights in training to what draws by a copy of them."""
        if self.engine.sharded:
            _load(self.sampled, self.engine.iter_weights("actor."))
        if self.config.rollout.kind == RolloutKind.vllm:
            weights = self.sampled.state_dict().items()
            if isinstance(self.generator, RolloutEngine):
                self.generator.load_weights(weights)

    def _value_scale(self, before: Episodes, statistics: ScoreStatistics) -> tuple[float, float]:
        """The units of a critic that starts as one of the reward's models; those of its head for any other."""
        for term in self.scorer.terms:
            if isinstance(term.scorer, RewardModelScorer) and term.scorer.model is self.critic_source:
                weight = term.coefficient / (self.scorer.moments[term.name][1] if term.standardize else 1.0)
                mean = before.terms[term.name].double().mean().item()
                return value_scale(statistics, self.config.shaping, mean=mean, weight=weight)
        return self.plain.value_scale


def open_session(
    config: PPOConfig,
    run_dir: Path,
    *,
    prompts: Sequence[Dialogue],
    scorer: Scorer,
    reward_model: PreTrainedModel | None,
    hooks: Sequence[Hook],
    tracker: Tracker,
    world: World,
) -> PPOSession:
    """Loads the policy and puts everything in its place; nothing is trained or drawn yet."""
    _require_shares(config, world)
    require_no_adapter(config.model, config.lora)
    # What is trained is held in fp32, where small steps are not lost; frozen weights beside an adapter need not be.
    held = config.model if config.lora.rank else replace(config.model, dtype=Dtype.fp32)
    actor, tokenizer = load_policy(held)
    fitting, num_dropped = _fitting(prompts, tokenizer, config)
    critic_source = reward_model if config.critic == "reward" else None
    networks = actor_critic(
        actor,
        critic_source,
        temperature=config.temperature,
        max_length=config.max_prompt_length + config.max_new_tokens,
        lora=config.lora,
        base=locate(config.model),
        seed=config.seed,
    )
    sampled = actor
    if config.engine.kind in ("fsdp2", "zero3"):
        sampled = copy.deepcopy(actor).requires_grad_(False)
    if config.gradient_checkpointing:
        for model in (networks.actor, networks.critic_body):
            assert isinstance(model, PreTrainedModel)
            model.activation_checkpointing_enable()
    engine = open_engine(config.engine, networks, _groups(networks, config), optim=config.optim, dtype=config.model.dtype, world=world)
    engine.module.eval()
    draws = config.rollout.kind != RolloutKind.vllm or world.is_main
    return PPOSession(
        config=config,
        run_dir=run_dir,
        prompts=fitting,
        num_dropped_prompts=num_dropped,
        world=world,
        engine=engine,
        plain=networks,
        sampled=sampled,
        generator=open_generator(config.rollout, sampled, tokenizer) if draws else None,
        critic_source=critic_source,
        tokenizer=tokenizer,
        scorer=WeightedScorer.of(scorer),
        hooks=hooks,
        tracker=tracker,
    )


def _require_shares(config: PPOConfig, world: World) -> None:
    for key in ("batch_size", "minibatch_size"):
        if getattr(config, key) % world.size:
            raise ValueError(f"{key}={getattr(config, key)} cannot be dealt out evenly to {world.size} processes; choose a multiple.")


def _load(model: PreTrainedModel, weights: Iterable[tuple[str, Tensor]]) -> None:
    own = model.state_dict()
    for name, weight in weights:
        own[name].copy_(weight)


def _fitting(prompts: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase, config: PPOConfig) -> tuple[list[Dialogue], int]:
    lengths = map(len, encode_prompts(tokenizer, prompts))
    fitting = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= config.max_prompt_length]
    if not fitting:
        raise ValueError(f"No prompt fits into max_prompt_length={config.max_prompt_length} tokens; raise max_prompt_length.")
    return fitting, len(prompts) - len(fitting)


def _groups(networks: ActorCritic, config: PPOConfig) -> list[dict[str, Any]]:
    """The trained parameters of actor and critic, with their learning rates."""
    critic = [*networks.critic_body.parameters(), *networks.critic_head.parameters()]
    groups = [
        {"name": "actor", "params": list(networks.actor.parameters()), "lr": config.optim.lr},
        {"name": "critic", "params": critic, "lr": config.critic_lr or config.optim.lr},
    ]
    return [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
