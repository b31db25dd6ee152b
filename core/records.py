"""The records and protocols through which packages talk to each other.

Every record is frozen, keyword-only and slotted, so that values can be neither swapped nor changed along the way. Records
hold plain data (text, numbers, paths) wherever possible; tensors stay inside a package.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # reading a file or validating a configuration must not import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AXIS = "checkpoint/step"
"""The step axis that benchmark and downstream metrics share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a dialogue. `fields` is JSON of what else a chat template reads of it, such as tool calls; empty for nothing.

    >>> Message(role="user", content="Name a fruit.").fields
    ''
    """

    role: str
    content: str
    fields: str = ""


Dialogue = tuple[Message, ...]
"""A prompt: all turns up to, but not including, the assistant's answer."""


Answer = str | Message
"""An answer of the assistant: its text, or a whole turn where that is more than text, such as tool calls."""


def user(content: str) -> Dialogue:
    """A dialogue with a single user turn."""
    return (Message(role="user", content=content),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Two completions of one prompt, where `chosen` was preferred. `where` is the row that it was read from, for messages.

    >>> Preference(prompt=user("Name a fruit."), chosen="A plum.", rejected="A lamp.").margin is None
    True
    """

    prompt: Dialogue
    chosen: Answer
    rejected: Answer
    margin: float | None = None
    source: str = ""
    where: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt, with the reference that its verifier judges answers against.

    >>> Prompt(id="sums-3", dialogue=user("What is 2 plus 3?"), reference={"answer": "5"}).task
    ''
    """

    id: str
    dialogue: Dialogue
    task: str = ""
    reference: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How completions are sampled: `n` per prompt, at `temperature` (0 is greedy), without top-k or top-p.

    The random numbers of a prompt depend on the seed and on the prompt's index: its position in the list, plus `first` if the
    list is a slice of a longer one.
    """

    n: int = 1
    temperature: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    first: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_new_tokens < 1:
            raise ValueError(f"Sampling needs n >= 1 and max_new_tokens >= 1, got n={self.n}, max_new_tokens={self.max_new_tokens}.")
        if not 0 <= self.temperature < math.inf:  # also rejects NaN
            raise ValueError(f"Sampling.temperature is {self.temperature}; use 0 for greedy decoding or a positive number.")
        if self.temperature == 0 and self.n > 1:
            raise ValueError("Greedy decoding gives n identical completions; set temperature > 0 or n=1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One answer of a policy; `finished` means that it ended with an end of turn rather than at the token limit.

    `token_ids` are the generated ids, including the end of turn if one was sampled; `text` is without it. `logprobs` are the
    ids' log-probabilities in nats at the sampling temperature, if the generator reports them. These round differently from batch
    to batch, so comparisons of two completions ignore them.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool
    logprobs: tuple[float, ...] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkRow:
    """A row in RewardBench 2's schema: a prompt and its completions, correct ones first.

    `subset` is the domain ("Factuality", "Precise IF", "Math", "Safety", "Focus" or "Ties"). Ties rows have the ids `ref:N`
    and `tied:N`. `turns` is the prompt as a dialogue, where it is more than one user turn; `where` is the row it was read from.
    """

    id: str
    prompt: str
    completions: tuple[str, ...]
    num_correct: int
    subset: str
    turns: Dialogue = ()
    where: str = field(default="", compare=False)

    @property
    def dialogue(self) -> Dialogue:
        """The prompt as a dialogue."""
        return self.turns or user(self.prompt)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRow:
    """The scores of a benchmark row, in the order of its completions (correct ones first).

    >>> ScoredRow(id="7", subset="Math", num_correct=1, scores=(2.0, 0.5, -1.0, 0.1)).num_correct
    1
    """

    id: str
    subset: str
    num_correct: int
    scores: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionScore:
    """A completion's reward and the number of tokens (prompt plus completion, after any truncation) that it was computed from.

    `repeated` says that another completion of the prompt has the same tokens, so that its reward is the same too.

    >>> CompletionScore(reward=0.5, num_tokens=12, truncated=False).reward
    0.5
    """

    reward: float
    num_tokens: int
    truncated: bool
    repeated: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSaved:
    """A checkpoint is complete on disk, and its weights are still in memory.

    `step` counts optimiser updates for a reward model and batches of episodes for a policy. Hooks may use `model`, which is in
    evaluation mode, but must not change it. `metrics` are the trainer's own at this step, such as the policy's KL.
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
    """A run has finished its last step; hooks may release their resources."""

    run_dir: Path
    step: int


class Scorer(Protocol):
    """Anything that scores completions: a reward model, an ensemble, a judge, a verifier, a remote endpoint."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of scores per prompt, one score per completion, in the given order; higher is better."""
        ...


@runtime_checkable
class DetailedScorer(Scorer, Protocol):
    """A Scorer that also reports the number of tokens behind each score."""

    def score_detailed(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[CompletionScore]]:
        """As `score`, with the number of tokens behind each score."""
        ...


@runtime_checkable
class TruncatingScorer(Scorer, Protocol):
    """A Scorer that reads no more than so many tokens of a text, and counts the texts that it cut."""

    @property
    def num_truncated(self) -> int | None:
        """Texts cut so far; None for a scorer of others none of which reads tokens."""
        ...


def num_truncated(scorer: Scorer) -> int | None:
    """Texts that a scorer has cut so far; None if it could cut none."""
    return scorer.num_truncated if isinstance(scorer, TruncatingScorer) else None


class Generator(Protocol):
    """Anything that samples completions of prompts."""

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in the order of the prompts."""
        ...


@runtime_checkable
class BatchGenerator(Generator, Protocol):
    """A Generator that hands over completions a batch at a time, as soon as they are drawn."""

    def generate_batches(
        self, prompts: Sequence[Dialogue], sampling: Sampling, indices: Sequence[int]
    ) -> Iterator[tuple[list[int], list[list[Completion]]]]:
        """The places of a batch's prompts in the list, and their completions; every prompt is in one batch.

        The random numbers of a prompt depend on its index in `indices`, whatever `sampling.first` says.
        """
        ...


@runtime_checkable
class RolloutEngine(Generator, Protocol):
    """A Generator with its own copy of the weights, to be updated as training goes on."""

    def load_weights(self, weights: "Iterable[tuple[str, Tensor]]") -> None:
        """Copies the policy's weights, given one at a time under their state-dict names."""
        ...


class Tracker(Protocol):
    """A destination for metrics."""

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        """Records `metrics` at `step` of `axis` ("train/step" or "checkpoint/step"). Steps may arrive late or repeat."""
        ...

    def close(self, *, exit_code: int = 0) -> None:
        """Flushes and releases everything; `log` must not be called afterwards. `exit_code` is that of the run: 0 if it finished."""
        ...
