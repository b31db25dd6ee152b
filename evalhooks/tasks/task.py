"""Downstream tasks: prompts, and verifiers of the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from core.data.dialogues import parse_dialogue, with_columns
from core.data.rows import read_rows, require_whole_text
from core.functions import Verifier, load_verifier
from core.records import Completion, Prompt
from core.scorers.verifier import correctness, try_verifier
from evalhooks.config import TaskConfig, require_task_names


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A downstream task: prompts with references, and the function that scores an answer."""

    name: str
    prompts: tuple[Prompt, ...]
    verifier: Verifier


def load_tasks(configs: Mapping[str, TaskConfig]) -> dict[str, Task]:
    """The tasks by name.

    Raises `ValueError` that names the offending file and row, task, or verifier, which is tried on the first row.
    """
    require_task_names(configs)
    tasks = {
        name: Task(name=name, prompts=_prompts(name, config), verifier=load_verifier(config.verifier)) for name, config in configs.items()
    }
    for name, task in tasks.items():
        try:
            try_verifier(task.verifier, task.prompts[0], name=configs[name].verifier)
        except ValueError as error:
            raise ValueError(f"tasks.{name}.verifier does not fit the first row of {configs[name].path}: {error}") from error
    return tasks


def _prompts(name: str, config: TaskConfig) -> tuple[Prompt, ...]:
    file = Path(config.path).expanduser()
    if not file.is_file():
        raise ValueError(f"tasks.{name}.path={config.path} does not exist; give a JSONL file.")
    prompts: list[Prompt] = []
    for number, row in islice(read_rows(file), config.limit):
        where = f"{file}, row {number}"
        if not isinstance(row, dict) or config.prompt_key not in row:
            raise ValueError(f"{where} has no {config.prompt_key!r}; set tasks.{name}.prompt_key to the key of the prompt.")
        require_whole_text(row, where)
        reference = row["reference"] if isinstance(row.get("reference"), dict) else row
        dialogue = parse_dialogue(row[config.prompt_key], where)
        try:
            dialogue = with_columns(row, dialogue)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        prompts.append(Prompt(id=str(row.get("id", number)), dialogue=dialogue, task=name, reference=reference))
    if not prompts:
        raise ValueError(f"tasks.{name}.path={config.path} contains no prompts.")
    return tuple(prompts)


def judged(verifier: Verifier, prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]]) -> list[list[float]]:
    """The verifier's score of each answer to each prompt, 0..1; raises as `core.functions.correctness`."""
    return [[correctness(verifier, completion.text, prompt) for completion in row] for prompt, row in zip(prompts, answers, strict=True)]
