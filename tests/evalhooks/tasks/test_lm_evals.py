"""Tasks by lm-eval's definitions: our hook's numbers are those of lm-eval's own evaluator on the same model."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.records import CheckpointSaved, Sampling
from evalhooks.checkpoints.policy import PolicyHook
from evalhooks.config import TaskConfig
from evalhooks.tasks import lm_evals
from evalhooks.tasks.lm_evals import definition_files
from evalhooks.tasks.task import load_drawn_tasks, load_tasks

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


FEW_SHOT = """num_fewshot: 2
fewshot_split: test
"""
GROUP = """
group: {name}
task: [{tasks}]
aggregate_metric_list: [{{metric: acc, weight_by_size: {by_size}}}]
"""


def official(file: str, model: Any, tokenizer: Any, *, metric: str, chat: bool = False, limit: int | None = None) -> float:
    """The number of lm-eval's own evaluator."""
    from lm_eval import evaluator
    from lm_eval.models import huggingface
    from lm_eval.tasks import TaskManager

    model_class: Any = huggingface.HFLM
    evaluate: Any = evaluator.simple_evaluate

    name = Path(file).stem
    manager = TaskManager(include_path=str(Path(file).parent), include_defaults=False)
    harness = model_class(pretrained=model, tokenizer=tokenizer, batch_size=1)  # its command's default
    found = evaluate(harness, tasks=[name], task_manager=manager, bootstrap_iters=0, apply_chat_template=chat, limit=limit)
    return (found["results"].get(name) or found["groups"][name])[metric]


def saved(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> CheckpointSaved:
    return CheckpointSaved(step=1, num_steps=1, path=folder, run_dir=folder, model=model, tokenizer=tokenizer)


def test_the_hook_measures_what_lm_eval_measures(tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    drawn, chosen = defined(tmp_path, "drawn", GENERATES), defined(tmp_path, "chosen", CHOOSES)
    tasks = load_tasks({"drawn": TaskConfig(lm_eval=drawn), "chosen": TaskConfig(lm_eval=chosen)})
    hook = PolicyHook(tasks=tasks, sampling=Sampling(temperature=0, max_new_tokens=6))
    metrics = hook.on_checkpoint(saved(policy, tokenizer, tmp_path))
    assert metrics["downstream/drawn"] == official(drawn, policy, tokenizer, metric="exact_match,first", chat=True)
    assert metrics["downstream/chosen"] == official(chosen, policy, tokenizer, metric="acc,none")
    assert 0 < metrics["downstream/chosen"] < 1
    assert metrics["downstream/average"] == (metrics["downstream/drawn"] + metrics["downstream/chosen"]) / 2
    assert "halves/even" not in metrics  # of which multiple choice has none


def test_few_shot_examples_are_those_of_lm_eval_and_rows_may_be_left_out(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    file = defined(tmp_path, "shots", CHOOSES.replace("metric: acc,", "metric: acc_norm,") + FEW_SHOT)
    tasks = [load_tasks({"shots": TaskConfig(lm_eval=file)})["shots"] for _ in range(2)]
    assert tasks[0].prompts == tasks[1].prompts
    assert tasks[0].prompts[0].dialogue[0].content.count("Name ") == 3
    choices, prompts = tasks[0].choices, tasks[0].prompts
    assert choices is not None
    found = choices.of_prompts(policy, tokenizer, prompts)
    assert choices.metric(prompts, found) == official(file, policy, tokenizer, metric="acc_norm,none")
    assert choices.of_prompts(policy, tokenizer, prompts[:5]) + choices.of_prompts(policy, tokenizer, prompts[5:]) == found
    assert choices.metric(prompts[:5], found[:5]) == sum(found[:5]) / 5


@pytest.mark.parametrize("by_size", ["true", "false"])
def test_a_group_weights_its_tasks_as_lm_eval_does(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, by_size: str
) -> None:
    from lm_eval.tasks import TaskManager

    defined(tmp_path, "large", CHOOSES)
    defined(tmp_path, "small", CHOOSES.replace("Name", "What is"))
    rows = (tmp_path / "small.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "small.jsonl").write_text("".join(rows[:3]), encoding="utf-8")
    file = tmp_path / "both.yaml"
    file.write_text(GROUP.format(name="both", tasks="large, small", by_size=by_size), encoding="utf-8")
    monkeypatch.setattr(lm_evals, "require_hub", lambda what: None)
    monkeypatch.setattr(lm_evals, "_manager", lambda alone: TaskManager(include_path=str(tmp_path), include_defaults=False))
    task = load_tasks({"both": TaskConfig(lm_eval="both")})["both"]
    assert len(task.prompts) == 15
    assert task.choices is not None
    found = task.choices.of_prompts(policy, tokenizer, task.prompts)
    assert task.choices.metric(task.prompts, found) == official(str(file), policy, tokenizer, metric="acc,none")


def test_multiple_choice_alone_is_measured_and_best_of_n_refuses_it(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = {"x": TaskConfig(lm_eval=defined(tmp_path, "chosen", CHOOSES), limit=4)}
    metrics = PolicyHook(tasks=load_tasks(config), sampling=Sampling()).on_checkpoint(saved(policy, tokenizer, tmp_path))
    assert metrics == {"downstream/x": metrics["downstream/x"], "downstream/average": metrics["downstream/x"]}
    with pytest.raises(ValueError, match=r"tasks\.x is multiple choice.*leave it out \(~tasks\.x\)"):
        load_drawn_tasks(config)


def test_a_model_in_parts_is_not_measured_and_said_to_be_skipped(
    tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    said = list[str]()
    tasks = load_tasks({"x": TaskConfig(lm_eval=defined(tmp_path, "chosen", CHOOSES))})
    part = copy.deepcopy(policy)
    part.model.norm.weight.data = torch.empty(0)  # as DeepSpeed leaves what another process holds
    metrics = PolicyHook(tasks=tasks, sampling=Sampling(), say=said.append).on_checkpoint(saved(part, tokenizer, tmp_path))
    assert metrics == {"skipped/x": 1.0}
    assert said == ["x: skipped, since likelihoods need whole weights and these are sharded"]


def test_a_completion_is_cut_at_a_stop_string_before_it_is_judged(tmp_path: Path) -> None:
    task = load_tasks({"drawn": TaskConfig(lm_eval=defined(tmp_path, "drawn", GENERATES))})["drawn"]
    assert task.prompts[0].dialogue[0].content == "Name a."
    assert [task.verifier(text, task.prompts[0].reference) for text in ("xa", "xea", "o", "")] == [1.0, 0.0, 0.0, 0.0]


def test_files_of_ones_own_replace_the_data_and_truthfulqa_reads_its_own_file(tmp_path: Path) -> None:
    row = {"Question": "Why?", "Best Answer": "Because", "Correct Answers": "Because; So it is", "Incorrect Answers": "Magic; Luck"}
    file = tmp_path / "truthful.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    task = load_tasks({"truthfulqa": TaskConfig(lm_eval="truthfulqa_mc2", path=str(file))})["truthfulqa"]
    assert task.prompts[0].dialogue[0].content.endswith("Q: Why?\nA:")


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
    written: dict[str, Any] = {"lm_eval": defined(tmp_path, "drawn", GENERATES), **settings}
    with pytest.raises(ValueError, match=message):
        load_tasks({"x": TaskConfig(**written)})


def test_a_definition_is_identified_by_its_file_and_the_data_that_it_names(tmp_path: Path) -> None:
    file = defined(tmp_path, "drawn", GENERATES)
    assert definition_files(file) == [Path(file), (tmp_path / "drawn.jsonl").resolve()]
    assert definition_files("gsm8k") == []


def test_a_task_that_runs_code_unguarded_is_refused(tmp_path: Path) -> None:
    file = defined(tmp_path, "drawn", GENERATES + "unsafe_code: true\n")
    with pytest.raises(ValueError, match="runs what a model writes without a sandbox; tasks=humaneval"):
        load_tasks({"x": TaskConfig(lm_eval=file)})
