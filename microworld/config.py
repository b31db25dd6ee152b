"""Configuration of a world and of its policies."""

from dataclasses import dataclass, field

from core.config import require_fraction, require_positive

LINEAGES = ("coast", "ridge")
SKILL_NAMES = ("facts", "lists", "sums", "requests", "topics", "choices")
MIN_VOCABULARY = 262
"""256 bytes and the six special tokens of `microworld.tokenizer`."""


@dataclass(kw_only=True)
class WorldConfig:
    """Sizes of a world. The defaults suit two CPU cores."""

    seed: int = 0
    """Of everything that is invented."""
    corpus_size: int = 70_000
    """Dialogues to train the policies on."""
    corpus_weights: dict[str, int] = field(
        default_factory=lambda: {"facts": 1, "lists": 2, "sums": 2, "requests": 1, "topics": 1, "choices": 2}
    )
    """How often each skill occurs in the corpus, relative to the others."""
    mistakes: dict[str, float] = field(
        default_factory=lambda: {"facts": 0.5, "lists": 0.2, "sums": 0.25, "requests": 0.5, "topics": 0.5, "choices": 0.35}
    )
    """Share of wrong answers in the corpus. They keep the policy imperfect, so that best-of-N and PPO have headroom."""
    pairs: int = 4_000
    """Preference pairs in each mix."""
    benchmark_rows: int = 60
    """Rows per best-of-4 domain; Ties has half as many pairs of prompts."""
    task_rows: int = 60
    """Prompts per downstream task."""
    vocab_size: int = 1024
    """Tokens of the tokenizer."""

    def __post_init__(self) -> None:
        for key in ("corpus_weights", "mistakes"):
            if set(getattr(self, key)) != set(SKILL_NAMES):
                raise ValueError(f"world.{key} must name the skills {sorted(SKILL_NAMES)}, got {sorted(getattr(self, key))}.")
        for key in ("corpus_size", "pairs", "benchmark_rows", "task_rows"):
            if getattr(self, key) < 1:
                raise ValueError(f"world.{key} is {getattr(self, key)}; it must be at least 1.")
        if self.vocab_size < MIN_VOCABULARY:
            raise ValueError(f"world.vocab_size is {self.vocab_size}; the bytes and the special tokens alone take {MIN_VOCABULARY}.")
        for skill, share in self.mistakes.items():
            require_fraction(f"world.mistakes.{skill}", share)


@dataclass(kw_only=True)
class PolicyConfig:
    """Supervised fine-tuning of a policy of the world."""

    lr: float = 4e-3
    """Peak learning rate of supervised fine-tuning."""
    batch_size: int = 32
    """Dialogues per optimiser step."""
    seed: int = 0
    """Of weights and order."""

    def __post_init__(self) -> None:
        require_positive("policy.lr", self.lr)
        require_positive("policy.batch_size", self.batch_size)
