"""Preference pairs as token ids, within a length limit.

Shapes: L tokens of prompt and completion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.data.chat import encode_answered, encode_prompts
from core.progress import NoProgress, Progress
from core.records import Preference
from rmtrain.config import Overlong

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 512
"""Pairs tokenised at a time: what the tokenizer returns is many times as large as the ids that are kept."""
MIN_PROMPT = 8
"""Tokens of the prompt, BOS included, that must remain after a cut."""

_Rows = tuple[list[int], list[int]]
"""Token ids of the chosen and the rejected side."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenPair:
    """The int32 token ids of prompt and completion, of shape (L,), for both sides of a pair: 4 bytes per token.

    >>> TokenPair(chosen=np.array([0, 5]), rejected=np.array([0, 6]), margin=0.0).margin
    0.0
    """

    chosen: NDArray[np.int32]
    rejected: NDArray[np.int32]
    margin: float
    """0 if the pair has none."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenPairs:
    """The pairs that fit, in order, how many did not, and how many had their prompt cut so that they fit."""

    pairs: list[TokenPair]
    num_dropped: int
    num_cut: int


def tokenize(
    preferences: Sequence[Preference],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    overlong: Overlong,
    progress: Progress | None = None,
) -> TokenPairs:
    """Both sides of every pair, rendered by the chat template; pairs longer than `max_length` tokens are dropped or cut.

    A cut removes tokens from the beginning of the prompt after BOS, equally many on both sides, so that the longer one has
    `max_length`; a pair that would keep fewer than 8 tokens of its prompt is dropped. Raises `ValueError` if no pair is
    left, and one that names source and prompt of a pair that the chat template rejects.
    """
    progress = progress or NoProgress()
    pairs: list[TokenPair] = []
    num_cut = 0
    progress.start("tokenizing", len(preferences))
    try:
        for start in range(0, len(preferences), CHUNK):
            chunk = preferences[start : start + CHUNK]
            for preference, rows in zip(chunk, _encode(chunk, tokenizer), strict=True):
                fitting: _Rows | None = rows
                if max(map(len, rows)) > max_length:
                    fitting = _cut(rows, preference, tokenizer, max_length) if overlong == Overlong.cut else None
                    num_cut += fitting is not None
                if fitting is not None:
                    pairs.append(_packed(fitting, preference.margin))
            progress.advance(len(chunk))
    finally:
        progress.finish()
    if not pairs:
        raise ValueError(f"No pair fits into max_length={max_length} tokens; raise max_length.")
    return TokenPairs(pairs=pairs, num_dropped=len(preferences) - len(pairs), num_cut=num_cut)


def _packed(rows: _Rows, margin: float | None) -> TokenPair:
    chosen, rejected = (np.array(row, dtype=np.int32) for row in rows)
    return TokenPair(chosen=chosen, rejected=rejected, margin=float(margin or 0.0))


def _encode(preferences: Sequence[Preference], tokenizer: "PreTrainedTokenizerBase") -> list[_Rows]:
    prompts = [pair.prompt for pair in preferences] * 2
    answers = [pair.chosen for pair in preferences] + [pair.rejected for pair in preferences]
    try:
        rows = encode_answered(tokenizer, prompts, answers)
    except ValueError:
        for pair in preferences:
            _require_renderable(pair, tokenizer)
        raise
    return list(zip(rows[: len(preferences)], rows[len(preferences) :], strict=True))


def _require_renderable(pair: Preference, tokenizer: "PreTrainedTokenizerBase") -> None:
    try:
        encode_answered(tokenizer, [pair.prompt] * 2, [pair.chosen, pair.rejected])
    except ValueError as error:
        raise ValueError(f"a pair of {pair.source or 'the data'} whose prompt begins {pair.prompt[0].content!r:.80}: {error}") from error


def _cut(rows: _Rows, pair: Preference, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> _Rows | None:
    """Both rows with the beginning of the prompt removed, or None if too little of it would be left."""
    chosen, rejected = rows
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    # Answers that begin alike share more than the prompt, and a template may end a bare prompt differently from an answered one.
    prompt = min(shared, len(encode_prompts(tokenizer, [pair.prompt])[0]))
    excess = max(map(len, rows)) - max_length
    if prompt - excess < MIN_PROMPT:
        return None
    start = int(chosen[0] == tokenizer.bos_token_id)
    return chosen[:start] + chosen[start + excess :], rejected[:start] + rejected[start + excess :]
