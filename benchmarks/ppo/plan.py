"""What the contenders of `benchmarks.ppo.speed` train on, and what they report. Nothing here needs rewardloop, which the peer has not."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import now, peak_mib, reset_peak

PARTS = ("rollout", "scoring", "update")
"""Where the seconds of a batch go: drawing and measuring by policy, reference and critic; the reward model; all the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that a contender needs. Every prompt is answered once; the first batch warms up and is not timed.

    `policy` and `reward` are folders, of a causal language model and of a sequence classifier with the same tokenizer.
    `prompts` are dialogues as lists of `{"role", "content"}`, and `prompt_ids` their tokens up to where the assistant begins.
    A completion without EOS loses `missing_eos` of its score, which is otherwise taken as it is.
    """

    policy: str
    reward: str
    prompts: list[list[dict[str, str]]]
    prompt_ids: list[list[int]]
    dtype: str
    batch_size: int
    minibatch_size: int
    epochs: int
    max_new_tokens: int
    lr: float
    missing_eos: float = 3.0
    temperature: float = 1.0
    beta: float = 0.05
    adam_eps: float = 1e-5
    seed: int = 0
    peer: dict[str, Any] = field(default_factory=dict)
    """What the peer is run with beside this: `rollout_batch`, and `weights`, the number format in which it holds all models."""

    @property
    def num_batches(self) -> int:
        return len(self.prompts) // self.batch_size

    def save(self, file: Path) -> Path:
        file.write_text(json.dumps(asdict(self)))
        return file

    @classmethod
    def load(cls, file: Path) -> "Plan":
        return cls(**json.loads(file.read_text()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a contender did: seconds of every timed batch, whole and by part; of every batch the curves; the peak of memory.

    `curves` hold `score` (after the penalty for a missing EOS), `kl` (k1 in nats per completion), `length` in tokens and
    `eos_rate`. `peak_mib` is the highest resident memory during the timed batches (on a GPU: allocated memory).
    """

    seconds: list[float]
    parts: dict[str, list[float]]
    curves: dict[str, list[float]]
    peak_mib: float
    versions: dict[str, str]


class Clock:
    """Reads time and memory at the end of every batch; the timing starts at the end of the first. `now` gives the time in seconds."""

    def __init__(self, now: Callable[[], float] = now) -> None:
        self.now = now
        self.ends: list[float] = []
        self.seconds: list[float] = []
        self.parts: dict[str, list[float]] = {part: [] for part in PARTS}
        self.curves: dict[str, list[float]] = {}
        self.peak_mib = float("nan")

    def batch(self, *, rollout: float, scoring: float, **curves: float) -> None:
        """A batch is done; `rollout` and `scoring` are its seconds of these parts."""
        self.ends.append(self.now())
        for name, value in curves.items():
            self.curves.setdefault(name, []).append(value)
        if len(self.ends) == 1:
            reset_peak()
            return
        whole = self.ends[-1] - self.ends[-2]
        self.seconds.append(whole)
        for part, spent in zip(PARTS, (rollout, scoring, whole - rollout - scoring), strict=True):
            self.parts[part].append(spent)
        self.peak_mib = peak_mib()

    def finding(self, versions: dict[str, str], **curves: list[float]) -> Finding:
        return Finding(seconds=self.seconds, parts=self.parts, curves={**self.curves, **curves}, peak_mib=self.peak_mib, versions=versions)
