"""Downstream tasks: prompts, and verifiers of the answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bon.estimators import mean
from core.data.dialogues import parse_dialogue, with_columns
from core.data.rows import dataset_rows, require_whole_text
from core.functions import SkippedError, Verifier, load_verifier
from core.records import Completion, Prompt
from core.scorers.verifier import correctness, try_verifier
from evalhooks.config import TaskConfig, require_task_names
from evalhooks.tasks.lm_evals import load_harness_task
from evalhooks.tasks.preference import BASELINE, preferred_by

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Choices(Protocol):
    """How multiple choice is measured under a model in memory: prompt by prompt, so that processes can share them, and then over all."""

    def of_prompts(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Prompt]) -> list[Any]:
        """What each prompt counts towards the metric."""
        ...

    def metric(self, prompts: Sequence[Prompt], measured: Sequence[Any]) -> float:
        """The metric, from what `of_prompts` found of each of the prompts."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A downstream task: prompts with references, and the function that scores an answer.

    In multiple choice no answer is drawn: `choices` gives the metric from the likelihoods of given answers, and the verifier skips every
    text. `baseline` is the key of a reference's answer that a judge compares with, where the task is won rather than right.
    """

    name: str
    prompts: tuple[Prompt, ...]
    verifier: Verifier
    choices: Choices | None = None
    baseline: str = ""


def load_tasks(configs: Mapping[str, TaskConfig]) -> dict[str, Task]:
    """The tasks by name.

    Raises `ValueError` that names the offending file and row, task, or verifier, which is tried on the first row.
    """
    require_task_names(configs)
    tasks = {name: _task(name, config) for name, config in configs.items()}
    for name, task in tasks.items():
        if configs[name].judge is not None or configs[name].lm_eval:
            continue  # asking a judge costs; lm-eval's own need no trial
        try:
            try_verifier(task.verifier, task.prompts[0], name=configs[name].verifier)
        except ValueError as error:
            raise ValueError(f"tasks.{name}.verifier does not fit the first row of {configs[name].path}: {error}") from error
    return tasks


def load_drawn_tasks(configs: Mapping[str, TaskConfig]) -> dict[str, Task]:
    """As `load_tasks`; raises `ValueError` for a task of multiple choice too, of which there are no answers to choose among."""
    tasks = load_tasks(configs)
    if chosen := [name for name, task in tasks.items() if task.choices is not None]:
        leave = " ".join(f"~tasks.{name}" for name in chosen)
        raise ValueError(f"tasks.{chosen[0]} is multiple choice: its answers are given, and none is drawn; leave it out ({leave}).")
    return tasks


def _task(name: str, config: TaskConfig) -> Task:
    if not config.lm_eval:
        baseline = BASELINE if config.judge is not None else ""
        return Task(name=name, prompts=_prompts(name, config), verifier=_verifier(config), baseline=baseline)
    found = load_harness_task(name, config)
    return Task(name=name, prompts=found.prompts, verifier=found.verifier or _no_text, choices=found.choices)


def _no_text(completion: str, reference: Mapping[str, Any]) -> float:
    raise SkippedError("multiple choice is measured by the likelihood of given answers; no answer is drawn")


def _verifier(config: TaskConfig) -> Verifier:
    verifier = load_verifier(config.verifier)
    return verifier if config.judge is None else preferred_by(config.judge)


def _prompts(name: str, config: TaskConfig) -> tuple[Prompt, ...]:
    what, remedy = f"tasks.{name}.path={config.path}", f"choose one by tasks.{name}.split"
    if config.path.endswith((".jsonl", ".json", ".parquet")) and not Path(config.path).expanduser().is_file():
        raise ValueError(f"{what} does not exist; give a JSONL file.")
    rows = dataset_rows(config.path, split=config.split, what=what, remedy=remedy, lone_split=True, subset=config.subset)
    prompts = [_prompt(name, config, number, row) for number, row in islice(rows, config.limit)]
    if not prompts:
        raise ValueError(f"tasks.{name}.path={config.path} contains no prompts.")
    return tuple(prompts)


def _prompt(name: str, config: TaskConfig, number: int, row: Any) -> Prompt:
    where = f"{config.path}, row {number}"
    if not isinstance(row, dict) or config.prompt_key not in row:
        raise ValueError(f"{where} has no {config.prompt_key!r}; set tasks.{name}.prompt_key to the key of the prompt.")
    require_whole_text(row, where)
    reference = row["reference"] if isinstance(row.get("reference"), dict) else row
    asked = row[config.prompt_key]
    dialogue = parse_dialogue(_filled(name, config, row, where) if config.template else asked, where)
    try:
        dialogue = with_columns(row, dialogue)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return Prompt(id=str(row.get("id", number)), dialogue=dialogue, task=name, reference=reference)


def _filled(name: str, config: TaskConfig, row: Mapping[str, Any], where: str) -> str:
    """The template with the texts of a row; other braces stay."""
    texts = {f"{{{key}}}": str(value) for key, value in row.items() if isinstance(value, str | int | float)}
    if isinstance(row[config.prompt_key], str):
        texts["{prompt}"] = row[config.prompt_key]
    if not any(place in config.template for place in texts):
        raise ValueError(
            f"{where}: tasks.{name}.template holds the place of no text of the row; write {{prompt}}, or one of {', '.join(texts)}."
        )
    filled, rest = "", config.template
    while found := min(((at, place) for place in texts if (at := rest.find(place)) >= 0), default=None):
        at, place = found
        filled, rest = f"{filled}{rest[:at]}{texts[place]}", rest[at + len(place) :]
    return filled + rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Correctness of each answer to each prompt, 0 to 1, None where the verifier could not judge it; and why not, by reason.

    >>> Judged(correct=[[1.0, None]], reasons={"math-verify found no verdict": 1}).num_skipped
    1
    """

    correct: list[list[float | None]]
    reasons: Mapping[str, int]

    @property
    def num_skipped(self) -> int:
        """Answers without a verdict."""
        return sum(value is None for row in self.correct for value in row)

    @property
    def mean(self) -> float | None:
        """Over prompts, of the mean over the answers that could be judged; None if none could."""
        means = self.of_prompts
        return mean(means) if means else None

    @property
    def of_prompts(self) -> list[float]:
        """Of each prompt the mean over its answers that could be judged; those of which none could are left out."""
        known = [[value for value in row if value is not None] for row in self.correct]
        return [mean(row) for row in known if row]


def together(shares: Sequence[Judged]) -> Judged:
    """The shares of several processes one after another."""
    reasons: Counter[str] = Counter()
    for share in shares:
        reasons.update(share.reasons)
    return Judged(correct=[row for share in shares for row in share.correct], reasons=dict(reasons))


def judged(verifier: Verifier, prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]]) -> Judged:
    """The verifier's score of each answer to each prompt; raises as `core.functions.correctness`, but for what it skips."""
    reasons: Counter[str] = Counter()

    def one(prompt: Prompt, text: str) -> float | None:
        try:
            return correctness(verifier, text, prompt)
        except SkippedError as error:
            reasons[str(error)] += 1
            return None

    correct = [[one(prompt, completion.text) for completion in row] for prompt, row in zip(prompts, answers, strict=True)]
    return Judged(correct=correct, reasons=dict(reasons))
