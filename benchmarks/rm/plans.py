"""What the contenders of `benchmarks.rm.speed` train on: the same tokenised pairs, split into batches, and how much work they are."""

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
"""Indices of pairs, by step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that a contender needs: the folder of a reward model, pairs as (chosen, rejected) token ids, and the batches.

    `shuffled` are the batches in our own order, `grouped` in TRL's order with length grouping; both hold the same pairs. The
    batch `probe`, if not empty, is trained on before and after them, untimed: it is a warm-up, and its final loss allows
    comparing contenders whose batches differ.
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
    """Token counts of some batches: of the texts, with shared prompts counted once, and with padding."""

    tokens: int
    unique: int
    padded: int
    seen: int
    """Query-key pairs attended to, over the unique tokens."""
    padded_seen: int


def work(pairs: Sequence[TokenPair], batches: Batches) -> Work:
    """The work in the batches; all texts of a batch are padded to its longest, as TRL's collator does."""
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
    from transformers.trainer_pt_utils import LengthGroupedSampler  # imports everything that any trainer needs

    sampler = LengthGroupedSampler(BATCH, lengths=[longest(pair) for pair in pairs], generator=torch.Generator().manual_seed(seed))
    order = list(sampler)
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A sample of the pairs, split into batches as in a `Plan`."""

    pairs: list[TokenPair]
    shuffled: Batches
    grouped: Batches
    probe: list[int]


def sample(pairs: Sequence[TokenPair], num_batches: int, seed: int) -> Sample:
    """Pairs for `num_batches` batches, and 8 more for the probe.

    Grouping a small sample by itself would pad more than grouping all pairs and make the peer look slower than it is. So the
    sample consists of whole batches of an epoch grouped over all pairs: sorted by length, the middle batch of each of
    `num_batches` equal parts, so that the sample has the length distribution of the whole. The probe is shorter than most.
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
