"""Configuration of reward-model training."""

from dataclasses import dataclass, field

from core.config import ModelConfig, OptimConfig, require_fraction, require_positive, require_trainable


@dataclass(kw_only=True)
class PreferenceDataConfig:
    """Where preference pairs come from and what is done to them, in the order of the fields.

    `paths` are JSONL or parquet files or hub dataset ids; several form their full union.
    """

    name: str = "custom"
    paths: list[str] = field(default_factory=list)
    subsample: float = 1.0
    """Share of the pairs that is kept, seeded."""
    flip: float = 0.0
    """Share of the pairs whose label is flipped, seeded; 1.0 inverts all of them."""
    held_out: float = 0.0
    """Share of the pairs kept out of training to measure accuracy on."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("data.paths is empty; give preference files, for instance 'data.paths=[pairs.jsonl]'.")
        require_fraction("data.subsample", self.subsample, positive=True)
        require_fraction("data.flip", self.flip)
        if not 0 <= self.held_out < 1:
            raise ValueError(f"data.held_out is {self.held_out}; it is a share from 0 to below 1.")


@dataclass(kw_only=True)
class RewardModelConfig:
    """Bradley-Terry training of one reward model."""

    model: ModelConfig
    data: PreferenceDataConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 1
    batch_size: int = 128
    """Pairs per optimiser step, over all processes and accumulation steps."""
    micro_batch_size: int = 8
    """Pairs per forward pass of one process."""
    max_length: int = 2048
    """Tokens of prompt and completion; longer pairs are dropped and counted."""
    label_smoothing: float = 0.0
    center: float = 0.0
    """Weight of the squared sum of a pair's rewards, which keeps them around zero."""
    gradient_checkpointing: bool = False
    num_checkpoints: int = 3
    """Checkpoints per run, evenly spaced, the last one at the end; the hooks run at each."""
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "micro_batch_size", "max_length", "num_checkpoints"):
            require_positive(key, getattr(self, key))
        require_trainable(self.model)
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size={self.batch_size} is no multiple of micro_batch_size={self.micro_batch_size}; "
                "set micro_batch_size to a divisor."
            )
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it is a probability from 0 to below 0.5.")
