"""Speed of best-of-N's two halves: ranking pools with a reward model, and drawing n completions of a prompt.

    python -m benchmarks.bon_rerank [--model pip:smollm2-135m] [--dtype bf16] [--prompts 4] [--rounds 3] [--json OUT]

- `rerank P+NxC`: pools of N completions of about C tokens (half to one and a half times as many) for each prompt of P tokens; ours
  are prompt trees, the peer whole rows sorted by length and padded, at its best batch size.
- `generate one prefill P+NxC`: N completions of C tokens each of a prompt of P tokens; ours prefills the prompt once, the peer is
  transformers' `generate` with `num_return_sequences=N`, which prefills N copies.

Both sides run alternately on the same model and tokens; a ratio is the median over the rounds of the peer's seconds / ours.
"""

import argparse
import json
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.machine import device, seconds
from core.config import Dtype, ModelConfig
from core.data.chat import pad_id
from core.generators.local import sample
from core.models.head import padded_rewards, tree_rewards
from core.models.load import load_policy, new_reward_model
from core.process.memory import keep_freed_memory
from core.records import Sampling
from core.trees.attention import tree_attention
from core.trees.layout import tree_batches

TARGETS = {"rerank 256+16x128": 2.7, "rerank 1024+16x64": 7.0, "generate one prefill 1024+16x32": 3.0}
POOLS = ((256, 16, 128), (1024, 16, 64))
DRAWN = (1024, 16, 32)
BATCHES = (1, 4, 16)
BATCH_TOKENS = 16384

Row = dict[str, object]


def main() -> None:
    arguments = parse()
    keep_freed_memory()
    print(f"device {device()}, {torch.get_num_threads()} threads, {arguments.dtype}, {arguments.model}", flush=True)
    config = ModelConfig(path=arguments.model, dtype=arguments.dtype)
    rows: list[Row] = []
    for row in _rows(config, arguments.prompts, arguments.rounds):
        rows.append(row)
        if arguments.json:
            arguments.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


def _rows(config: ModelConfig, num_prompts: int, rounds: int) -> Iterator[Row]:
    yield generate(config, *DRAWN, rounds=rounds)
    reward_model, _ = new_reward_model(config, seed=0)
    torch.nn.Module.to(reward_model.eval(), device())  # typed, unlike the own method of PreTrainedModel
    for shape in POOLS:
        yield rerank(reward_model, *shape, num_prompts=num_prompts, rounds=rounds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pip:smollm2-135m")
    parser.add_argument("--dtype", type=Dtype, choices=list(Dtype), default=Dtype.bf16)
    parser.add_argument("--prompts", type=int, default=4, help="prompts of a pool")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def pool_of(prompt: int, num: int, completion: int, num_prompts: int) -> list[list[list[int]]]:
    """Rows of random tokens by prompt: only their lengths matter."""
    draw = random.Random(0)

    def tokens(length: int) -> list[int]:
        return [draw.randrange(100, 1000) for _ in range(length)]

    def pool() -> list[list[int]]:
        beginning = tokens(prompt)
        return [beginning + tokens(draw.randint(completion // 2, completion + completion // 2)) for _ in range(num)]

    return [pool() for _ in range(num_prompts)]


def rerank(model: PreTrainedModel, prompt: int, num: int, completion: int, *, num_prompts: int, rounds: int) -> Row:
    """All completions of a pool scored by both sides."""
    groups = pool_of(prompt, num, completion, num_prompts)
    rows = [row for group in groups for row in group]
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))

    @torch.no_grad()
    def ours() -> list[float]:
        found: dict[int, list[float]] = {}
        with tree_attention(model):
            for batch in tree_batches(groups, BATCH_TOKENS):
                rewards = iter(tree_rewards(model, [groups[i] for i in batch]).tolist())
                found |= {i: [next(rewards) for _ in groups[i]] for i in batch}
        return [reward for i in range(len(groups)) for reward in found[i]]

    @torch.no_grad()
    def padded(size: int, chosen: Sequence[int]) -> list[float]:
        found: dict[int, float] = {}
        for start in range(0, len(chosen), size):
            batch = chosen[start : start + size]
            found |= dict(zip(batch, padded_rewards(model, [rows[i] for i in batch], 0).tolist(), strict=True))
        return [found[i] for i in sorted(found)]

    few = by_length[:: max(1, len(by_length) // 16)]
    best = min(BATCHES, key=lambda size: seconds(lambda: padded(size, few)))
    how = f"rows sorted by length and padded, batch {best}"
    counted = sum(map(len, rows)) / sum(prompt + sum(len(row) - prompt for row in group) for group in groups)
    return measured(f"rerank {prompt}+{num}x{completion}", how, ours, lambda: padded(best, by_length), rounds, counted=counted)


def generate(config: ModelConfig, prompt: int, num: int, completion: int, *, rounds: int) -> Row:
    """`num` completions of one prompt drawn by both sides, none of which may end early."""
    model, tokenizer = load_policy(config)
    ids = pool_of(prompt, 1, 2, 1)[0][0][:prompt]
    sampling, pad = Sampling(n=num, max_new_tokens=completion), pad_id(tokenizer)

    def ours() -> list[float]:
        rows, _ = sample(model, [ids], [0], sampling, pad=pad, ends=frozenset())
        return [float(len(row)) for row in rows]

    @torch.no_grad()
    def peer() -> list[float]:
        inputs = torch.tensor([ids], device=model.device)
        typeless: Any = model  # the types of transformers hide generate() from its own models
        options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "min_new_tokens": completion, "max_new_tokens": completion}
        drawn = typeless.generate(inputs, attention_mask=torch.ones_like(inputs), num_return_sequences=num, pad_token_id=pad, **options)
        return [float(row.shape[-1] - prompt) for row in drawn]

    how = f"transformers' generate, num_return_sequences={num}"
    return measured(f"generate one prefill {prompt}+{num}x{completion}", how, ours, peer, rounds, counted=None)


def measured(
    what: str, how: str, ours: Callable[[], list[float]], peer: Callable[[], list[float]], rounds: int, *, counted: float | None
) -> Row:
    """Both sides in turn, after one call of each; prints and returns the row of the table."""
    difference = max(abs(a - b) for a, b in zip(ours(), peer(), strict=True))
    spent = [(seconds(ours), seconds(peer)) for _ in range(rounds)]
    row: Row = {
        "what": what,
        "ours_s": statistics.median(own for own, _ in spent),
        "peer_s": statistics.median(other for _, other in spent),
        "ratio": statistics.median(other / own for own, other in spent),
        "rounds": [other / own for own, other in spent],
        "counted_on_tokens": counted,
        "target": TARGETS.get(what),
        "how": how,
        "difference": difference,
    }
    tokens = "" if counted is None else f", {counted:.2f} counted on tokens"
    print("{what}: {ours_s:.2f} s, peer {peer_s:.2f} s ({how}): ratio {ratio:.2f}, target {target}".format(**row), end="")
    print(f"{tokens}; largest difference {difference:.1e}", flush=True)
    return row


if __name__ == "__main__":
    main()
