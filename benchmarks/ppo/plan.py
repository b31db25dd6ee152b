"""What the contenders of `benchmarks.ppo.speed` train on and report. Does not import rewardloop, which the peer does not have."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import now, peak_mib, reset_peak

PARTS = ("rollout", "scoring", "update")
"""The parts of a batch's time: generation with the passes of policy, reference and critic; the reward model; the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that a contender needs. Every prompt is answered once; the first batch is a warm-up and is not timed.

    `policy` and `reward` are folders with a causal language model and a sequence classifier of the same tokenizer.
    `prompts` are dialogues as lists of `{"role", "content"}`, and `prompt_ids` their tokens up to where the assistant begins.
    A completion without EOS has `missing_eos` subtracted from its score; scores are otherwise unchanged.
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
    """The peer's own settings: `rollout_batch`, and `weights`, the dtype of all its models."""

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
    """A contender's measurements: seconds of every timed batch, total and by part; curves over all batches; peak memory.

    `curves` hold `score` (after the penalty for a missing EOS), `kl` (k1 in nats per completion), `length` in tokens and
    `eos_rate`. `peak_mib` is the highest resident memory during the timed batches (on a GPU: allocated memory).
    """

    seconds: list[float]
    parts: dict[str, list[float]]
    curves: dict[str, list[float]]
    peak_mib: float
    versions: dict[str, str]


class Clock:
    """Measures time and memory at the end of every batch; timing starts at the end of the first. `now` gives the time in seconds."""

    def __init__(self, now: Callable[[], float] = now) -> None:
        self.now = now
        self.ends: list[float] = []
        self.seconds: list[float] = []
        self.parts: dict[str, list[float]] = {part: [] for part in PARTS}
        self.curves: dict[str, list[float]] = {}
        self.peak_mib = float("nan")

    def batch(self, *, rollout: float, scoring: float, **curves: float) -> None:
        """Call at the end of a batch; `rollout` and `scoring` are the seconds it spent in these parts."""
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
