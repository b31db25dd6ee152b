"""Speed of generation: tokens per second of our engine against transformers' `model.generate`.

    python -m benchmarks.rollouts.speed --rounds 3 --json rollouts.json

The peer is what a user of transformers writes: the prompts in batches of `--batch`, in the order given, padded on the left,
`do_sample=True, top_k=0, top_p=1`, the same limit, EOS and number of completions per prompt. Both sides answer the same
prompts with the same weights in one process, alternately, and are measured by the tokens sampled up to EOS: their samples
differ, and so, slightly, do the lengths. `--engine continuous` uses transformers' continuous batching in place of our engine.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from benchmarks.machine import device, seconds, shares
from core.config import Dtype, ModelConfig, RolloutConfig, RolloutKind
from core.data.chat import encode_prompts, pad_id
from core.data.padding import pad_left
from core.generators.open import open_generator
from core.models.load import load_policy
from core.process.memory import keep_freed_memory
from core.records import Dialogue, Generator, Sampling, user

SENTENCE = "what is the sum of two and three name a short fruit that grows on trees and tell me why you like it"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Number of prompts and completions; prompts have from `shortest` to `longest` words."""

    what: str
    prompts: int
    per_prompt: int
    shortest: int
    longest: int


SHAPES = (
    Shape(what="one completion per prompt", prompts=64, per_prompt=1, shortest=4, longest=64),
    Shape(what="16 completions per prompt", prompts=4, per_prompt=16, shortest=32, longest=64),
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The policy and both ways to draw from it; `batch` is in completions."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    engine: Generator
    batch: int
    limit: int
    temperature: float

    def ours(self, prompts: Sequence[Dialogue], per_prompt: int, seed: int) -> int:
        """The number of tokens that our engine sampled."""
        sampling = Sampling(n=per_prompt, temperature=self.temperature, max_new_tokens=self.limit, seed=seed)
        return sum(len(completion.token_ids) for row in self.engine.generate(prompts, sampling) for completion in row)

    def peer(self, prompts: Sequence[Dialogue], per_prompt: int, seed: int) -> int:
        """The number of tokens that transformers' `generate` sampled up to EOS."""
        torch.manual_seed(seed)
        num_tokens = 0
        at_once = max(1, self.batch // per_prompt)
        for first in range(0, len(prompts), at_once):
            ids, mask = pad_left(encode_prompts(self.tokenizer, prompts[first : first + at_once]), pad_id(self.tokenizer))
            typeless: Any = self.model  # the types of transformers hide generate() from its own models
            output = typeless.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                do_sample=True,
                temperature=self.temperature,
                top_k=0,
                top_p=1.0,
                num_return_sequences=per_prompt,
                max_new_tokens=self.limit,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=pad_id(self.tokenizer),
            )
            for row in output[:, ids.shape[1] :].tolist():
                eos = self.tokenizer.eos_token_id
                num_tokens += row.index(eos) + 1 if eos in row else len(row)
        return num_tokens


def main() -> None:
    arguments = parse()
    keep_freed_memory()
    logging.disable_progress_bar()
    subject = prepare(arguments)
    print(f"{arguments.model}, {arguments.dtype}, {arguments.engine}, limit {arguments.limit}, batch {arguments.batch}, ", end="")
    print(f"device {device()}, {torch.get_num_threads()} threads\n", flush=True)
    results = [compare(subject, shape, arguments.scale, arguments.rounds) for shape in SHAPES]
    explain(subject, arguments.scale)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": results}, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pip:smollm2-135m", help="a policy: folder, hub id or pip:smollm2-135m")
    parser.add_argument("--dtype", type=Dtype, choices=list(Dtype), default=Dtype.bf16)
    parser.add_argument("--engine", type=RolloutKind, choices=[RolloutKind.transformers, RolloutKind.continuous], default="transformers")
    parser.add_argument("--batch", type=int, default=64, help="completions written at a time")
    parser.add_argument("--limit", type=int, default=128, help="new tokens per completion")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the prompts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def prepare(arguments: argparse.Namespace) -> Subject:
    """Loads the policy and runs both sides once, so that neither pays for the first use."""
    model, tokenizer = load_policy(ModelConfig(path=arguments.model, dtype=arguments.dtype))
    engine = open_generator(RolloutConfig(kind=arguments.engine, batch_size=arguments.batch), model, tokenizer)
    subject = Subject(
        model=model, tokenizer=tokenizer, engine=engine, batch=arguments.batch, limit=arguments.limit, temperature=arguments.temperature
    )
    for side in (subject.ours, subject.peer):
        side([user("warm up")], 2, 0)
    return subject


def questions(shape: Shape, scale: float) -> list[Dialogue]:
    """Prompts of mixed lengths; their content does not matter."""
    draw = random.Random(0)
    num = max(1, round(shape.prompts * scale))
    words = SENTENCE.split()
    return [user(" ".join(draw.choices(words, k=draw.randint(shape.shortest, shape.longest)))) for _ in range(num)]


def compare(subject: Subject, shape: Shape, scale: float, rounds: int) -> dict[str, object]:
    """Both sides in turn; prints and returns the row of the table."""
    prompts = questions(shape, scale)
    own: list[float] = []
    peer: list[float] = []
    for seed in range(rounds):
        own.append(rate(lambda seed=seed: subject.ours(prompts, shape.per_prompt, seed)))
        peer.append(rate(lambda seed=seed: subject.peer(prompts, shape.per_prompt, seed)))
    row: dict[str, object] = {
        "what": shape.what,
        "ours": statistics.median(own),
        "peer": statistics.median(peer),
        "ratio": statistics.median(a / b for a, b in zip(own, peer, strict=True)),
        "how": f"model.generate, batch {subject.batch}, padded on the left",
        "prompts": len(prompts),
        "rounds": rounds,
    }
    print("{what}: {ours:.1f} tokens/s, peer {peer:.1f} ({how}): ratio {ratio:.2f}".format(**row), flush=True)
    return row


def rate(work: Callable[[], int]) -> float:
    """Tokens per second of one call that returns their number."""
    drawn: list[int] = []
    spent = seconds(lambda: drawn.append(work()))
    return drawn[0] / spent


def explain(subject: Subject, scale: float) -> None:
    """Where our time goes."""
    prompts = questions(SHAPES[0], scale)
    parts = sorted(shares(lambda: subject.ours(prompts, 1, 0)).items(), key=lambda item: -item[1])
    print("time by operation: " + ", ".join(f"{kind} {share:.0%}" for kind, share in parts))


if __name__ == "__main__":
    sys.exit(main())
