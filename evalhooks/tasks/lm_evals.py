"""Tasks by lm-eval's definitions: prompts, stop strings, extraction and metrics are its own, the answers to prompts ours.

Answers are drawn by the run's generator, which processes share and which may be a server, so that the same answers also make pools for
best-of-N; lm-eval's `Task.process_results` then judges each. Multiple choice is measured by lm-eval's own model class on the model in
memory, since how a context and its continuation become tokens decides the number.
"""

import contextlib
import copy
import io
import json
import logging
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.data.hub import require_hub
from core.data.rows import dataset_rows
from core.functions import Verifier
from core.records import Dialogue, Message, Prompt, user
from evalhooks.config import TaskConfig
from evalhooks.tasks.instructions import require_punkt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_GENERATES, _CHOOSES = "generate_until", ("multiple_choice", "loglikelihood")
_SPLITS = ("train", "dev", "validation", "test")
_BATCH = 8
"""Requests per forward pass of multiple choice on a GPU."""
_SEED = 1234
"""Of the draw of few-shot examples; lm-eval's own default."""
_NAMED_FILE = re.compile(r"[\w./~@-]+\.(?:jsonl?|parquet|csv|tsv|txt|ya?ml|py)\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessTask:
    """A task of lm-eval's: its prompts with their verifier; or, for multiple choice, with what measures a model on some of them."""

    prompts: tuple[Prompt, ...]
    verifier: Verifier | None = None
    choices: "HarnessChoices | None" = None


def load_harness_task(name: str, config: TaskConfig) -> HarnessTask:
    """The task `tasks.NAME.lm_eval`. Raises `ValueError` that names the key where lm-eval has no such task, or one that does not fit."""
    where = f"tasks.{name}.lm_eval={config.lm_eval}"
    leaves, by_size = _loaded(where, config)
    if any(leaf.config.unsafe_code for leaf in leaves):
        raise ValueError(f"{where} runs what a model writes without a sandbox; tasks=humaneval and tasks=humaneval_plus have one.")
    kinds = {leaf.OUTPUT_TYPE for leaf in leaves}
    if len(kinds) != 1 or not kinds <= {_GENERATES, *_CHOOSES}:
        raise ValueError(f"{where} is of the kind {', '.join(sorted(kinds))}; choose tasks of one kind, {_GENERATES} or {_CHOOSES[0]}.")
    chats = kinds == {_GENERATES}
    with _quietly():
        for leaf in leaves:
            leaf.set_fewshot_seed(_SEED)
            template = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": _as_json} if chats else {}
            leaf.build_all_requests(limit=config.limit, **template)
    metrics = [_Metric.of(where, leaf, config.metric) for leaf in leaves]
    if not chats:
        rows = tuple(
            Prompt(
                id=str(count), dialogue=user(str(asked.args[0]) or " "), task=name, reference={"lm_eval_task": number, "lm_eval_row": row}
            )
            for count, (number, row, asked) in enumerate(_rows_of(leaves), 1)
        )
        return HarnessTask(prompts=rows, choices=HarnessChoices(leaves=leaves, metrics=metrics, by_size=by_size))
    asked = [(number, place) for number, leaf in enumerate(leaves) for place in range(len(leaf.instances))]
    rows = tuple(
        Prompt(
            id=str(count),
            dialogue=_dialogue(where, leaves[number].instances[place].args[0]),
            task=name,
            reference={"lm_eval_task": number, "lm_eval_row": place},
        )
        for count, (number, place) in enumerate(asked, 1)
    )

    def verifier(completion: str, reference: Mapping[str, Any]) -> float:
        number = reference["lm_eval_task"]
        return metrics[number].of_text(leaves[number], leaves[number].instances[reference["lm_eval_row"]], completion)

    for metric, leaf in zip(metrics, leaves, strict=True):
        metric.require_mean(where, leaf)
    return HarnessTask(prompts=rows, verifier=verifier)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Metric:
    """A metric of a task by lm-eval's two words for it, and the filter that its answers pass first."""

    name: str
    filter: str

    @classmethod
    def of(cls, where: str, task: Any, wanted: str) -> "_Metric":
        metrics, filters = list(task.aggregation()), [ensemble.name for ensemble in task._filters]
        known = [f"{metric},{own}" for own in filters for metric in metrics]
        chosen = next((one for one in known if not wanted or wanted in (one, one.partition(",")[0])), None)
        if chosen is None:
            raise ValueError(f"{where} has no metric {wanted!r}; choose one of {', '.join(known)}.")
        name, _, own = chosen.partition(",")
        return cls(name=name, filter=own)

    def require_mean(self, where: str, task: Any) -> None:
        """Raises `ValueError` for a metric that is no mean over answers: single ones then have no correctness."""
        how = getattr(task.aggregation()[self.name], "__name__", "")
        if how != "mean":
            raise ValueError(
                f"{where}: {self.name} is the {how or 'result of a function'} of all answers, and no mean; choose another metric."
            )

    def of_text(self, task: Any, instance: Any, text: str) -> float:
        """Of one completion, cut where the task's stop strings stop it."""
        for stop in _stops(instance.args[1]):
            text = text.split(stop)[0]
        return float(self.of_responses(task, instance, [text])[self.name])

    def of_responses(self, task: Any, instance: Any, responses: list[Any]) -> Mapping[str, Any]:
        asked = copy.copy(instance)
        asked.resps, asked.filtered_resps = responses, {}
        for ensemble in task._filters:
            if ensemble.name == self.filter:
                ensemble.apply([asked])
        return task.process_results(asked.doc, [asked.filtered_resps[self.filter]])

    def of_likelihoods(self, task: Any, instances: Sequence[Any], responses: Sequence[Any]) -> dict[int, Any]:
        """Of each row by its number, from the likelihoods of its choices, before lm-eval aggregates them."""
        asked = [copy.copy(instance) for instance in instances]
        for one, response in zip(asked, responses, strict=True):
            one.resps, one.filtered_resps = [response], {}
        for ensemble in task._filters:
            if ensemble.name == self.filter:
                ensemble.apply(asked)
        by_row: dict[int, list[Any]] = {}
        for one in asked:
            by_row.setdefault(one.doc_id, []).append(one)
        found: dict[int, Any] = {}
        for number, row in by_row.items():
            responses = [one.filtered_resps[self.filter] for one in sorted(row, key=lambda one: one.idx)]
            found[number] = task.process_results(row[0].doc, responses)[self.name]
        return found


def _stops(arguments: Mapping[str, Any]) -> list[str]:
    until = arguments.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]


def _rows_of(leaves: Sequence[Any]) -> list[tuple[int, int, Any]]:
    """The rows of tasks of multiple choice: the place of the task, lm-eval's number of the row, and the first of its requests."""
    return [(place, one.doc_id, one) for place, leaf in enumerate(leaves) for one in leaf.instances if one.idx == 0]


@dataclass(frozen=True, kw_only=True, slots=True)
class HarnessChoices:
    """Tasks of multiple choice, several where a group is asked for, whose numbers are weighted by their rows or alike."""

    leaves: Sequence[Any]
    metrics: "Sequence[_Metric]"
    by_size: bool

    def of_prompts(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Prompt]) -> list[Any]:
        """What each prompt counts towards the metric, by the likelihoods of its given answers.

        On a CPU one request at a time, as lm-eval's command does by default: nothing is gained by more, and padding would round a
        prompt's likelihoods otherwise in other company.
        """
        places = [_place(prompt) for prompt in prompts]
        found: dict[tuple[int, int], Any] = {}
        with _quietly():
            from lm_eval.models import huggingface

            model_class: Any = huggingface.HFLM
            size = 1 if model.device.type == "cpu" else _BATCH
            harness = model_class(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=size)
            for number, (leaf, metric) in enumerate(zip(self.leaves, self.metrics, strict=True)):
                rows = {row for own, row in places if own == number}
                if asked := [one for one in leaf.instances if one.doc_id in rows]:
                    values = metric.of_likelihoods(leaf, asked, harness.loglikelihood(asked, disable_tqdm=True))
                    found |= {(number, row): value for row, value in values.items()}
        return [found[place] for place in places]

    def metric(self, prompts: Sequence[Prompt], measured: Sequence[Any]) -> float:
        """The metric over all prompts, as lm-eval's command prints it, from what `of_prompts` found of each."""
        from lm_eval.api.metrics import aggregate_subtask_metrics

        by_leaf: dict[int, list[Any]] = {}
        for prompt, value in zip(prompts, measured, strict=True):
            by_leaf.setdefault(_place(prompt)[0], []).append(value)
        values = [float(self.leaves[number].aggregation()[self.metrics[number].name](own)) for number, own in by_leaf.items()]
        return float(aggregate_subtask_metrics(values, [len(own) for own in by_leaf.values()], self.by_size))


def _place(prompt: Prompt) -> tuple[int, int]:
    """The task that a prompt belongs to, and lm-eval's number of its row."""
    return prompt.reference["lm_eval_task"], prompt.reference["lm_eval_row"]


def _as_json(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """What lm-eval takes for a rendered prompt: its turns, which the policy's own template then writes."""
    return json.dumps([history, add_generation_prompt])


def _dialogue(where: str, rendered: str) -> Dialogue:
    history, asks = json.loads(rendered)
    if not asks:
        raise ValueError(
            f"{where} begins the answer for the model (gen_prefix), which a chat template has no place for; choose another task."
        )
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in history)


def _loaded(where: str, config: TaskConfig) -> tuple[list[Any], bool]:
    """The tasks behind a name or file; several behind that of a group, and whether its number weights them by their rows."""
    manager = _manager(_is_file(config.lm_eval))
    named = str(Path(config.lm_eval).expanduser()) if _is_file(config.lm_eval) else config.lm_eval
    if config.lm_eval.endswith((".yaml", ".yml")) and not _is_file(config.lm_eval):
        raise ValueError(f"{where} does not exist; give the name of a task of lm-eval's, or the YAML file of one.")
    if not _is_file(config.lm_eval):
        if named not in manager.all_tasks:
            raise ValueError(f"{where} is no task of lm-eval's; `lm-eval ls tasks` lists them, and a YAML file defines others.")
        if not config.path:
            require_hub(f"the data of {where}")
    with contextlib.suppress(ValueError):
        require_punkt()  # which lm-eval's own IFEval would download
    try:
        with _quietly():
            from lm_eval.tasks._index import TaskIndex

            if not config.path:
                loaded = manager.load(named)
                group = next(iter(loaded["groups"].values()), None)  # the one that was named, before those within
                summaries = (group.aggregate_metric_list if group else None) or ()
                return list(loaded["tasks"].values()), all(one.weight_by_size for one in summaries)
            rows = _rows(where, config)
            entry = manager._index.get(named) or TaskIndex.entry_from_path(Path(named))
            found = manager._factory.build(entry, overrides={"custom_dataset": _dataset_of(rows)}, registry=manager._index)
    except (ImportError, OSError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{where} cannot be loaded by lm-eval ({type(error).__name__}: {str(error)[:300]}).") from error
    if isinstance(found, list) or not isinstance(getattr(found, "OUTPUT_TYPE", None), str):
        raise ValueError(f"{where} is several tasks, and tasks.*.path is the data of one; name a single task, or leave out path.")
    return [found], True


def definition_files(name: str) -> list[Path]:
    """The YAML file of a task and the files that it names, such as its data and what it includes; none for a task of lm-eval's own."""
    if not _is_file(name):
        return []
    file = Path(name).expanduser()
    named = [Path(found).expanduser() for found in _NAMED_FILE.findall(file.read_text(encoding="utf-8"))]
    found = [place for path in named for place in (file.parent / path, path) if place.is_file()]
    return [file, *dict.fromkeys(path.resolve() for path in found)]


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and Path(name).expanduser().is_file()


def _rows(where: str, config: TaskConfig) -> list[dict[str, Any]]:
    rows = dataset_rows(config.path, split=config.split, what=f"the data of {where}, path={config.path},", remedy="choose another split")
    return [as_multiple_choice(row) for _, row in rows]


def as_multiple_choice(row: dict[str, Any]) -> dict[str, Any]:
    """A row of TruthfulQA's own file in the form of the hub's; any other as it is."""
    if not {"Question", "Best Answer", "Correct Answers", "Incorrect Answers"} <= row.keys():
        return row
    best, wrong = str(row["Best Answer"]).strip(), _listed(row["Incorrect Answers"])
    right = [best, *(answer for answer in _listed(row["Correct Answers"]) if answer != best)]
    one, all_ = [best, *wrong], [*right, *wrong]
    return {
        "question": str(row["Question"]).strip(),
        "mc1_targets": {"choices": one, "labels": [1] + [0] * len(wrong)},
        "mc2_targets": {"choices": all_, "labels": [1] * len(right) + [0] * len(wrong)},
    }


def _listed(answers: object) -> list[str]:
    return [answer.strip() for answer in str(answers).split(";") if answer.strip()]


def _dataset_of(rows: list[dict[str, Any]]) -> Callable[..., Mapping[str, Any]]:
    """What lm-eval takes in place of a dataset, with the rows as every split."""

    def dataset(**unused: object) -> Mapping[str, Any]:
        from datasets import Dataset

        return dict.fromkeys(_SPLITS, Dataset.from_list(rows))

    return dataset


@cache
def _manager(alone: bool) -> Any:
    """lm-eval's index of its tasks, or none of them where a file is all that is asked for. Reading it takes seconds."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ValueError(f"tasks of lm-eval's need the package lm-eval ({error}); pip install 'rewardloop[tasks]'.") from error
    return TaskManager(include_defaults=not alone)


@contextlib.contextmanager
def _quietly() -> Generator[None]:
    """Keeps its log, bars and prints from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
