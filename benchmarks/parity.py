"""Our numbers on tasks of lm-eval's beside those of lm-eval's own command, on the same model and rows.

    python -m benchmarks.parity --data FOLDER [--model FOLDER] [--rows 8] [--tokens 48] [--only gsm8k bbh]

FOLDER holds gsm8k_test.jsonl, gsm8k_train.jsonl, bbh.jsonl, ifeval.jsonl and truthfulqa.jsonl. Every task is lm-eval's own definition with
its data replaced by the first rows of a file, and both sides read that. What is generated is drawn greedily by each side; how many of the
answers are the same text is a column of the table. MMLU's definition is given questions of BIG-Bench Hard's `ruin_names`, which have four
choices as MMLU's do. A YAML file of its own holds each task, so that nothing is asked of a hub.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from core.config import Dtype, ModelConfig
from core.data.rows import read_rows
from core.generators.local import TransformersGenerator
from core.hooks.hook import RunParts
from core.models.load import load_policy
from core.models.locate import resolve
from core.process.quiet import quieten_libraries
from core.process.world import alone
from core.records import CheckpointSaved, Completion, Dialogue, Sampling
from evalhooks.checkpoints.policy import PolicyHook
from evalhooks.config import TaskConfig
from evalhooks.tasks.lm_evals import as_multiple_choice
from evalhooks.tasks.task import load_tasks

Rows = list[dict[str, Any]]
SHOTS = 5
"""Rows of `ruin_names`, from its end, that MMLU's few-shot examples are taken from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A task of lm-eval's: the file of its definition below `lm_eval/tasks`, the rows of each split, metrics as lm-eval writes them."""

    name: str
    definition: str
    splits: Mapping[str, Rows]
    metrics: tuple[str, ...]
    is_drawn: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


class Recorder:
    """A generator that keeps what it has drawn, so that a task's second metric judges the same answers."""

    def __init__(self, generator: TransformersGenerator) -> None:
        self.generator = generator
        self.drawn: dict[Dialogue, list[Completion]] = {}

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.drawn]
        self.drawn |= zip(new, self.generator.generate(new, sampling), strict=True)
        return [self.drawn[prompt] for prompt in prompts]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a side found: each metric's value, and the answers to the rows in their order, with what ends one if it is known."""

    values: Mapping[str, float]
    answers: Sequence[str]
    stops: Sequence[str] = ()


def main() -> None:
    arguments = parse()
    quieten_libraries()
    config = ModelConfig(path=arguments.model, dtype=Dtype.fp32)
    model, tokenizer = load_policy(config)
    failed: list[str] = []
    print("| task of lm-eval's | metric | rows | ours | lm-eval | same answers |\n|---|---|---|---|---|---|", flush=True)
    for subject in subjects(arguments.data, arguments.rows):
        if arguments.only and not any(subject.name.startswith(name) for name in arguments.only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = written(subject, Path(folder))
            recorder = Recorder(TransformersGenerator(model, tokenizer))
            event = CheckpointSaved(step=1, num_steps=1, path=file.parent, run_dir=file.parent, model=model, tokenizer=tokenizer)
            ours = our_numbers(subject, file, event, recorder, arguments.tokens)
            try:
                theirs = lm_evals_numbers(subject, file, resolve(config), arguments.tokens)
            except subprocess.CalledProcessError as error:  # its IFEval downloads a model of sentences, for instance
                failed.append(subject.name)
                why = error.stderr.strip().splitlines()[-1:]
                print(f"{subject.name}: lm-eval's command failed: {''.join(why)}", file=sys.stderr, flush=True)
                continue
        same = sum(_cut(own, theirs.stops) == other for own, other in zip(ours.answers, theirs.answers, strict=True))
        alike = f"{same} of {len(theirs.answers)}" if subject.is_drawn else ""
        for metric in subject.metrics:
            num_rows = len(next(iter(subject.splits.values())))
            print(f"| `{subject.name}` | `{metric}` | {num_rows} | {ours.values[metric]} | {theirs.values[metric]} | {alike} |", flush=True)
    if failed:
        sys.exit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="pip:smollm2-135m")
    parser.add_argument("--rows", type=int, default=8, help="rows of each task")
    parser.add_argument("--tokens", type=int, default=48, help="tokens after which an answer is cut")
    parser.add_argument("--only", nargs="*", default=[], help="only tasks whose names begin so")
    return parser.parse_args()


def subjects(data: Path, num_rows: int) -> Iterator[Subject]:
    """The tasks, each on its first rows."""

    def rows(name: str, count: int | None = num_rows) -> Rows:
        return [row for _, row in islice(read_rows(data / f"{name}.jsonl"), count)]

    yield Subject(
        name="gsm8k",
        definition="gsm8k/gsm8k.yaml",
        splits={"test": rows("gsm8k_test"), "train": rows("gsm8k_train", 100)},
        metrics=("exact_match,strict-match", "exact_match,flexible-extract"),
    )
    bbh = rows("bbh", None)
    for subset in ("boolean_expressions", "navigate", "word_sorting"):
        yield Subject(
            name=f"bbh_zeroshot_{subset}",
            definition=f"bbh/zeroshot/{subset}.yaml",
            splits={"test": [row for row in bbh if row["task"] == subset][:num_rows]},
            metrics=("exact_match,strict-match", "exact_match,flexible-extract"),
        )
    yield Subject(
        name="ifeval",
        definition="ifeval/ifeval.yaml",
        splits={"train": rows("ifeval")},
        metrics=("prompt_level_strict_acc,none", "prompt_level_loose_acc,none"),
    )
    truthful = {"validation": [as_multiple_choice(row) for row in rows("truthfulqa")]}
    for name in ("truthfulqa_mc1", "truthfulqa_mc2"):
        yield Subject(name=name, definition=f"truthfulqa/{name}.yaml", splits=truthful, metrics=("acc,none",), is_drawn=False)
    names = [found for row in bbh if row["task"] == "ruin_names" and (found := _four_choices(row))]
    yield Subject(
        name="mmlu_abstract_algebra",
        definition="mmlu/default/mmlu_abstract_algebra.yaml",
        splits={"test": names[:num_rows], "dev": names[-SHOTS:]},
        metrics=("acc,none",),
        is_drawn=False,
        settings={"num_fewshot": SHOTS},
    )


def _four_choices(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A question of BIG-Bench Hard in MMLU's columns; None unless it has four choices."""
    question, _, listed = str(row["input"]).partition("\nOptions:\n")
    choices = re.findall(r"^\([A-D]\) (.+)$", listed, re.MULTILINE)
    answer = "ABCD".find(str(row["target"]).strip("()"))
    return {"question": question, "choices": choices, "answer": answer, "subject": ""} if len(choices) == 4 and answer >= 0 else None


def written(subject: Subject, folder: Path) -> Path:
    """The definition in a file of its own, with the rows as its data."""
    import lm_eval.tasks

    files = {split: folder / f"{split}.jsonl" for split in subject.splits}
    for split, rows in subject.splits.items():
        files[split].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    definition = {
        "include": str(Path(lm_eval.tasks.__path__[0]) / subject.definition),
        "task": f"parity_{subject.name}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(file) for split, file in files.items()}},
        **subject.settings,
    }
    file = folder / f"parity_{subject.name}.yaml"
    file.write_text(yaml.safe_dump(definition), encoding="utf-8")
    return file


def our_numbers(subject: Subject, file: Path, event: CheckpointSaved, recorder: Recorder, tokens: int) -> Measured:
    """What the hook logs, a task for each metric, and the answers."""
    loaded = load_tasks({f"m{place}": TaskConfig(lm_eval=str(file), metric=metric) for place, metric in enumerate(subject.metrics)})
    hook = PolicyHook(tasks=loaded, sampling=Sampling(temperature=0, max_new_tokens=tokens))
    found = hook.measure(event, RunParts(world=alone(), generator=recorder))
    prompts = loaded["m0"].prompts if subject.is_drawn else ()
    return Measured(
        values={metric: found[f"downstream/m{place}"] for place, metric in enumerate(subject.metrics)},
        answers=[recorder.drawn[prompt.dialogue][0].text for prompt in prompts],
    )


def lm_evals_numbers(subject: Subject, file: Path, model: str, tokens: int) -> Measured:
    """What lm-eval's command writes."""
    out = file.parent / "out"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32"]
    command += ["--tasks", str(file), "--device", "cpu", "--batch_size", "1", "--output_path", str(out), "--log_samples"]
    if subject.is_drawn:
        command += ["--apply_chat_template", "--fewshot_as_multiturn", "true", "--gen_kwargs", f"max_gen_toks={tokens}"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (results,) = out.rglob("results_*.json")
    (values,) = json.loads(results.read_text(encoding="utf-8"))["results"].values()
    (samples,) = out.rglob("samples_*.jsonl")
    logged = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    drawn = {row["doc_id"]: row for row in logged} if subject.is_drawn else {}  # a row stands there once for each filter
    return Measured(
        values={metric: float(values[metric]) for metric in subject.metrics},
        answers=[drawn[number]["resps"][0][0] for number in sorted(drawn)],
        stops=drawn[0]["arguments"]["gen_args_0"]["arg_1"]["until"] if drawn else (),
    )


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in filter(None, stops):
        text = text.split(stop)[0]
    return text


if __name__ == "__main__":
    main()
