"""Speed of scoring with a reward model: prompt trees against the official tool and against transformers' pipeline.

    python -m benchmarks.scoring.speed --rows rows.jsonl [--limit 0.05] [--model pip:smollm2-135m] [--dtype bf16] [--json OUT]

One reward model (a fresh head on `--model`, saved once), the same rows and dtype, both sides timed alternately in one
run, tokenisation included, `--rounds` times; a ratio is the median over the rounds of peer / ours.

- `official loop`: batches of 64 texts in the order of the data, padded: the `rewardbench` package's own pipeline class in its
  environment, if `--official` (made by `make bench-official`) exists, otherwise the same loop on this transformers.
- `best padded`: transformers' pipeline on texts sorted by length, at its best batch size of a few.
- `shared prompt P+NxC`: N completions of C tokens for one prompt of P tokens; peer: whole rows of equal length, best batch.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast, pipeline
from transformers.utils import logging

from benchmarks.machine import device, forward_flops, matmul_peak, seconds, shares
from core.config import Dtype, ModelConfig
from core.data.chat import encode_answered
from core.models.head import padded_rewards, tree_rewards
from core.models.load import load_reward_model, new_reward_model
from core.process.memory import keep_freed_memory
from core.records import BenchmarkRow, user
from core.scorers.reward_model import RewardModelScorer
from core.trees.attention import tree_attention
from core.trees.layout import Stream, pack_trees, tree_batches
from evalhooks.rewardbench.rows import load_rewardbench2

TARGETS = {"official loop": 2.5, "best padded": 1.35, "shared prompt 256+16x128": 2.2, "shared prompt 1024+16x64": 6.0}
SHAPES = ((256, 16, 128), (1024, 16, 64))
OFFICIAL_BATCH = 64
OFFICIAL = Path(__file__).parents[2] / ".venv-official" / "bin" / "python"
BATCHES = (1, 4, 8, 16, 32)
TORCH = {Dtype.fp32: "float32", Dtype.bf16: "bfloat16", Dtype.fp16: "float16"}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The reward model under test, its folder, and the benchmark's rows."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    rows: Sequence[BenchmarkRow]
    dtype: Dtype

    def texts(self) -> list[str]:
        """Prompt and completion as the chat template renders them, in the order of the data."""
        pairs = [(row.prompt, text) for row in self.rows for text in row.completions]
        turns = [[{"role": "user", "content": prompt}, {"role": "assistant", "content": text}] for prompt, text in pairs]
        return [str(self.tokenizer.apply_chat_template(turn, tokenize=False)) for turn in turns]

    def score(self) -> list[float]:
        """Scores by our own scorer, from text."""
        scorer = RewardModelScorer(self.model, self.tokenizer)
        rewards = scorer.score([user(row.prompt) for row in self.rows], [row.completions for row in self.rows])
        return [reward for row in rewards for reward in row]


def main() -> None:
    arguments = parse()
    keep_freed_memory()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        subject = prepare(arguments, Path(folder))
        describe(subject)
        results = [official(subject, arguments.official, arguments.rounds), best_padded(subject, arguments.rounds)]
        results += [shared_prompt(subject, *shape, arguments.rounds) for shape in SHAPES]
        explain(subject)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": results}, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="JSONL or parquet file in RewardBench 2's schema, or a hub id")
    parser.add_argument("--limit", type=float, default=0.05, help="share of every domain's rows")
    parser.add_argument("--model", default="pip:smollm2-135m")
    parser.add_argument("--dtype", type=Dtype, choices=list(Dtype), default=Dtype.bf16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--official", type=Path, default=OFFICIAL, help="Python with the package rewardbench")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, folder: Path) -> Subject:
    """A reward model with a seeded head, saved and loaded again, so that all sides read the same files."""
    rows = load_rewardbench2(arguments.rows, limit=arguments.limit)
    model, tokenizer = new_reward_model(ModelConfig(path=arguments.model), seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model, tokenizer = load_reward_model(ModelConfig(path=str(folder), dtype=arguments.dtype))
    return Subject(model=model, tokenizer=tokenizer, folder=folder, rows=rows, dtype=arguments.dtype)


def groups_of(subject: Subject) -> list[list[list[int]]]:
    """Token rows by prompt."""
    return [
        [ids[:2048] for ids in encode_answered(subject.tokenizer, [user(row.prompt)] * len(row.completions), row.completions)]
        for row in subject.rows
    ]


def describe(subject: Subject) -> None:
    """The ratios that token counts alone predict."""
    scorer = RewardModelScorer(subject.model, subject.tokenizer)
    groups = groups_of(subject)
    lengths = [len(row) for group in groups for row in group]
    unique = sum(len(pack_trees([groups[i] for i in batch], scorer.preamble).ids_N) for batch in tree_batches(groups, scorer.batch_tokens))
    print(f"{len(subject.rows)} rows, {len(lengths)} completions, {sum(lengths)} tokens, {unique} of them computed by us")
    print(f"counted on tokens: official loop {padded(lengths, OFFICIAL_BATCH) / unique:.2f}, ", end="")
    print(f"sorted by length {padded(sorted(lengths), 8) / unique:.2f}, without padding {sum(lengths) / unique:.2f}")
    print(f"device {device()}, {torch.get_num_threads()} threads, {subject.dtype}\n", flush=True)


def padded(lengths: Sequence[int], batch: int) -> int:
    """Tokens of all batches, padding included."""
    parts = [lengths[i : i + batch] for i in range(0, len(lengths), batch)]
    return sum(max(part) * len(part) for part in parts)


def official(subject: Subject, python: Path, rounds: int) -> dict[str, object]:
    """Batches of 64 in the order of the data."""
    texts = subject.texts()
    if python.is_file():
        how = "its own pipeline class (rewardbench from PyPI, own environment)"
        command = [
            str(python), str(Path(__file__).with_name("official_loop.py")), str(subject.folder), TORCH[subject.dtype],
            str(OFFICIAL_BATCH), str(torch.get_num_threads()),
        ]  # fmt: skip

        def peer() -> tuple[float, list[float]]:
            done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"the official loop failed in {python}:\n{done.stderr[-2000:]}")
            found = json.loads(done.stdout)
            return found["seconds"], found["scores"]
    else:
        how = f"the same loop on transformers ({python} is not there; make bench-official)"

        def peer() -> tuple[float, list[float]]:
            scores: list[float] = []
            return seconds(lambda: scores.extend(plain_loop(subject, texts))), scores

    return measured("official loop", how, subject.score, peer, rounds, len(subject.rows))


@torch.no_grad()
def plain_loop(subject: Subject, texts: Sequence[str]) -> list[float]:
    """The official loop's steps on the transformers of this environment."""
    scores: list[float] = []
    for first in range(0, len(texts), OFFICIAL_BATCH):
        options = {"truncation": True, "max_length": 2048, "padding": True, "return_tensors": "pt"}
        inputs = subject.tokenizer(list(texts[first : first + OFFICIAL_BATCH]), **options).to(subject.model.device)
        scores += subject.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.float().flatten().tolist()
    return scores


def best_padded(subject: Subject, rounds: int) -> dict[str, object]:
    """transformers' pipeline on texts sorted by length, at the batch size that is fastest on a sample."""
    assert isinstance(subject.tokenizer, PreTrainedTokenizerFast)
    options: dict[str, Any] = {"function_to_apply": "none", "truncation": True, "max_length": 2048}
    classify = pipeline("text-classification", model=subject.model, tokenizer=subject.tokenizer, **options)
    texts = subject.texts()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    in_order = [texts[i] for i in order]
    sample = in_order[:: max(1, len(in_order) // 64)]
    best = min(BATCHES, key=lambda batch: seconds(lambda: classify(sample, batch_size=batch)))

    def peer() -> tuple[float, list[float]]:
        found: list[dict[str, float]] = []
        spent = seconds(lambda: found.extend(classify(in_order, batch_size=best)))
        scores = dict(zip(order, (item["score"] for item in found), strict=True))
        return spent, [scores[i] for i in range(len(texts))]

    return measured("best padded", f"transformers' pipeline by length, batch {best}", subject.score, peer, rounds, len(subject.rows))


def shared_prompt(subject: Subject, prompt: int, num: int, completion: int, rounds: int) -> dict[str, object]:
    """Random tokens: only the shape matters."""
    draw = random.Random(0)
    beginning = [draw.randrange(1000) for _ in range(prompt)]
    rows = [beginning + [draw.randrange(1000) for _ in range(completion)] for _ in range(num)]

    @torch.no_grad()
    def ours() -> list[float]:
        with tree_attention(subject.model):
            return tree_rewards(subject.model, [rows]).tolist()

    @torch.no_grad()
    def batched(size: int) -> list[float]:
        return [r for i in range(0, num, size) for r in padded_rewards(subject.model, rows[i : i + size], 0).tolist()]

    best = min((1, 4, 16), key=lambda size: seconds(lambda: batched(size)))

    def peer() -> tuple[float, list[float]]:
        scores: list[float] = []
        return seconds(lambda: scores.extend(batched(best))), scores

    return measured(f"shared prompt {prompt}+{num}x{completion}", f"whole rows, batch {best}", ours, peer, rounds, num)


def measured(
    what: str, how: str, ours: Callable[[], list[float]], peer: Callable[[], tuple[float, list[float]]], rounds: int, num_rows: int
) -> dict[str, object]:
    """Both sides in turn; prints and returns the row of the table."""
    own_rates: list[float] = []
    peer_rates: list[float] = []
    difference = 0.0
    for _ in range(rounds):
        scores: list[float] = []
        own_rates.append(num_rows / seconds(lambda scores=scores: scores.extend(ours())))
        spent, others = peer()
        peer_rates.append(num_rows / spent)
        difference = max(abs(a - b) for a, b in zip(scores, others, strict=True))
    row: dict[str, object] = {
        "what": what,
        "ours": statistics.median(own_rates),
        "peer": statistics.median(peer_rates),
        "ratio": statistics.median(a / b for a, b in zip(own_rates, peer_rates, strict=True)),
        "target": TARGETS[what],
        "how": how,
        "difference": difference,
    }
    print("{what}: {ours:.2f} rows/s, peer {peer:.2f} ({how}): ratio {ratio:.2f}, target {target}".format(**row), end="")
    print(f"; largest difference of a score {difference:.1e}", flush=True)
    return row


@torch.no_grad()
def explain(subject: Subject) -> None:
    """How close we are to the machine's limit, and where the time goes."""
    scorer = RewardModelScorer(subject.model, subject.tokenizer)
    groups = groups_of(subject)
    batch = tree_batches(groups, 4096)[0]
    chosen = [groups[i] for i in batch]
    stream = pack_trees(chosen, scorer.preamble)

    def work() -> None:
        with tree_attention(subject.model):
            tree_rewards(subject.model, chosen, scorer.preamble)

    work()
    spent = min(seconds(work) for _ in range(3))
    rate = forward_flops(subject.model, len(stream.ids_N), num_seen(stream)) / spent
    peak = matmul_peak(subject.model.dtype)
    print(f"\n{len(stream.ids_N) / spent:.0f} tokens/s in one stream of {len(stream.ids_N)} tokens; ", end="")
    print(f"{rate / 1e9:.0f} GFLOP/s of {peak / 1e9:.0f} for a plain matrix product ({rate / peak:.0%})")
    parts = sorted(shares(work).items(), key=lambda item: -item[1])
    print("time by operation: " + ", ".join(f"{kind} {share:.0%}" for kind, share in parts))


def num_seen(stream: Stream) -> int:
    """Query-key pairs attended to: a key is visible from its own position to the end of its subtree."""
    return int((stream.subtree_end_N - torch.arange(len(stream.subtree_end_N))).sum())


if __name__ == "__main__":
    sys.exit(main())
