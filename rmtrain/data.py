"""Preference pairs: read, checked, sampled and flipped."""

import json
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.chat import parse_dialogue
from core.records import Dialogue, Message, Preference
from core.rows import numbered_lines, parquet_rows
from core.sources import require_hub
from rmtrain.config import PreferenceDataConfig

MAX_REPORTED = 5
"""Broken rows that an error lists one by one."""


def load_preferences(
    config: PreferenceDataConfig, *, seed: int, say: Callable[[str], None] = print
) -> tuple[list[Preference], list[Preference]]:
    """Training and held-out pairs of all paths: subsampled, shuffled and flipped, each by a seed of its own.

    Held-out pairs are never flipped: they measure against the labels as given. `say` hears of dropped rows. Raises
    `ValueError` that lists the broken rows of a file by number, or where no pair is left to train on.
    """
    pairs = [pair for path in config.paths for pair in read_preferences(path, say)]
    random.Random(f"shuffle {seed}").shuffle(pairs)
    pairs = pairs[: max(1, round(config.subsample * len(pairs)))]
    num_held_out = round(config.held_out * len(pairs))
    held_out, training = pairs[:num_held_out], pairs[num_held_out:]
    if not training:
        raise ValueError(f"data.held_out={config.held_out} leaves none of {len(pairs)} pair(s) to train on; lower it.")
    return flip(training, config.flip, seed=seed), held_out


def flip(pairs: Sequence[Preference], share: float, *, seed: int) -> list[Preference]:
    """The pairs with exactly `round(share * n)` labels exchanged; the order stays."""
    flipped = set(random.Random(f"flip {seed}").sample(range(len(pairs)), round(share * len(pairs))))
    return [replace(pair, chosen=pair.rejected, rejected=pair.chosen) if index in flipped else pair for index, pair in enumerate(pairs)]


def read_preferences(path: str, say: Callable[[str], None] = print) -> list[Preference]:
    """All pairs of a JSONL or parquet file, or of the training split of a hub dataset.

    Rows whose two completions are equal carry no preference: they are dropped, and `say` is told how many.
    """
    pairs: list[Preference] = []
    broken: list[str] = []
    for number, row in _rows(path):
        try:
            pairs.append(_parse(row, source=Path(path).stem))
        except ValueError as error:
            broken.append(f"row {number}: {error}")
    if broken:
        listed = "\n  ".join(broken[:MAX_REPORTED])
        more = f"\n  and {len(broken) - MAX_REPORTED} more" if len(broken) > MAX_REPORTED else ""
        raise ValueError(
            f"{path} has {len(broken)} broken row(s) of {len(broken) + len(pairs)}:\n  {listed}{more}\n"
            "A row is {'prompt', 'chosen', 'rejected'} as text or messages, or {'chosen', 'rejected'} as messages that begin "
            "alike. Mend or remove these rows."
        )
    different = [pair for pair in pairs if pair.chosen != pair.rejected]
    if not different:
        raise ValueError(f"{path} holds no preference pairs; it needs at least one row whose chosen and rejected differ.")
    if len(different) < len(pairs):
        say(f"dropped {len(pairs) - len(different)} of {len(pairs)} pairs of {path} whose chosen and rejected are the same text")
    return different


def _rows(path: str) -> Iterator[tuple[int, Any]]:
    """Rows with their numbers, counted from 1; a line that is no JSON is yielded as text and found broken later."""
    file = Path(path).expanduser()
    if file.is_file():
        yield from parquet_rows(file) if file.suffix == ".parquet" else ((number, _json(line)) for number, line in numbered_lines(file))
    elif file.suffix or file.is_absolute() or path.count("/") != 1:
        raise ValueError(f"data.paths names {path}, which does not exist; give a JSONL or parquet file, or a hub dataset such as org/name.")
    else:
        yield from enumerate(_hub_rows(path), 1)


def _hub_rows(name: str) -> Iterable[Any]:
    require_hub(f"data.paths names {name}, which")
    from datasets import load_dataset

    try:
        return load_dataset(name, split="train")
    except OSError as error:
        raise ValueError(
            f"data.paths names {name}, which could not be loaded from the hub ({error}); check the name or give a file."
        ) from error


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return line


def _parse(row: Any, *, source: str) -> Preference:
    if not isinstance(row, Mapping):
        raise ValueError(f"not a JSON object: {row!r:.80}")
    missing = [key for key in ("chosen", "rejected") if not row.get(key)]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing or empty; the row has {sorted(map(str, row))}")
    margin = row.get("margin")
    if margin is not None and not (isinstance(margin, (int, float)) and math.isfinite(margin)):
        raise ValueError(f"margin is {margin!r}, not a finite number")
    if row.get("prompt"):
        prompt = parse_dialogue(row["prompt"], "prompt")
        chosen, rejected = (_answer(row[key], key, prompt) for key in ("chosen", "rejected"))
    else:
        prompt, chosen, rejected = _implicit(row)
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, source=str(row.get("source") or source))


def _answer(value: Any, key: str, prompt: Dialogue) -> str:
    """The completion as text, out of text, of one assistant message, or of the whole dialogue again."""
    if isinstance(value, str):
        return value
    turns = parse_dialogue(value, key)
    if turns[:-1] not in ((), prompt) or turns[-1].role != "assistant":
        raise ValueError(f"{key} must be text, or the prompt's messages and one of the assistant")
    return turns[-1].content


def _implicit(row: Mapping[str, Any]) -> tuple[Dialogue, str, str]:
    """Prompt and completions where the prompt is the shared beginning of two dialogues."""
    chosen, rejected = (_transcript(row[key], key) for key in ("chosen", "rejected"))
    if len(chosen) < 2 or len(chosen) != len(rejected) or chosen[:-1] != rejected[:-1]:
        raise ValueError("without a prompt, chosen and rejected must be dialogues that differ in their last turn alone")
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        raise ValueError("the last turn of chosen and rejected must be the assistant's")
    return chosen[:-1], chosen[-1].content, rejected[-1].content


def _transcript(value: Any, key: str) -> Dialogue:
    """Messages, or the transcript form of HH-RLHF with its turns after "Human:" and "Assistant:".

    Where one side of a transcript speaks twice in a row (9 of the 2,312 rows of HH's harmless test set), it is one turn of
    two paragraphs: the other side may not do so, and many chat templates raise unless the roles alternate.
    """
    if not isinstance(value, str):
        return parse_dialogue(value, key)
    before, *parts = re.split(r"\n\n(Human|Assistant):", value)
    if before or parts[:1] != ["Human"]:
        raise ValueError(f"prompt is missing, and {key} is neither a list of messages nor a Human/Assistant transcript")
    turns: list[Message] = []
    for speaker, text in zip(parts[::2], parts[1::2], strict=True):
        role, content = "user" if speaker == "Human" else "assistant", text.strip()
        if turns and turns[-1].role == role:
            content = f"{turns.pop().content}\n\n{content}".strip()
        turns.append(Message(role=role, content=content))
    return tuple(turns)
