"""What the contenders of ppo_train.py train on, and what they find. It imports the standard library alone: the peer has no rewardloop."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
    """Reads time and memory at the end of every batch; the first end is where the timing begins.

    `now` gives the time in seconds; on a GPU it must wait for what is pending, and `gpu_peak` gives its peak of memory in MiB.
    """

    def __init__(self, now: Callable[[], float], gpu_peak: Callable[[], float] | None = None) -> None:
        self.now, self.gpu_peak = now, gpu_peak
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
            _forget_peak()
            return
        whole = self.ends[-1] - self.ends[-2]
        self.seconds.append(whole)
        for part, spent in zip(PARTS, (rollout, scoring, whole - rollout - scoring), strict=True):
            self.parts[part].append(spent)
        self.peak_mib = self.gpu_peak() if self.gpu_peak else _resident_peak()

    def finding(self, versions: dict[str, str], **curves: list[float]) -> Finding:
        return Finding(seconds=self.seconds, parts=self.parts, curves={**self.curves, **curves}, peak_mib=self.peak_mib, versions=versions)


def _resident_peak() -> float:
    """The highest resident memory since `_forget_peak`, in MiB, as Linux counts it; NaN on other systems."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), float("nan"))


def _forget_peak() -> None:
    """What loading took must not hide what training takes."""
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
