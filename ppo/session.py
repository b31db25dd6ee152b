"""What a PPO run trains: the networks under their engine, with generator and scorer; and one batch of it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.config import Dtype, RolloutKind
from core.engines.engine import Engine, open_engine
from core.engines.optim import schedule
from core.generators.half import WholeCopy
from core.generators.open import open_generator
from core.models.adapters import merged_weights, require_no_adapter
from core.models.load import holds_fp32, load_policy
from core.models.locate import locate
from core.models.logprobs import require_paddable
from core.models.mapped import first_layers
from core.models.modes import require_equal_modes
from core.models.positions import require_room
from core.process.precision import autocast
from core.process.world import World
from core.progress import Progress
from core.records import Dialogue, Generator, RolloutEngine, Sampling, Scorer
from core.scorers.reward_model import RewardModelScorer
from core.scorers.weighted import WeightedScorer
from ppo.advantages import Advantages
from ppo.config import CriticStart, PPOConfig, require_shares
from ppo.metrics import Metric
from ppo.model import ActorCritic, actor_critic
from ppo.prompts import batch_prompts, fitting_prompts
from ppo.rollout import Episodes, rollout
from ppo.shaping import ScoreStatistics, value_scale
from ppo.update import update


@dataclass(kw_only=True, slots=True)
class Handover:
    """Whether what samples has the current weights; a send can take as long as drawing a batch."""

    done: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOSession:
    """Actor, critic and reference under their engine, with generator and scorer; one batch is `episodes`, then `update`.

    `rollout_policy` is the policy that generation and hooks use: the actor itself, or that of the `whole_copy` that there is if the
    engine shards and no server samples.
    `generator` is None on processes that leave generation to the main one. `critic_source` is the reward model that the critic
    started from, if any.
    """

    config: PPOConfig
    prompts: Sequence[Dialogue]
    num_dropped_prompts: int
    world: World
    engine: Engine
    networks: ActorCritic
    whole_copy: WholeCopy | None
    rollout_policy: PreTrainedModel
    generator: Generator | None
    critic_source: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    scorer: WeightedScorer
    handover: Handover = field(default_factory=Handover)

    def episodes(self, step: int) -> Episodes:
        """The episodes of batch `step`, a function of weights, seed and step.

        Raises `ValueError` if `importance_cap` is set and the generator reports no log-probabilities.
        """
        config = self.config
        self.engine.module.eval()
        self._sync_generator()
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=config.batch_seed(step))
        with autocast(self.world.device, config.model.dtype):
            episodes = rollout(
                batch_prompts(self.prompts, step, config),
                world=self.world,
                generator=self.generator,
                scorer=self.scorer,
                networks=self.engine.module,
                tokenizer=self.tokenizer,
                sampling=sampling,
                micro_batch_size=config.micro_batch_size,
            )
        if config.importance_cap is not None and episodes.engine_logprobs_BT is None:
            raise ValueError(
                f"importance_cap={config.importance_cap} weighs tokens by the log-probabilities they were sampled with, and this "
                "generator reports none; set importance_cap=null."
            )
        return episodes

    def update(self, episodes: Episodes, advantages: Advantages, *, step: int, kl_coef: float) -> dict[str, float]:
        """Trains on the episodes of batch `step`; returns the metrics of the update and the learning rates of its last step."""
        started, self.handover.done = time.perf_counter(), False
        if self.whole_copy is not None:  # gradients take its place
            self.whole_copy.release()
        # Layers recompute their activations only in training mode, which changes nothing else: PPOConfig rejects dropout.
        self.engine.module.train(self.config.gradient_checkpointing)
        with self.networks.attention():
            measured = update(self.engine, self.world, self.config, episodes, advantages, step=step, kl_coef=kl_coef)
        optim = self.config.optim
        rate = schedule(optim, step * self.config.updates_per_batch, self.config.num_updates)
        rates = {
            Metric.LR: optim.lr * rate if step > self.config.value_warmup else 0.0,
            Metric.CRITIC_LR: (self.config.critic_lr or optim.lr) * rate,
        }
        return {**measured, **rates, "seconds/update": time.perf_counter() - started}

    def policy_to_evaluate(self) -> PreTrainedModel:
        """The policy with its current weights in evaluation mode, whole unless a server samples; the generator has them too.

        All processes must call it.
        """
        self.engine.module.eval()
        self._sync_generator()
        return self.rollout_policy

    def first_value_scale(self, episodes: Episodes, statistics: ScoreStatistics) -> tuple[float, float]:
        """The scale and shift that convert the values of a critic that starts as a reward model to units of the shaped score.

        `episodes` are those of the untrained policy. For any other critic the values are its head's.
        """
        for term in self.scorer.terms:
            if isinstance(term.scorer, RewardModelScorer) and term.scorer.model is self.critic_source:
                weight = term.coefficient / (self.scorer.moments[term.name][1] if term.standardize else 1.0)
                mean = episodes.terms[term.name].double().mean().item()
                return value_scale(statistics, self.config.shaping, mean=mean, weight=weight)
        return self.networks.value_scale

    def _sync_generator(self) -> None:
        """Hands the current weights to a generator that works on a copy, unless it has them."""
        if self.handover.done:
            return
        if self.config.rollout.kind == RolloutKind.vllm:
            self.world.all_gather(self._send_weights)
        elif self.whole_copy is not None:
            self.whole_copy.refresh(self.engine.iter_weights("actor.", formats=self.whole_copy.formats))
        self.handover.done = True

    def _send_weights(self) -> None:
        """Streams the weights to the server, one at a time. All processes take part in gathering each of them, to the last."""
        weights = self.engine.iter_weights("actor.")
        try:
            if isinstance(self.generator, RolloutEngine):
                assert isinstance(self.networks.actor, PreTrainedModel)
                self.generator.load_weights(merged_weights(weights, self.networks.actor))
        finally:
            for _ in weights:
                pass


def open_session(
    config: PPOConfig,
    *,
    prompts: Sequence[Dialogue],
    scorer: Scorer,
    reward_model: PreTrainedModel | None,
    world: World,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> PPOSession:
    """Loads the policy and builds everything around it; nothing is trained or sampled yet.

    Where the engine shards, no process ever holds all weights of a network that is trained, nor of the reference.
    """
    require_shares(config, world.size)
    require_no_adapter(config.model, config.lora)
    # Trained weights are kept in fp32, where small steps are not lost; frozen weights under an adapter need not be.
    held = config.model if config.lora.rank else replace(config.model, dtype=Dtype.fp32)
    shards = config.engine.shards_weights
    actor, tokenizer = load_policy(held, mapped=shards, say=say)
    critic_source = reward_model if config.critic == CriticStart.reward else None
    probe = first_layers(actor) if shards else actor
    require_equal_modes(actor, probe)
    if critic_source is not None:
        require_equal_modes(critic_source)
    fitting, longest = fitting_prompts(prompts, tokenizer, config, world, progress)
    require_room(actor, longest, config.max_new_tokens)
    networks = actor_critic(
        actor,
        critic_source,
        temperature=config.temperature,
        max_length=config.max_prompt_length + config.max_new_tokens,
        lora=config.lora,
        base=locate(config.model),
        seed=config.seed,
        mapped=shards,
    )
    if networks.padding_reason:
        require_paddable(probe)
    served = config.rollout.kind == RolloutKind.vllm
    whole_copy = _whole_copy(actor, config, world) if shards and not served else None
    rollout_policy = actor if whole_copy is None else whole_copy.model
    engine, generates = _opened_engine(networks, config, world), not served or world.is_main
    return PPOSession(
        config=config,
        prompts=fitting,
        num_dropped_prompts=len(prompts) - len(fitting),
        world=world,
        engine=engine,
        networks=networks,
        whole_copy=whole_copy,
        rollout_policy=rollout_policy,
        generator=open_generator(config.rollout, rollout_policy, tokenizer, device=world.device, probe=probe) if generates else None,
        critic_source=critic_source,
        tokenizer=tokenizer,
        scorer=WeightedScorer.of(scorer),
    )


def _opened_engine(networks: ActorCritic, config: PPOConfig, world: World) -> Engine:
    """The engine around the networks, in evaluation mode."""
    if config.gradient_checkpointing:
        for model in (networks.actor, networks.critic_body):
            assert isinstance(model, PreTrainedModel)
            model.activation_checkpointing_enable()
    engine = open_engine(
        config.engine,
        networks,
        _parameter_groups(networks, config),
        optim=config.optim,
        dtype=config.model.dtype,
        world=world,
        hold=holds_fp32(config.model, config.lora),
    )
    engine.module.eval()
    return engine


def _whole_copy(actor: PreTrainedModel, config: PPOConfig, world: World) -> WholeCopy:
    """A copy of the policy to sample from that is not sharded, in the formats that the engine's products are in."""
    products = torch.bfloat16 if config.model.dtype == Dtype.bf16 else torch.float32
    return WholeCopy(actor, dtype=products if holds_fp32(config.model, config.lora) else None, device=world.device)


def _parameter_groups(networks: ActorCritic, config: PPOConfig) -> list[dict[str, Any]]:
    """The trained parameters of actor and critic, with their learning rates."""
    critic = [*networks.critic_body.parameters(), *networks.critic_head.parameters()]
    groups = [
        {"name": "actor", "params": list(networks.actor.parameters()), "lr": config.optim.lr},
        {"name": "critic", "params": critic, "lr": config.critic_lr or config.optim.lr},
    ]
    return [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
