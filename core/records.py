"""The records that cross a border between two packages.

Every record is frozen, keyword-only and slotted, so that a value can be neither misordered nor changed on its way. They
hold plain data (text, numbers, paths) wherever they can: tensors stay inside a package.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # reading a file or checking a configuration must not wait for torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AXIS = "checkpoint/step"
"""The step axis that benchmark and downstream metrics share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a dialogue.

    >>> Message(role="user", content="Name a fruit.")
    Message(role='user', content='Name a fruit.')
    """

    role: str
    content: str


Dialogue = tuple[Message, ...]
"""A prompt: the turns up to, not including, the answer of the assistant."""


def user(content: str) -> Dialogue:
    """A dialogue of a single user turn."""
    return (Message(role="user", content=content),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Two completions of one prompt, of which `chosen` was preferred.

    >>> Preference(prompt=user("Name a fruit."), chosen="A plum.", rejected="A lamp.").margin is None
    True
    """

    prompt: Dialogue
    chosen: str
    rejected: str
    margin: float | None = None
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt with what its verifier needs to judge an answer.

    >>> Prompt(id="sums-3", dialogue=user("What is 2 plus 3?"), reference={"answer": "5"}).task
    ''
    """

    id: str
    dialogue: Dialogue
    task: str = ""
    reference: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How completions are drawn: `n` per prompt, at `temperature` (0 is greedy), no top-k and no top-p.

    The draw of a prompt is a function of the seed and of its place: its number in the list, plus `first` where the list is a
    part of a longer one.
    """

    n: int = 1
    temperature: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    first: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_new_tokens < 1:
            raise ValueError(f"Sampling needs n >= 1 and max_new_tokens >= 1, got n={self.n}, max_new_tokens={self.max_new_tokens}.")
        if self.temperature < 0:
            raise ValueError(f"Sampling.temperature is {self.temperature}; use 0 for greedy decoding or a positive number.")
        if self.temperature == 0 and self.n > 1:
            raise ValueError("Greedy decoding gives n equal completions; set temperature > 0 or n=1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One answer of a policy; `finished` says that it ended with EOS instead of being cut at the token limit.

    `token_ids` are the generated ids, EOS included where it was drawn; `logprobs` the log-probabilities, in nats, that the
    engine drew them with at the sampling temperature, where it tells them. They round differently from batch to batch, so
    two completions are equal without them.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool
    logprobs: tuple[float, ...] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkRow:
    """A row in RewardBench 2's schema: one prompt and its completions, the correct ones first.

    `subset` is the domain ("Factuality", "Precise IF", "Math", "Safety", "Focus" or "Ties"); the ids of Ties rows are
    `ref:N` and `tied:N`.
    """

    id: str
    prompt: str
    completions: tuple[str, ...]
    num_correct: int
    subset: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRow:
    """The scores of one benchmark row, in the order of its completions (correct ones first).

    >>> ScoredRow(id="7", subset="Math", num_correct=1, scores=(2.0, 0.5, -1.0, 0.1)).num_correct
    1
    """

    id: str
    subset: str
    num_correct: int
    scores: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionScore:
    """A completion's reward and the number of tokens (prompt and completion) it was computed from, after truncation if `truncated`.

    >>> CompletionScore(reward=0.5, num_tokens=12, truncated=False).reward
    0.5
    """

    reward: float
    num_tokens: int
    truncated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSaved:
    """A checkpoint is complete on disk and its weights are also in memory.

    `step` counts optimiser updates of a reward model or batches of episodes of a policy. `model` is in evaluation mode
    and may be used, not changed. `metrics` are the trainer's own at this step (for instance the KL of a policy).
    """

    step: int
    num_steps: int
    path: Path
    run_dir: Path
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnded:
    """A run has finished all its steps; hooks may release what they hold."""

    run_dir: Path
    step: int


class Scorer(Protocol):
    """Anything that gives a number to a completion: an RM, an ensemble, a judge, a verifier, a remote endpoint."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of scores per prompt, one score per completion, in the order given; higher is better."""
        ...


@runtime_checkable
class DetailedScorer(Scorer, Protocol):
    """A Scorer that also reports how many tokens each score was computed from."""

    def score_detailed(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[CompletionScore]]:
        """As `score`, with the number of tokens behind each score."""
        ...


class Generator(Protocol):
    """Anything that answers prompts with sampled completions."""

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in the order of the prompts."""
        ...


@runtime_checkable
class RolloutEngine(Generator, Protocol):
    """A Generator with weights of its own, which follow those in training."""

    def load_weights(self, weights: "Iterable[tuple[str, Tensor]]") -> None:
        """Takes over the weights of the policy, by the names of its state dict, one tensor at a time."""
        ...


class Tracker(Protocol):
    """Where metrics go."""

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        """Records `metrics` at `step` of `axis` ("train/step" or "checkpoint/step"). Steps may come late or twice."""
        ...

    def close(self) -> None:
        """Flushes and releases; further calls of `log` are errors."""
        ...
