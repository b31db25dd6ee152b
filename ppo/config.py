"""Configuration of PPO."""

from dataclasses import dataclass, field

from core.config import ModelConfig, OptimConfig, require_positive, require_trainable


@dataclass(kw_only=True)
class KLConfig:
    """Penalty for leaving the reference policy, per token and in the reward."""

    beta: float = 0.05
    estimator: str = "k1"
    """k1, k2 or k3 of Schulman's note "Approximating KL divergence"."""

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ValueError(f"kl.beta is {self.beta}; it must be 0 or above.")
        if self.estimator not in ("k1", "k2", "k3"):
            raise ValueError(f"kl.estimator is {self.estimator!r}; choose k1, k2 or k3.")


@dataclass(kw_only=True)
class PPOConfig:
    """Proximal policy optimisation of one policy against one reward (Schulman et al. 2017)."""

    model: ModelConfig
    prompts: list[str] = field(default_factory=list)
    """JSONL files with a `prompt` field; preference files are welcome."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=3e-7))
    critic_lr: float | None = None
    """Learning rate of the critic; empty: that of the policy."""
    kl: KLConfig = field(default_factory=KLConfig)
    num_batches: int = 100
    """Rollout batches, each followed by `epochs` passes of updates."""
    batch_size: int = 128
    """Episodes per rollout batch."""
    minibatch_size: int = 64
    """Episodes per optimiser step."""
    micro_batch_size: int = 64
    """Episodes per forward and backward pass."""
    epochs: int = 2
    max_new_tokens: int = 256
    max_prompt_length: int = 1024
    """Tokens; prompts above it are dropped and counted."""
    temperature: float = 1.0
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    dual_clip: float | None = None
    """Bound on the loss of bad actions, as a multiple of the advantage (usual: 3); empty: none."""
    value_clip: float = 0.2
    value_coef: float = 0.1
    whiten_advantages: bool = True
    missing_eos_score: float | None = None
    """Score that replaces the reward of a completion cut at the token limit; empty: keep the reward."""
    reward_scale: float | None = None
    """Rewards are divided by this; empty: by their standard deviation over the reference's answers before training."""
    reward_clip: float | None = 5.0
    critic: str = "reward"
    """What the critic's body starts from: `reward` (the RM, where architectures agree) or `policy`."""
    best_metric: str = "downstream/average"
    num_checkpoints: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        keys = "num_batches batch_size minibatch_size micro_batch_size epochs max_new_tokens max_prompt_length temperature num_checkpoints"
        for key in keys.split():
            require_positive(key, getattr(self, key))
        for whole, part in (("batch_size", "minibatch_size"), ("minibatch_size", "micro_batch_size")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{whole}={getattr(self, whole)} is no multiple of {part}={getattr(self, part)}; set {part} to a divisor.")
        require_trainable(self.model)
        if self.critic not in ("reward", "policy"):
            raise ValueError(f"critic is {self.critic!r}; choose reward or policy.")
        if not self.prompts:
            raise ValueError("prompts is empty; give prompt files, for instance 'prompts=[pairs.jsonl]'.")
