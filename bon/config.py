"""Configuration of best-of-N."""

from dataclasses import dataclass

from core.config import Hashed, require_positive

MANIFEST = "pool.json"
"""The file that says what a folder of pools holds."""
SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet", ".gz", ".zst")
"""How the names of files end that others' completions are read from."""


@dataclass(kw_only=True)
class PoolConfig:
    """How a pool of completions is sampled from a policy."""

    n: Hashed[int] = 16
    """Completions per prompt."""
    temperature: Hashed[float] = 1.0
    """Of sampling."""
    max_new_tokens: Hashed[int] = 1024
    """Tokens after which an answer is cut."""
    seed: Hashed[int] = 0
    """Of sampling."""
    limit: Hashed[int | None] = None
    """Use only the first `limit` prompts of every task; None: all."""

    def __post_init__(self) -> None:
        require_positive("pool.n", self.n)
        require_positive("pool.temperature", self.temperature)
        require_positive("pool.max_new_tokens", self.max_new_tokens)
        if self.limit is not None:
            require_positive("pool.limit", self.limit)
