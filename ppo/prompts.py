"""Prompts for PPO: read from any data that has one in each row, and distributed over rollout batches."""

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from core.data.chat import UnreadableError, prompt_lengths
from core.data.dialogues import parse_dialogue, parse_transcript, with_columns
from core.data.preferences import SIDES, parse_preference
from core.data.rows import dataset_name, dataset_rows
from core.records import Dialogue, Prompt
from ppo.config import PPOConfig

if TYPE_CHECKING:  # the command line reads prompts before it needs torch
    from transformers import PreTrainedTokenizerBase

    from core.process.world import World
    from core.progress import Progress

KEYS = ("prompt", "question", "messages")
MAX_REPORTED = 5
"""Broken rows that a message lists with their reasons."""


def read_prompts(paths: Sequence[str], limit: int | None = None) -> list[Prompt]:
    """The distinct prompts of all sources, in order, at most `limit` of them.

    A source is a JSONL or parquet file, a folder of parquet files, a saved dataset or a hub dataset (`org/name` or
    `org/name@revision`), whose split `train` is read. A row has its prompt as `prompt`, `question` or `messages`, or as the
    common beginning of two dialogues `chosen` and `rejected`. What a verifier judges by is the row's `reference` if that is a
    mapping, otherwise the row without its answers `chosen` and `rejected`; of a repeated prompt the first row counts.

    Raises a `ValueError` that names a source that cannot be read, and its broken rows by number.
    """
    prompts = list(islice(_different(paths), limit))
    if not prompts:
        raise ValueError(f"prompts={list(paths)} hold no prompts; give files with a prompt in each row.")
    return prompts


def fitting_prompts(
    prompts: Sequence[Dialogue], tokenizer: "PreTrainedTokenizerBase", config: PPOConfig, world: "World", progress: "Progress | None" = None
) -> tuple[list[Dialogue], int]:
    """The prompts of at most `max_prompt_length` tokens, and the length of the longest of these. All processes count their share.

    Raises `ValueError` if there is none, and `UnreadableError` for prompts that the chat template cannot write.
    """
    own = world.shard(len(prompts))

    def counted() -> list[int]:
        try:
            return prompt_lengths(tokenizer, prompts[own], progress)
        except UnreadableError as error:
            raise error.moved(own.start, len(prompts)) from error

    lengths = [length for share in world.all_gather(counted) for length in share]
    fitting = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= config.max_prompt_length]
    if not fitting:
        raise ValueError(f"No prompt fits into max_prompt_length={config.max_prompt_length} tokens; raise max_prompt_length.")
    return fitting, max(length for length in lengths if length <= config.max_prompt_length)


def batch_prompts(prompts: Sequence[Dialogue], step: int, config: PPOConfig) -> list[Dialogue]:
    """The prompts of batch `step`, a function of seed and step: successive passes over all prompts, each shuffled anew.

    Step 0, which measures the untrained policy, has those of step 1.
    """
    start = max(0, step - 1) * config.batch_size

    def stream() -> Iterator[Dialogue]:
        for epoch in count(start // len(prompts)):
            order = random.Random(f"{config.seed} {epoch}").sample(range(len(prompts)), len(prompts))
            yield from (prompts[i] for i in order)

    skip = start % len(prompts)
    return list(islice(stream(), skip, skip + config.batch_size))


def parse_prompt(row: object) -> Dialogue:
    """The prompt of one row; raises a `ValueError` with the reason if it has none. A null counts as a missing field.

    If `messages` end with an answer of the assistant, the prompt is everything before it. A text `prompt` beside two dialogues
    may be one of many turns, so the prompt is read from the dialogues (see `core.data.preferences`). Columns for a system turn
    or tools belong to it.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"not a JSON object: {row!r:.80}")
    key = next((key for key in KEYS if row.get(key)), None)
    sides = [row[key] for key in SIDES if row.get(key)]
    alone = all(isinstance(side, str) and parse_transcript(side) is None for side in sides)
    if len(sides) == len(SIDES) and (key is None or (key == "prompt" and not alone)):
        return parse_preference(row).prompt
    if key is None:
        raise ValueError(f"{', '.join((*KEYS, *SIDES))}: all missing or empty; the row has {sorted(map(str, row))}")
    turns = parse_dialogue(row[key], key)
    if key == "messages" and turns[-1].role == "assistant":
        turns = turns[:-1]
    if not turns:
        raise ValueError(f"{key} holds an answer and no prompt")
    turns = with_columns(row, turns)
    for turn in turns:
        (turn.content + turn.fields).encode()  # raises a ValueError for a lone surrogate, which no tokenizer accepts
    return turns


def _different(paths: Sequence[str]) -> Iterator[Prompt]:
    """Each prompt at its first occurrence."""
    seen: set[Dialogue] = set()
    for path in paths:
        broken: list[str] = []
        remedy = "prompts are read from the split train, so name a file of another one"
        for number, row in dataset_rows(path, split="train", what=f"prompts names {path}, which", remedy=remedy):
            try:
                dialogue = parse_prompt(row)
            except ValueError as error:
                broken.append(f"row {number}: {error}")
                continue
            if dialogue not in seen:
                seen.add(dialogue)
                yield Prompt(id=str(row.get("id", f"{dataset_name(path)}-{number}")), dialogue=dialogue, reference=_reference(row))
        if broken:
            listed, more = "\n  ".join(broken[:MAX_REPORTED]), f"\n  and {len(broken) - MAX_REPORTED} more" if broken[MAX_REPORTED:] else ""
            raise ValueError(
                f"prompts names {path}, which has {len(broken)} row(s) without a prompt:\n  {listed}{more}\nFix or remove them."
            )


def _reference(row: Mapping[str, Any]) -> Mapping[str, Any]:
    given = row.get("reference")
    # Without the answers, which would take gigabytes of a large preference dataset for nothing.
    return given if isinstance(given, Mapping) else {key: value for key, value in row.items() if key not in SIDES}
