"""Configuration of PPO."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from core.config import (
    ContentHashed,
    Dtype,
    EngineConfig,
    EngineKind,
    Hashed,
    LoraConfig,
    ModelConfig,
    Offload,
    OptimConfig,
    Quantize,
    RolloutConfig,
    RolloutKind,
    RoundingOnly,
    Unhashed,
    require_fraction,
    require_not_negative,
    require_positive,
    require_trainable,
)
from core.runs.retention import KEPT, Keep


class KLPlace(StrEnum):
    """Where the KL penalty acts."""

    reward = "reward"
    """In every token's reward, and so in advantages and values."""
    loss = "loss"
    """In the loss, as a term that is differentiated."""


class KLEstimator(StrEnum):
    """Estimators of the KL from one sample (Schulman 2020, "Approximating KL divergence"); `ppo.kl.kl_estimate` has the formulas."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class MissingEOS(StrEnum):
    """What happens to the score of a completion that was cut at the token limit."""

    keep = "keep"
    replace = "replace"  # pyright: ignore[reportAssignmentType]  # the word in configurations; it hides `str.replace`, which nothing needs
    """By `value`, as open-instruct does."""
    subtract = "subtract"
    """Less `value`, as TRL did."""


class Center(StrEnum):
    """The mean that is subtracted from scores."""

    reference = "reference"
    """Of the reference's completions before training."""
    running = "running"
    """Of all episodes so far."""
    none = "none"


class Scale(StrEnum):
    """The standard deviation that scores are divided by."""

    reference = "reference"
    """Of the reference's completions before training."""
    running = "running"
    """Of all episodes so far."""
    fixed = "fixed"
    """`std`."""


class CriticStart(StrEnum):
    """The model that the critic's body is initialised from."""

    reward = "reward"
    """The reward model, if the reward is a model whose architecture and vocabulary fit; otherwise the policy."""
    policy = "policy"


@dataclass(kw_only=True)
class KLConfig:
    """Penalty for moving away from the reference policy."""

    beta: Hashed[float] = 0.05
    """Coefficient of the penalty; with `target`, its initial value."""
    place: Hashed[KLPlace] = KLPlace.reward
    estimator: Hashed[KLEstimator] = KLEstimator.k1
    """In the loss k2 or k3 (see ppo.kl.kl_loss)."""
    target: Hashed[float | None] = None
    """KL in nats per completion that the coefficient adapts to (Ziegler et al. 2019, section 2.2); empty: it stays at `beta`."""
    horizon: Hashed[int] = 10_000
    """Episodes over which the coefficient adapts; lower is faster."""
    stop: Hashed[float | None] = None
    """The run ends with an error if the mean KL of a batch, in nats per completion, is above this; empty: never."""

    def __post_init__(self) -> None:
        require_not_negative("kl.beta", self.beta)
        _require_choice("kl.estimator", self.estimator, KLEstimator)
        _require_choice("kl.place", self.place, KLPlace)
        if self.place == KLPlace.loss and self.estimator == KLEstimator.k1:
            raise ValueError("kl.estimator=k1 has a gradient of zero in expectation in the loss; choose k2 (or k3), or kl.place=reward.")
        require_positive("kl.horizon", self.horizon)
        if self.target is not None:
            require_positive("kl.target", self.target)
        if self.stop is not None:
            require_positive("kl.stop", self.stop, may_be_infinite=True)
        if self.target is not None and not self.beta:
            raise ValueError("kl.target multiplies kl.beta, and kl.beta=0 stays 0; start from a positive one such as kl.beta=0.05.")


@dataclass(kw_only=True)
class MissingEOSConfig:
    """What happens to the score of a completion that was cut off at the token limit, in units of the shaped score."""

    how: Hashed[MissingEOS] = MissingEOS.keep
    value: Hashed[float | None] = None
    """For replace and subtract, in units of the shaped score."""

    def __post_init__(self) -> None:
        key = "shaping.missing_eos"
        _require_choice(f"{key}.how", self.how, MissingEOS)
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{key}.value is {self.value}; give a finite number.")
        if self.how == MissingEOS.keep and self.value is not None:
            raise ValueError(f"{key}.value={self.value} has no effect where {key}.how=keep; add {key}.how=replace or subtract.")
        if self.how != MissingEOS.keep and self.value is None:
            raise ValueError(
                f"{key}.value is empty; {key}.how={self.how} needs a number, such as {3.0 if self.how == MissingEOS.subtract else -3.0}."
            )


@dataclass(kw_only=True)
class OverlongConfig:
    """Soft penalty for completions close to the token limit (DAPO, Yu et al. 2025, eq. 13)."""

    buffer: Hashed[int] = 0
    """The penalty grows linearly over this many tokens before max_new_tokens; 0: none."""
    penalty: Hashed[float] = 1.0
    """Its size at max_new_tokens, in units of the shaped score."""

    def __post_init__(self) -> None:
        if self.buffer < 0:
            raise ValueError(f"shaping.overlong.buffer is {self.buffer}; give a number of tokens, or 0 for no penalty.")
        require_positive("shaping.overlong.penalty", self.penalty)


@dataclass(kw_only=True)
class ShapingConfig:
    """How raw scores are shaped, in the order of the keys (see ppo.shaping.shaped_scores)."""

    center: Hashed[Center] = Center.reference
    scale: Hashed[Scale] = Scale.reference
    std: Hashed[float | None] = None
    """For scale=fixed; 1 leaves scores as they are."""
    clip: Hashed[float | None] = 5.0
    """Scores are clipped to +- this; empty: not at all."""
    missing_eos: Hashed[MissingEOSConfig] = field(default_factory=MissingEOSConfig)
    overlong: Hashed[OverlongConfig] = field(default_factory=OverlongConfig)

    def __post_init__(self) -> None:
        _require_choice("shaping.center", self.center, Center)
        _require_choice("shaping.scale", self.scale, Scale)
        if self.std is not None:
            require_positive("shaping.std", self.std)
        if self.clip is not None:
            require_positive("shaping.clip", self.clip, may_be_infinite=True)
        if (self.scale == Scale.fixed) != (self.std is not None):
            raise ValueError(f"shaping.scale={self.scale} with shaping.std={self.std}: set both (shaping.scale=fixed shaping.std=1.0).")


class Algo(StrEnum):
    """The online algorithm. All but `ppo` have no critic and are run by TRL's trainers."""

    ppo = "ppo"
    rloo = "rloo"
    """REINFORCE leave-one-out (Ahmadian et al. 2024)."""
    grpo = "grpo"
    """Group-relative policy optimisation (Shao et al. 2024)."""


@dataclass(kw_only=True)
class PPOConfig:
    """Proximal policy optimisation of one policy against one reward (Schulman et al. 2017)."""

    model: Hashed[ModelConfig]
    algo: Hashed[Algo] = Algo.ppo
    group_size: Hashed[int] = 8
    """rloo, grpo: completions per prompt, which serve as each other's baseline."""
    lora: Hashed[LoraConfig] = field(default_factory=LoraConfig)
    engine: Hashed[EngineConfig] = field(default_factory=EngineConfig)
    rollout: Hashed[RolloutConfig] = field(default_factory=RolloutConfig)
    prompts: ContentHashed[list[str]] = field(default_factory=list)
    """Files, folders or hub datasets with a prompt in each row, preference data included (see ppo.prompts.read_prompts)."""
    optim: Hashed[OptimConfig] = field(default_factory=lambda: OptimConfig(lr=3e-7))
    """The default rate is that of the RewardBench 2 paper (Malik et al. 2025, section 5.2)."""
    critic_lr: Hashed[float | None] = None
    """Learning rate of the critic; empty: the policy's."""
    kl: Hashed[KLConfig] = field(default_factory=KLConfig)
    num_batches: Hashed[int] = 100
    """Rollout batches, each followed by `epochs` passes of updates."""
    batch_size: Hashed[int] = 128
    """Episodes per rollout batch."""
    minibatch_size: Hashed[int] = 64
    """Episodes per optimiser step."""
    micro_batch_size: RoundingOnly[int] = 4
    """Episodes per forward and backward pass of one process. Bounds memory and changes no result."""
    epochs: Hashed[int] = 2
    """Passes of updates over each rollout batch."""
    max_new_tokens: Hashed[int] = 1024
    """Tokens after which an answer is cut."""
    max_prompt_length: Hashed[int] = 1024
    """In tokens; longer prompts are dropped and counted."""
    temperature: Hashed[float] = 1.0
    """Of sampling; the log-probabilities of the loss are at the same one."""
    gamma: Hashed[float] = 1.0
    """Discount of later rewards per token."""
    lam: Hashed[float] = 0.95
    """Lambda of generalised advantage estimation (Schulman et al. 2016)."""
    clip: Hashed[float] = 0.2
    """The ratio to the policy that sampled is clipped to 1 +- this."""
    dual_clip: Hashed[float | None] = None
    """Bound on the loss of bad actions, as a multiple of the advantage (usual: 3); empty: none."""
    value_clip: Hashed[float] = 0.2
    """New values are clipped to the old ones +- this."""
    value_coef: Hashed[float] = 0.1
    """Weight of the value loss."""
    value_warmup: Hashed[int] = 0
    """Batches at the beginning that train only the critic; the learning-rate schedule counts them."""
    entropy_coef: Hashed[float] = 0.0
    """Weight of the entropy bonus in the loss."""
    importance_cap: Hashed[float | None] = 2.0
    """Upper bound of the weights that correct for a generator whose log-probabilities are not the trainer's, such as a vLLM server or
    one that samples in bf16 (Yao et al. 2025); empty: no weights. Batches whose log-probabilities differ by no more than rounding in
    fp32, 0.001 nats on average (`train/importance_gap`), have none."""
    whiten_advantages: Hashed[bool] = True
    """Shift and scale the advantages of a batch to mean 0 and variance 1."""
    shaping: Hashed[ShapingConfig] = field(default_factory=ShapingConfig)
    critic: Hashed[CriticStart] = CriticStart.reward
    best_metric: Hashed[str] = "downstream/average"
    """The checkpoint with its highest value becomes `best`: a metric of the hooks, or rm_score."""
    stop_after_falls: Hashed[int | None] = None
    """The run ends once `best_metric` has fallen at this many checkpoints in a row while the reward's score rose
    (over-optimisation, Gao et al. 2023); empty: never."""
    num_checkpoints: Hashed[int] = 4
    """Checkpoints per run, evenly spaced, the last one at the end; the hooks run at each."""
    save_minutes: Unhashed[float] = 15.0
    """Minutes without a checkpoint after which one is saved to resume from: a killed run loses no more than that and a batch."""
    keep: Unhashed[Any] = field(default_factory=lambda: [*KEPT])
    """Checkpoints that keep their weights: [best,last], all, last, or how many of the newest beside the best. Metrics are always kept."""
    gradient_checkpointing: RoundingOnly[bool] = False
    """Recompute activations in the backward pass instead of storing them."""
    seed: Hashed[int] = 0
    """Of the prompts, the answers and the order of updates."""

    def __post_init__(self) -> None:
        keys = "num_batches batch_size minibatch_size micro_batch_size group_size epochs max_new_tokens max_prompt_length temperature"
        keys += " num_checkpoints"
        for key in keys.split():
            require_positive(key, getattr(self, key))
        require_positive("save_minutes", self.save_minutes, may_be_infinite=True)
        Keep.of(self.keep)  # raises for an unknown choice
        for whole, part in (("batch_size", "minibatch_size"), ("minibatch_size", "micro_batch_size")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{whole}={getattr(self, whole)} is no multiple of {part}={getattr(self, part)}; set {part} to a divisor.")
        require_trainable(self.model, self.lora)
        if self.model.quantize != Quantize.none and self.engine.kind in (EngineKind.fsdp2, EngineKind.zero3):
            raise ValueError(f"engine={self.engine.kind} cannot shard packed weights (model.quantize={self.model.quantize}); choose ddp.")
        if self.algo == Algo.ppo and self.lora.dropout:
            raise ValueError(f"lora.dropout={self.lora.dropout} would train another policy than the one that samples; leave it at 0.")
        if self.model.dtype == Dtype.fp16:
            raise ValueError("model.dtype=fp16 would need loss scaling in training; choose bf16 or fp32.")
        if self.model.keep_head:
            raise ValueError("model.keep_head=true keeps the head of a reward model in its training, and a policy has none; leave it out.")
        if self.rollout.kind == RolloutKind.vllm and self.model.quantize != Quantize.none:
            raise ValueError(
                f"rollout.kind=vllm is sent whole weights, and model.quantize={self.model.quantize} packs them; leave it out, or choose "
                "rollout.kind=transformers."
            )
        _require_choice("critic", self.critic, CriticStart)
        for key in ("gamma", "lam"):
            require_fraction(key, getattr(self, key))
        for key in ("critic_lr", "clip", "value_clip", "importance_cap", "stop_after_falls"):
            if (value := getattr(self, key)) is not None:
                require_positive(key, value, may_be_infinite=key in ("clip", "value_clip", "importance_cap"))  # no bound
        for key in ("value_coef", "value_warmup", "entropy_coef"):
            require_not_negative(key, getattr(self, key))
        if self.value_warmup >= self.num_batches:
            raise ValueError(
                f"value_warmup={self.value_warmup} leaves no batch for the policy; choose one below num_batches={self.num_batches}."
            )
        if self.dual_clip is not None and not self.dual_clip > 1:  # also rejects NaN
            raise ValueError(
                f"dual_clip is {self.dual_clip}; it bounds the ratio of bad actions from above and must be above 1 (usual: 3)."
            )
        if self.value_warmup and self.engine.offload != Offload.none and self.engine.kind in (EngineKind.zero2, EngineKind.zero3):
            raise ValueError(
                f"value_warmup={self.value_warmup} freezes the policy, which engine={self.engine.kind} cannot do with "
                f"engine.offload={self.engine.offload}; choose engine=fsdp2 engine.offload=all, or value_warmup=0."
            )
        if self.shaping.overlong.buffer >= self.max_new_tokens:
            raise ValueError(
                f"shaping.overlong.buffer={self.shaping.overlong.buffer} leaves no length without a penalty; choose one below "
                f"max_new_tokens={self.max_new_tokens}."
            )
        if not self.prompts:
            raise ValueError("prompts is empty; give prompt files, for instance 'prompts=[pairs.jsonl]'.")

    @property
    def updates_per_batch(self) -> int:
        """Optimiser steps for each rollout batch."""
        return self.epochs * (self.batch_size // self.minibatch_size)

    @property
    def num_updates(self) -> int:
        """Optimiser steps of the whole run, over which the learning rate decays."""
        return self.num_batches * self.updates_per_batch

    def batch_seed(self, step: int) -> int:
        """The seed of everything that batch `step` draws."""
        return self.seed * 100_003 + step


def require_shares(config: PPOConfig, num_processes: int) -> None:
    """Raises `ValueError` for batches of which the processes of PPO cannot have equal shares."""
    for key in ("batch_size", "minibatch_size"):
        if getattr(config, key) % num_processes:
            raise ValueError(f"{key}={getattr(config, key)} cannot be divided evenly among {num_processes} processes; choose a multiple.")


def _require_choice(key: str, value: str, choices: type[StrEnum]) -> None:
    """Refuses a word that is none of the choices. Configurations built in Python reach the dataclass unconverted."""
    *most, last = choices
    if value not in (*most, last):
        raise ValueError(f"{key} is {str(value)!r}; choose {', '.join(most)} or {last}.")
