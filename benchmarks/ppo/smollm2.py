"""SmolLM2-135M learns grade-school math by PPO on one CPU core, with a verifier and a reward model: from SFT to the picture.

    python -m benchmarks.ppo.smollm2 --data FOLDER --out FOLDER [--plot OUT.png]

The --data folder holds gsm8k_train.jsonl and gsm8k_test.jsonl. Finished parts are not run again. The parts, in order; each
reads files that earlier ones wrote to --out:

- data: short questions of one or two steps: 704 of the training file for SFT, 256 others to answer, 112 of the test file held out
- sft: one pass over the solutions, after which the policy writes a sentence per step and `#### ` before the result, about 45 tokens
- answers, pairs: almost all its answers to the 256 are wrong; each is paired with the true solution for the reward model;
  PPO's prompts are the 64 shortest questions of SFT
- policy: more passes over the solutions to PPO's prompts, until some answers are right: starting from 2%, PPO learns nothing here
- rm, ppo: `rewardloop rm` and `rewardloop ppo`
- measure: the policy before and after PPO, on PPO's prompts and on the held-out questions, four answers to each
- draw: the picture
"""

import argparse
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.ppo.learning import rewardloop
from core.config import Dtype, ModelConfig
from core.data.chat import encode_answered, encode_prompts, pad_id
from core.data.padding import pad_right, token_budget_batches
from core.data.rows import read_rows
from core.disk import atomic_folder, is_complete, write_json
from core.generators.local import TransformersGenerator
from core.models.load import load_policy
from core.records import Sampling, user
from core.runs.checkpoints import latest_complete
from evalhooks.tasks.verifiers import gsm8k

Row = dict[str, Any]
Floats = NDArray[np.float64]
T = TypeVar("T")

TRAIN, TEST = "gsm8k_train.jsonl", "gsm8k_test.jsonl"
MODEL = "pip:smollm2-135m"

MAX_STEPS = 2
MAX_CHARS, MAX_SFT_CHARS = 280, 320
"""Of question and solution; longer ones are left out, since one core trains on no more than 150 tokens a second."""
NUM_SFT, NUM_ASKED = 704, 256

SFT_LR, SFT_BATCH, SFT_WARMUP = 1e-4, 16, 6
"""Learning rate, solutions per step, and warmup steps."""
PASS_TOKENS = 1024
"""Tokens in a forward and backward pass of SFT."""
ANSWERS, MAX_NEW_TOKENS = 4, 64
"""Answers to each question before the reward model is trained; the token limit of all answers outside PPO."""
AGAIN_LR, HALF_KNOWN, MAX_AGAIN = 5e-5, 0.3, 8
"""The passes over PPO's prompts: learning rate, loss in nats per token at which they stop, and their maximum number."""
NUM_PROMPTS, NUM_PAIRS = 64, 160
NUM_BATCHES, BATCH, PPO_TOKENS = 18, 32, 48
"""Batches, episodes per batch, and the token limit of an answer: 48 fit nine answers in ten."""
VERIFIER = "right"
"""Name of the verifier's reward term."""
CHECKED, MEASURED = 64, 4
"""Held-out questions at every checkpoint, one answer each; answers to every question (all held-out ones too) before and after PPO."""
SMOOTH = 5
"""Batches averaged by the line in the picture."""
SEED = 0

# The model's own template puts a system message before every question, a third of the tokens here.
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def solution(answer: str) -> str:
    """A GSM8K solution without its calculator annotations, which double its length.

    >>> solution("He ate 48/2=<<48/2=24>>24 pies.\\n#### 24")
    'He ate 48/2=24 pies.\\n#### 24'
    """
    return re.sub(r"<<[^>]*>>", "", answer)


def easy(rows: Sequence[Row], max_chars: int) -> list[Row]:
    """The short questions whose solution takes one or two steps, shuffled; `id` is the row's number."""
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
    """Questions for SFT, others to answer, and held-out ones."""
    train = read(data / TRAIN)
    asked = easy(train, MAX_CHARS)[:NUM_ASKED]
    ids = {row["id"] for row in asked}
    write(out / "asked.jsonl", asked)
    write(out / "sft.jsonl", [row for row in easy(train, MAX_SFT_CHARS) if row["id"] not in ids][:NUM_SFT])
    write(out / "held-out.jsonl", easy(read(data / TEST), MAX_CHARS))


def make_sft(out: Path) -> None:
    """Trains the policy on the solutions once and saves it to `out`/sft."""
    model, tokenizer = load_policy(ModelConfig(path=MODEL))
    tokenizer.chat_template = TEMPLATE
    examples = list(sft_examples(read(out / "sft.jsonl"), tokenizer))
    num = len(examples) // SFT_BATCH
    rates = [SFT_LR * min((step + 1) / SFT_WARMUP, (num - step) / (num - SFT_WARMUP)) for step in range(num)]
    learn(model, examples, rates, pad_id(tokenizer))
    save_policy(model, tokenizer, out / "sft")


def make_policy(out: Path) -> None:
    """Trains the SFT policy further on the solutions to PPO's prompts until it half knows them; saves it to `out`/policy."""
    model, tokenizer = load_policy(ModelConfig(path=str(out / "sft")))
    examples = list(sft_examples(read(out / "prompts.jsonl"), tokenizer))
    rates = [AGAIN_LR] * (len(examples) // SFT_BATCH)
    for again in range(MAX_AGAIN):
        random.Random(again).shuffle(examples)
        loss = learn(model, examples, rates, pad_id(tokenizer))
        print(f"pass {again + 1} over PPO's prompts: {loss:.3f} nats per token", flush=True)
        if loss < HALF_KNOWN:
            break
    save_policy(model, tokenizer, out / "policy")


def learn(model: PreTrainedModel, examples: Sequence[tuple[list[int], int]], rates: Sequence[float], pad: int) -> float:
    """One pass over the examples, with one learning rate per batch; returns the mean batch loss."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    model.train()
    losses = []
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        losses.append(sft_pass(model, examples[step * SFT_BATCH : (step + 1) * SFT_BATCH], pad))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return statistics.mean(losses)


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves a policy with its tokenizer and lineage, whole or not at all."""
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / "lineage.json", {"lineage": "smollm2"})


def sft_examples(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[int], int]]:
    """Token ids of each question and its solution up to EOS, and how many of them belong to the question."""
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int)
    questions = [user(row["question"]) for row in rows]
    prompts = encode_prompts(tokenizer, questions)
    answered = encode_answered(tokenizer, questions, [solution(row["answer"]) for row in rows])
    for prompt, ids in zip(prompts, answered, strict=True):
        end = len(ids) - ids[::-1].index(eos)  # the template adds a line feed after EOS
        yield ids[:end], len(prompt)


def sft_pass(model: PreTrainedModel, batch: Sequence[tuple[list[int], int]], pad: int) -> float:
    """Accumulates the gradient of the mean loss per solution token; returns this loss."""
    head = model.get_output_embeddings()
    assert head is not None
    num_answered = sum(len(ids) - start for ids, start in batch)
    total = 0.0
    for places in token_budget_batches([len(ids) for ids, _ in batch], PASS_TOKENS):
        ids_BL, mask_BL = pad_right([batch[place][0] for place in places], pad)
        starts_B1 = torch.tensor([[batch[place][1]] for place in places])
        answered_BL = (mask_BL.bool() & (torch.arange(ids_BL.shape[1]) >= starts_B1))[:, 1:]
        with torch.autocast("cpu", torch.bfloat16):
            hidden_BLH = model.base_model(ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
            logits_NV = head(hidden_BLH[:, :-1][answered_BL])
        loss = cross_entropy(logits_NV.float(), ids_BL[:, 1:][answered_BL], reduction="sum") / num_answered
        loss.backward()
        total += loss.item()
    return total


def ask(policy: Path, rows: Sequence[Row], n: int, seed: int = SEED) -> list[Row]:
    """The rows with `answers`, n each at temperature 1, and `right`, the verifier's result for each."""
    model, tokenizer = load_policy(ModelConfig(path=str(policy), dtype=Dtype.bf16))
    generator = TransformersGenerator(model, tokenizer, batch_size=64)
    sampling = Sampling(n=n, max_new_tokens=MAX_NEW_TOKENS, seed=seed)
    answers = generator.generate([user(row["question"]) for row in rows], sampling)
    texts = [[completion.text for completion in own] for own in answers]
    return [
        {**row, "answers": own, "right": [gsm8k(text, row) for text in own], "tokens": [len(completion.token_ids) for completion in drawn]}
        for row, own, drawn in zip(rows, texts, answers, strict=True)
    ]


def make_prompts_and_pairs(out: Path) -> None:
    """PPO's prompts, the shortest of SFT's, and preference pairs from the answered questions."""
    shortest = sorted(read(out / "sft.jsonl"), key=lambda row: len(row["question"]) + len(solution(row["answer"])))[:NUM_PROMPTS]
    write(out / "prompts.jsonl", shortest)
    write(out / "pairs.jsonl", list(pairs(read(out / "answers.jsonl")))[:NUM_PAIRS])


def pairs(rows: Sequence[Row]) -> Iterator[Row]:
    """A pair for each row that has a wrong answer: the true solution is preferred to the first wrong one."""
    for row in rows:
        if wrong := [text for text, right in zip(row["answers"], row["right"], strict=True) if not right]:
            yield {"prompt": row["question"], "chosen": solution(row["answer"]), "rejected": wrong[0]}


def common(out: Path) -> list[str]:
    """Overrides shared by both commands."""
    model = ["model=custom", "model.dtype=bf16", "model.lineage=smollm2"]
    return [*model, f"runs_dir={out / 'runs'}", "study=gsm8k", "tracker=files", f"seed={SEED}"]


def rm_overrides(out: Path) -> list[str]:
    """The reward model: starts from the SFT policy; some pairs are held out."""
    data = ["data=custom", f"data.paths=[{out / 'pairs.jsonl'}]", "data.name=gsm8k-wrong", "data.held_out=0.15"]
    sizes = ["optim.lr=2e-5", "batch_size=16", "micro_batch_tokens=2048", "max_length=256", "num_checkpoints=1", "log_every=4"]
    return ["name=rm", f"model.path={out / 'sft'}", *common(out), *data, *sizes]


def ppo_overrides(out: Path, rm: Path) -> list[str]:
    """PPO on both rewards. One standard deviation of the reward model's score counts a fifth of the verifier's."""
    rewards = [
        f"rewards.{VERIFIER}.kind=verifier",
        f"rewards.{VERIFIER}.verifier=evalhooks.tasks.verifiers:gsm8k",
        f"rewards.rm.path={rm}",
        "rewards.rm.dtype=bf16",
        "rewards.rm.coefficient=0.1",
        "rewards.rm.standardize=true",
    ]
    measured = ["tasks=gsm8k", f"tasks.gsm8k.path={out / 'held-out.jsonl'}", f"tasks.gsm8k.limit={CHECKED}", "num_checkpoints=3"]
    sizes = [f"num_batches={NUM_BATCHES}", f"batch_size={BATCH}", f"minibatch_size={BATCH // 2}", f"micro_batch_size={BATCH // 2}"]
    lengths = [f"max_new_tokens={PPO_TOKENS}", f"hooks.downstream.max_new_tokens={MAX_NEW_TOKENS}"]
    rates = ["optim.lr=4e-5", "epochs=1", "kl.beta=0.02", "shaping.missing_eos.how=replace", "shaping.missing_eos.value=-1.0"]
    # The reward model was trained on whole answers only: as a critic it was worse than a constant, and 20 batches are too few to fix it.
    critic = ["critic=policy", "critic_lr=5e-5", "value_warmup=1", "lam=1.0"]
    of_run = ["name=ppo", f"model.path={out / 'policy'}", *common(out), f"prompts=[{out / 'prompts.jsonl'}]"]
    return [*of_run, *rewards, *measured, *sizes, *lengths, *rates, *critic]


def make_measured(out: Path, ppo: Path) -> None:
    """The policy before and after PPO, on PPO's own prompts and on the held-out questions, with answers sampled anew."""
    after = latest_complete(ppo, print)
    assert after is not None
    for name in ("prompts", "held-out"):
        for when, policy in (("before", out / "policy"), ("after", after)):
            file = ppo / f"{name}-{when}.jsonl"
            if not file.exists():
                write(file, ask(policy, read(out / f"{name}.jsonl"), MEASURED, seed=SEED + 1))


def report(ppo: Path) -> None:
    """Prints the accuracies in points of 100, with standard errors over questions."""
    for name in ("prompts", "held-out"):
        before, after = (read(ppo / f"{name}-{when}.jsonl") for when in ("before", "after"))
        early, late = ([100 * statistics.mean(row["right"]) for row in rows] for rows in (before, after))
        lengths = [statistics.mean(tokens for row in rows for tokens in row["tokens"]) for rows in (before, after)]
        print(
            f"{name}: {len(before)} questions, {MEASURED} answers to each: {mean_and_error(early)} before, {mean_and_error(late)} after, "
            f"change {mean_and_error([b - a for a, b in zip(early, late, strict=True)])}; {lengths[0]:.0f} and {lengths[1]:.0f} tokens"
        )


def mean_and_error(values: Sequence[float]) -> str:
    """The mean and its standard error.

    >>> mean_and_error([0.0, 50.0])
    '25.0 ± 25.0'
    """
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


def between(episodes: Sequence[float], minutes: Sequence[float]) -> tuple[Callable[[ArrayLike], Floats], Callable[[ArrayLike], Floats]]:
    """Maps episodes to minutes and back, by linear interpolation; beyond the ends at the mean pace."""
    pace = minutes[-1] / episodes[-1]
    ends = [-1e3, *episodes, episodes[-1] + 1e3], [-1e3 * pace, *minutes, minutes[-1] + 1e3 * pace]
    return lambda x: np.interp(np.asarray(x, dtype=float), *ends), lambda x: np.interp(np.asarray(x, dtype=float), ends[1], ends[0])


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Moving average over `width` values centred on each, or over as many as there are.

    >>> smoothed([0.0, 3.0, 6.0, 3.0], 3)
    [1.5, 3.0, 4.0, 4.5]
    """
    return [statistics.mean(values[max(0, place - width // 2) : place + width // 2 + 1]) for place in range(len(values))]


def draw(run: Path, file: Path) -> None:
    """Draws rewards, KL and held-out questions over a run's episodes, with the minutes on a second axis."""
    rows = read(run / "metrics.jsonl")
    # An interrupted and resumed run may have logged some steps twice; the later row counts.
    batches, checkpoints = ({row[axis]: row for row in rows if row["axis"] == axis} for axis in ("train/step", "checkpoint/step"))
    start = checkpoints[0]["time"]
    minutes = [0.0, *((row["time"] - start) / 60 for row in batches.values())]
    episodes = [BATCH * step for step in batches]
    figure = Figure(figsize=(12.0, 3.9), layout="constrained", dpi=140)
    panels = (
        (f"train/reward/{VERIFIER}", "right answers, %", 100.0, "#2f7ed8"),
        ("train/reward/rm", "reward model's score", 1.0, "#1a9c7c"),
        ("train/kl", "KL to the policy before PPO, nats per answer", 1.0, "#9a5fc9"),
    )
    for axes, (key, title, scale, colour) in zip(figure.subplots(1, 3), panels, strict=True):
        values = [scale * row[key] for row in batches.values()]
        axes.plot(episodes, values, "o", color=colour, markersize=3, alpha=0.45, label="PPO's prompts, each batch")
        axes.plot(episodes, smoothed(values, SMOOTH), "-", color=colour, label=f"mean of {SMOOTH} batches")
        if key.endswith(VERIFIER):
            steps = [BATCH * step for step in checkpoints]
            held_out = [scale * row["downstream/gsm8k"] for row in checkpoints.values()]
            axes.plot(steps, held_out, "s--", color="#c9444f", label=f"{CHECKED} held-out questions")
            axes.set_ylim(bottom=0)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("episodes")
        axes.set_xlim(left=-0.5 * BATCH)
        axes.grid(color="#e9ecf0")
        axes.spines["right"].set_visible(False)
        times = axes.secondary_xaxis("top", functions=between([0, *episodes], minutes))
        times.tick_params(labelsize=7, colors="#7c8794", pad=1)
        times.set_xlabel("minutes", fontsize=7, color="#7c8794", loc="right", labelpad=2)
    figure.axes[0].legend(frameon=False, fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {TRAIN} and {TEST}")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--plot", type=Path, help="the picture; default OUT/ppo-smollm2.png")
    arguments = parser.parse_args()
    if missing := [name for name in (TRAIN, TEST) if not (arguments.data / name).is_file()]:
        parser.error(f"{' and '.join(missing)} not found in --data={arguments.data}; name the folder of GSM8K's files")
    run(arguments.data, arguments.out.absolute(), arguments.plot or arguments.out / "ppo-smollm2.png")


def run(data: Path, out: Path, plot: Path) -> None:
    """Runs all parts in order, skipping those already done."""
    out.mkdir(parents=True, exist_ok=True)
    once(out / "held-out.jsonl", "data", lambda: make_data(data, out))
    if not is_complete(out / "sft"):
        timed("sft", lambda: make_sft(out))
    once(out / "answers.jsonl", "answers", lambda: write(out / "answers.jsonl", ask(out / "sft", read(out / "asked.jsonl"), ANSWERS)))
    once(out / "pairs.jsonl", "pairs", lambda: make_prompts_and_pairs(out))
    if not is_complete(out / "policy"):
        timed("policy", lambda: make_policy(out))
    rm = timed("rm", lambda: rewardloop("rm", rm_overrides(out)))
    ppo = timed("ppo", lambda: rewardloop("ppo", ppo_overrides(out, rm)))
    timed("measure", lambda: make_measured(out, ppo))
    report(ppo)
    draw(ppo, plot)


def once(file: Path, name: str, make: Callable[[], None]) -> None:
    """Runs the part that ends by writing `file`, unless the file exists."""
    if not file.exists():
        timed(name, make)


def timed(name: str, make: Callable[[], T]) -> T:
    """Returns what `make` returns and prints the minutes it took."""
    started = time.perf_counter()
    made = make()
    print(f"{name}: {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    return made


if __name__ == "__main__":
    main()
