"""SmolLM2-135M learns grade-school math by PPO, on one CPU core: a verifier and a reward model, from SFT to the picture.

    python benchmarks/smollm2_ppo.py --data FOLDER --out FOLDER [--plot OUT.png]

FOLDER of --data holds gsm8k_train.jsonl and gsm8k_test.jsonl. What is finished is not run again. In this order, each part from
files that the part before it wrote to --out:

- data: short questions of one or two steps, and from them three lists without a question in common, and held-out ones of the test file
- sft: the policy learns the form of the solutions, a sentence per step and `#### ` before the result, so that an answer takes 35 tokens
- answers: the policy answers questions that it was not trained on, several times each
- pairs: those it answers rightly now and then are PPO's prompts; its wrong answers to the others train the reward model
- rm, ppo: `rewardloop rm` and `rewardloop ppo`
- measure: the policy before and after PPO on PPO's own prompts and on the held-out questions, several answers to each
- draw: the picture
"""

import json
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from core.batching import pad_right, token_budget_batches
from core.chat import encode_answered, encode_prompts, pad_id
from core.checkpoint import atomic_folder, is_complete, write_json
from core.config import Dtype, ModelConfig
from core.generate import TransformersGenerator
from core.models import load_policy
from core.records import Sampling, user
from core.rows import read_rows
from evalhooks.verifiers import gsm8k

Row = dict[str, Any]

TRAIN, TEST = "gsm8k_train.jsonl", "gsm8k_test.jsonl"
MODEL = "pip:smollm2-135m"

MAX_STEPS = 2
MAX_CHARS, MAX_SFT_CHARS = 280, 320
"""Of question and solution; longer ones are left out, since a core reads and learns no more than 150 tokens in a second."""
NUM_SFT, NUM_ASKED = 704, 256

SFT_LR, SFT_BATCH, SFT_WARMUP = 1e-4, 16, 6
PASS_TOKENS = 1024
"""Tokens of a forward and backward pass of SFT."""
ANSWERS = 4
"""To each question: what tells the prompts that can be learned from, and gives the wrong answers."""
MAX_NEW_TOKENS = 64
SEED = 0

# The model's own template puts a system message before every question, a third of the tokens here.
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def solution(answer: str) -> str:
    """A solution of GSM8K without the notes for its calculator, which double what must be written.

    >>> solution("He ate 48/2=<<48/2=24>>24 pies.\\n#### 24")
    'He ate 48/2=24 pies.\\n#### 24'
    """
    return re.sub(r"<<[^>]*>>", "", answer)


def easy(rows: Sequence[Row], max_chars: int) -> list[Row]:
    """The questions whose solution takes one or two steps and that are short, in an order of their own; `id` is the row's number."""
    found = [
        {"id": f"{number}", **row}
        for number, row in enumerate(rows, 1)
        if 1 <= row["answer"].count("<<") <= MAX_STEPS and len(row["question"]) + len(solution(row["answer"])) <= max_chars
    ]
    random.Random(SEED).shuffle(found)
    return found


def read(file: Path) -> list[Row]:
    """The rows of a JSONL file."""
    return [row for _, row in read_rows(file)]


def write(file: Path, rows: Sequence[Row]) -> None:
    """Writes a JSONL file whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(file)


def make_data(data: Path, out: Path) -> None:
    """Questions for SFT, questions to be asked, held-out ones."""
    train = read(data / TRAIN)
    asked = easy(train, MAX_CHARS)[:NUM_ASKED]
    ids = {row["id"] for row in asked}
    write(out / "asked.jsonl", asked)
    write(out / "sft.jsonl", [row for row in easy(train, MAX_SFT_CHARS) if row["id"] not in ids][:NUM_SFT])
    write(out / "held-out.jsonl", easy(read(data / TEST), MAX_CHARS))


def make_sft(out: Path) -> None:
    """Trains the policy on the solutions for one epoch and saves it to `out`/sft."""
    model, tokenizer = load_policy(ModelConfig(path=MODEL))
    tokenizer.chat_template = TEMPLATE
    examples = list(sft_examples(read(out / "sft.jsonl"), tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=SFT_LR, weight_decay=0.0)
    batches = [examples[start : start + SFT_BATCH] for start in range(0, len(examples), SFT_BATCH)]
    model.train()
    for step, batch in enumerate(batches):
        rate = min((step + 1) / SFT_WARMUP, (len(batches) - step) / (len(batches) - SFT_WARMUP))
        for group in optimizer.param_groups:
            group["lr"] = SFT_LR * rate
        loss = sft_pass(model, batch, pad_id(tokenizer))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"sft: batch {step + 1} of {len(batches)}, {loss:.3f} nats per token", flush=True)
    with atomic_folder(out / "sft") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / "lineage.json", {"lineage": "smollm2"})


def sft_examples(rows: Sequence[Row], tokenizer: Any) -> Iterator[tuple[list[int], int]]:
    """Token ids of each question and its solution up to EOS, and the number of those that are the question's."""
    questions = [user(row["question"]) for row in rows]
    prompts = encode_prompts(tokenizer, questions)
    answered = encode_answered(tokenizer, questions, [solution(row["answer"]) for row in rows])
    for prompt, ids in zip(prompts, answered, strict=True):
        end = len(ids) - ids[::-1].index(tokenizer.eos_token_id)  # the template puts a line feed behind it
        yield ids[:end], len(prompt)


def sft_pass(model: Any, batch: Sequence[tuple[list[int], int]], pad: int) -> float:
    """Adds the gradient of the mean loss per token of the solutions; returns this loss."""
    num_answered = sum(len(ids) - start for ids, start in batch)
    total = 0.0
    for places in token_budget_batches([len(ids) for ids, _ in batch], PASS_TOKENS):
        ids_BL, mask_BL = pad_right([batch[place][0] for place in places], pad)
        starts_B1 = torch.tensor([[batch[place][1]] for place in places])
        answered_BL = (mask_BL.bool() & (torch.arange(ids_BL.shape[1]) >= starts_B1))[:, 1:]
        with torch.autocast("cpu", torch.bfloat16):
            hidden_BLH = model.model(ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
            logits_NV = model.lm_head(hidden_BLH[:, :-1][answered_BL])
        loss = cross_entropy(logits_NV.float(), ids_BL[:, 1:][answered_BL], reduction="sum") / num_answered
        loss.backward()
        total += loss.item()
    return total


def ask(policy: Path, rows: Sequence[Row], n: int, seed: int = SEED) -> list[Row]:
    """The rows with `answers`, n of each at temperature 1, and `right`, what the verifier says of them."""
    model, tokenizer = load_policy(ModelConfig(path=str(policy), dtype=Dtype.bf16))
    generator = TransformersGenerator(model, tokenizer, batch_size=64)
    sampling = Sampling(n=n, max_new_tokens=MAX_NEW_TOKENS, seed=seed)
    answers = generator.generate([user(row["question"]) for row in rows], sampling)
    texts = [[completion.text for completion in own] for own in answers]
    return [
        {**row, "answers": own, "right": [gsm8k(text, row) for text in own], "tokens": [len(completion.token_ids) for completion in drawn]}
        for row, own, drawn in zip(rows, texts, answers, strict=True)
    ]


if __name__ == "__main__":
    out, data = Path(sys.argv[2]), Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "held-out.jsonl").exists():
        make_data(data, out)
    if not is_complete(out / "sft"):
        started = time.time()
        make_sft(out)
        print("sft seconds", time.time() - started)
    started = time.time()
    rows = ask(out / "sft", read(out / "asked.jsonl"), ANSWERS)
    write(out / "answers.jsonl", rows)
    print("ask seconds", time.time() - started, sum(sum(r["tokens"]) for r in rows))
    print("right", statistics.mean(x for r in rows for x in r["right"]), "mixed", sum(0 < sum(r["right"]) < ANSWERS for r in rows))
