"""Configuration of what the checkpoint hooks measure."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

from core.config import ContentHashed, Hashed, RoundingOnly, Unhashed, require_fraction, require_not_negative, require_positive
from core.runs.identity import clean_name
from evalhooks.judges.config import JudgeConfig


@dataclass(kw_only=True)
class TaskConfig:
    """A downstream task: prompts with references and the function that judges an answer, or a task of lm-eval's."""

    path: ContentHashed[str] = ""
    """JSONL, JSON or parquet file, folder of parquet files, saved dataset or hub id with `id`, `prompt` and what the verifier needs (see
    evalhooks.tasks.task)."""
    split: Hashed[str] = "test"
    """Split of a dataset that is no file."""
    subset: Hashed[str] = ""
    """Configuration of a hub dataset that has several, as `main` of openai/gsm8k."""
    verifier: Hashed[str] = ""
    """`module:function` of `(completion: str, reference: Mapping) -> float`."""
    prompt_key: Hashed[str] = "prompt"
    """Key of a row that holds its prompt."""
    template: Hashed[str] = ""
    """Text around the prompt, with {prompt}, or any other text of the row by its key, in its place; empty: the prompt alone."""
    limit: Hashed[int | None] = None
    """The first rows only."""
    lm_eval: ContentHashed[str] = ""
    """A task of lm-eval's by name, or the YAML file of one, instead of a verifier; `path` then replaces its data."""
    metric: Hashed[str] = ""
    """lm_eval: which metric counts, as lm-eval writes it (exact_match,strict-match); empty: its first."""
    judge: Hashed[JudgeConfig | None] = None
    """The judge of a task that needs one (docs/tasks.md); without it, the task is skipped."""

    def __post_init__(self) -> None:
        if self.limit is not None:
            require_positive("tasks.<name>.limit", self.limit)
        if self.lm_eval:
            if self.verifier or self.template:
                other = f"verifier={self.verifier}" if self.verifier else "template"
                raise ValueError(f"lm_eval={self.lm_eval} brings its own prompts and metrics; leave out {other} of this task.")
            return
        if not self.path:
            raise ValueError("A task has no path; give tasks.<name>.path=FILE.jsonl, or a task of lm-eval's: tasks.<name>.lm_eval=NAME.")
        if self.metric:
            raise ValueError(
                f"metric={self.metric} chooses among those of a task of lm-eval's; give tasks.<name>.lm_eval, or leave it out."
            )
        if self.verifier.count(":") != 1:
            raise ValueError(
                f"The verifier {self.verifier!r} of {self.path} must read module:function, as evalhooks.tasks.verifiers:gsm8k."
            )


def require_task_names(names: Collection[str]) -> None:
    """Raises `ValueError` for names of tasks that would not do for a metric and for a file, or that two tasks share.

    A pool's file is named after its task, and some file systems do not tell `GSM8K` from `gsm8k`.
    """
    known: dict[str, str] = {}
    for name in names:
        if name == "average" or name != name.strip() or re.search(r"[/\\@\x00-\x1f\x7f]", name) or len(name.encode()) > 100:
            raise ValueError(
                f"tasks.{name!r} cannot be the name of a task; give one such as gsm8k, of at most 100 bytes, without / \\ and @, and not "
                "`average`, which is the mean of all tasks."
            )
        if (other := known.setdefault(clean_name(name), name)) != name:
            raise ValueError(f"tasks.{other} and tasks.{name} differ only in how they are spelt; give one of them another name.")


@dataclass(kw_only=True)
class SamplingConfig:
    """How downstream answers are drawn."""

    temperature: Hashed[float] = 1.0
    """Of sampling; 0: the most likely token."""
    max_new_tokens: Hashed[int] = 1024
    """Tokens after which an answer is cut."""
    n: Hashed[int] = 1
    """Answers per prompt."""
    seed: Hashed[int] = 0
    """Of sampling."""

    def __post_init__(self) -> None:
        for key in ("n", "max_new_tokens"):
            require_positive(f"hooks.downstream.{key}", getattr(self, key))
        require_not_negative("hooks.downstream.temperature", self.temperature)
        if self.temperature == 0 and self.n > 1:
            raise ValueError(
                f"hooks.downstream.temperature=0 gives hooks.downstream.n={self.n} equal answers; raise the temperature, or set n=1."
            )


class Where(StrEnum):
    """Where the hooks of a reward model run: in the training process while it waits, or in one of their own beside it."""

    inline = "inline"
    separate = "separate"


@dataclass(kw_only=True)
class HooksConfig:
    """What runs at every checkpoint. An empty path leaves its part out."""

    rewardbench2: ContentHashed[str] = ""
    """JSONL or parquet file in RewardBench 2's schema, or the hub id allenai/reward-bench-2."""
    rewardbench1: ContentHashed[str] = ""
    """Pairs in RewardBench 1's schema, or the hub id allenai/reward-bench."""
    limit: Hashed[float] = 1.0
    """Share of every domain's rows, stratified and seeded."""
    pools: ContentHashed[str] = ""
    """Folder of stored completions (see bon.pools) that an RM reranks."""
    best_of: Hashed[list[int]] = field(default_factory=lambda: [16])
    """Numbers of stored completions that the reward model chooses among."""
    downstream: Hashed[SamplingConfig] = field(default_factory=SamplingConfig)
    batch_tokens: RoundingOnly[int] = 16384
    """Tokens per forward pass of scoring, padding included."""
    max_length: Hashed[int] = 2048
    """Tokens of prompt and completion; longer texts are cut at their end, and counted. PPO's reward models read at least whole prompts
    and answers."""
    budget: Hashed[float | None] = None
    """Share of the time of training that the hooks may take, as 0.1: of a policy's tasks, and of a reward model's benchmarks, pools and
    held-out pairs, a part is then measured, the same at every checkpoint. Empty: all are measured whole."""
    where: Unhashed[Where] = Where.inline
    device: Unhashed[str] = ""
    """separate: the GPU by its number, as in CUDA_VISIBLE_DEVICES; empty: those of training."""

    def __post_init__(self) -> None:
        require_fraction("hooks.limit", self.limit, positive=True)
        if self.budget is not None:
            require_fraction("hooks.budget", self.budget, positive=True)
        for key in ("batch_tokens", "max_length"):
            require_positive(f"hooks.{key}", getattr(self, key))
        if not self.best_of or min(self.best_of) < 1:
            raise ValueError(f"hooks.best_of is {self.best_of}; give numbers of completions from 1 up, for instance [16].")
