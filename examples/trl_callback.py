"""Downstream accuracy at every save of a TRL trainer: the two lines at the end of `main`.

    python examples/trl_callback.py POLICY_FOLDER pairs.jsonl questions.jsonl OUTPUT_FOLDER

trains by DPO on lines of {"prompt", "chosen", "rejected"} and asks, at every save, the questions of lines {"question", "answer"}.
The metrics go to OUTPUT_FOLDER/metrics.jsonl. Any trainer of transformers or TRL takes the same two lines: SFT, GRPO, RLOO. For TRL's
RewardTrainer the hook is `RewardModelHook(rewardbench2=load_rewardbench2("rows.jsonl"))`.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from rewardloop import HookCallback, JsonlTracker, Message, PolicyHook, Prompt, Sampling, Task


def contains_answer(completion: str, reference: Mapping[str, Any]) -> float:
    """The verifier: 1 where the answer occurs in the completion, else 0."""
    return float(reference["answer"] in completion)


def read_lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def task(path: str) -> Task:
    prompts = tuple(
        Prompt(id=str(number), dialogue=(Message(role="user", content=row["question"]),), reference=row)
        for number, row in enumerate(read_lines(path))
    )
    return Task(name="questions", prompts=prompts, verifier=contains_answer)


def main(policy: str, pairs: str, questions: str, output: str, **options: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy)
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy),
        args=DPOConfig(output_dir=output, report_to="none", **options),
        train_dataset=Dataset.from_list(read_lines(pairs)),
        processing_class=tokenizer,
    )
    hook = PolicyHook(tasks={"questions": task(questions)}, sampling=Sampling(max_new_tokens=64))
    trainer.add_callback(HookCallback([hook], JsonlTracker(Path(output) / "metrics.jsonl"), tokenizer))
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
