"""What the contenders of `benchmarks.rm.speed` train on: the same pairs as tokens, dealt into batches, and how much work that is."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from rmtrain.batches import Order
from rmtrain.session import num_unique_tokens
from rmtrain.tokens import TokenPair

BATCH = 8
"""Pairs per step: TRL's default."""

Batches = list[list[int]]
"""Numbers of pairs, step by step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that a contender needs: the folder of a reward model, pairs as (chosen, rejected) token ids, and the batches.

    `shuffled` are the batches in our own order, `grouped` in that of TRL with length grouping; both hold the same pairs. The
    batch `probe`, if it has pairs, is trained on before and after them, outside of the timing: it warms up, and its last
    loss compares contenders that had other batches.
    """

    model: str
    pairs: list[tuple[list[int], list[int]]]
    shuffled: Batches
    grouped: Batches
    probe: list[int]
    dtype: str
    lr: float
    micro_batch_tokens: int

    def steps(self, batches: Batches) -> Batches:
        return [self.probe, *batches, self.probe] if self.probe else batches

    def save(self, file: Path) -> Path:
        file.write_text(json.dumps(asdict(self)))
        return file

    @classmethod
    def load(cls, file: Path) -> "Plan":
        return cls(**json.loads(file.read_text()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Tokens of some batches: those of the texts, those with the shared prompts counted once, and those with padding."""

    tokens: int
    unique: int
    padded: int
    seen: int
    """Pairs of a query and a key that it sees, over the unique tokens."""
    padded_seen: int


def work(pairs: Sequence[TokenPair], batches: Batches) -> Work:
    """What the batches hold; all texts of a batch are padded to its longest, as TRL's collator does."""
    chosen = [pairs[i] for batch in batches for i in batch]
    shapes = [(2 * len(batch), max(longest(pairs[i]) for i in batch)) for batch in batches]
    return Work(
        tokens=sum(len(pair.chosen) + len(pair.rejected) for pair in chosen),
        unique=sum(num_unique_tokens(pair) for pair in chosen),
        padded=sum(rows * length for rows, length in shapes),
        seen=sum(_seen(pair) for pair in chosen),
        padded_seen=sum(rows * _causal(length) for rows, length in shapes),
    )


def longest(pair: TokenPair) -> int:
    return max(len(pair.chosen), len(pair.rejected))


def shuffled(num_pairs: int, seed: int) -> Batches:
    """One epoch in the order of our own sessions."""
    order = Order(num_pairs, batch_size=BATCH, seed=seed)
    return [order.batch(step) for step in range(1, -(-num_pairs // BATCH) + 1)]


def grouped(pairs: Sequence[TokenPair], seed: int) -> Batches:
    """One epoch in the order of transformers' length grouping (train_sampling_strategy="group_by_length") over all pairs."""
    from transformers.trainer_pt_utils import LengthGroupedSampler  # which imports all that any trainer needs

    sampler = LengthGroupedSampler(BATCH, lengths=[longest(pair) for pair in pairs], generator=torch.Generator().manual_seed(seed))
    order = list(sampler)
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Some of all pairs, dealt into batches as a `Plan` has them."""

    pairs: list[TokenPair]
    shuffled: Batches
    grouped: Batches
    probe: list[int]


def sample(pairs: Sequence[TokenPair], num_batches: int, seed: int) -> Sample:
    """Pairs for `num_batches` batches, and 8 more for the probe.

    Grouping a small sample by itself would pad more than grouping all pairs does, and make the peer slower than it is. So
    the sample is made of whole batches of a grouped epoch over all pairs: these sorted by length, the middle one of each of
    `num_batches` equal parts, so that the sample also has the lengths of the whole. The probe is shorter than most.
    """
    whole = [batch for batch in grouped(pairs, seed) if len(batch) == BATCH]
    whole.sort(key=lambda batch: max(longest(pairs[i]) for i in batch))
    num_batches = min(num_batches, len(whole))
    chosen = [whole[int((part + 0.5) * len(whole) / num_batches)] for part in range(num_batches)]
    numbers = [i for batch in [*chosen, whole[len(whole) // 8]] for i in batch]
    *places, probe = [list(range(first, first + BATCH)) for first in range(0, len(numbers), BATCH)]
    return Sample(pairs=[pairs[i] for i in numbers], shuffled=shuffled(num_batches * BATCH, seed), grouped=places, probe=probe)


def _seen(pair: TokenPair) -> int:
    prompt = len(pair.chosen) + len(pair.rejected) - num_unique_tokens(pair)
    return _causal(len(pair.chosen)) + _causal(len(pair.rejected)) - _causal(prompt)


def _causal(length: int) -> int:
    return length * (length + 1) // 2
