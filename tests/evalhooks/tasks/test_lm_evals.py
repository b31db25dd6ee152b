"""Tasks by lm-eval's definitions: its prompts, stop strings, filters and metrics."""

import json
from pathlib import Path
from typing import Any

import pytest

from evalhooks.config import TaskConfig
from evalhooks.tasks.lm_evals import definition_files
from evalhooks.tasks.task import load_tasks

pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval's and its dependencies

FRUITS = ["plum", "pear", "fig", "apple", "a plum", "two figs"]
GENERATES = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: "Name {{{{fruit}}}}."
doc_to_target: "{{{{fruit}}}}"
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}, {{metric: bleu, aggregation: bleu}}]
generation_kwargs: {{until: ["e"], do_sample: false, max_gen_toks: 6}}
filter_list:
  - name: first
    filter: [{{function: regex, regex_pattern: "([aoui])"}}, {{function: take_first}}]
"""
CHOOSES = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Name {{{{fruit}}}}."
doc_to_choice: "{{{{options}}}}"
doc_to_target: label
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def defined(folder: Path, name: str, text: str) -> str:
    """The YAML file of a task over fruits."""
    rows = [{"fruit": "aoui"[place % 4], "options": FRUITS[:4], "label": place % 4} for place in range(12)]
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / f"{name}.yaml").write_text(text.format(name=name, data=data), encoding="utf-8")
    return str(folder / f"{name}.yaml")


def test_a_completion_is_cut_at_a_stop_string_before_it_is_judged(tmp_path: Path) -> None:
    task = load_tasks({"drawn": TaskConfig(lm_eval=defined(tmp_path, "drawn", GENERATES))})["drawn"]
    assert task.prompts[0].dialogue[0].content == "Name a."
    assert [task.verifier(text, task.prompts[0].reference) for text in ("xa", "xea", "o", "")] == [1.0, 0.0, 0.0, 0.0]


def test_multiple_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tasks\.x is multiple choice"):
        load_tasks({"x": TaskConfig(lm_eval=defined(tmp_path, "chosen", CHOOSES))})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lm_eval": "no_such_task"}, "tasks.x.lm_eval=no_such_task is no task of lm-eval's"),
        ({"lm_eval": "/nowhere/a.yaml"}, "tasks.x.lm_eval=/nowhere/a.yaml does not exist"),
        ({"metric": "f1"}, "has no metric 'f1'; choose one of exact_match,first, bleu,first"),
        ({"metric": "bleu"}, "bleu is the bleu of all answers, and no mean"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_tasks({"x": TaskConfig(**{"lm_eval": defined(tmp_path, "drawn", GENERATES)} | settings)})


def test_a_definition_is_identified_by_its_file_and_the_data_that_it_names(tmp_path: Path) -> None:
    file = defined(tmp_path, "drawn", GENERATES)
    assert definition_files(file) == [Path(file), (tmp_path / "drawn.jsonl").resolve()]
    assert definition_files("gsm8k") == []


def test_a_task_that_runs_code_unguarded_is_refused(tmp_path: Path) -> None:
    file = defined(tmp_path, "drawn", GENERATES + "unsafe_code: true\n")
    with pytest.raises(ValueError, match="runs what a model writes without a sandbox; tasks=humaneval"):
        load_tasks({"x": TaskConfig(lm_eval=file)})
