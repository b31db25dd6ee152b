"""Preference pairs as token ids, within a length limit.

Shapes: L tokens of prompt and completion."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.data.chat import UnreadableError, encode, encode_prompts
from core.data.dialogues import turn_of
from core.data.pad_token import without_trailing_pads
from core.progress import NoProgress, Progress
from core.records import Preference
from rmtrain.config import Overlong

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 512
"""Pairs tokenised at a time: what the tokenizer returns is many times as large as the ids that are kept."""
FIX, SKIP, LEFT_OUT = "Fix or remove these rows.", "Or leave them out with data.skip_broken=true.", "They are left out."
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
    """The pairs to train on, in order, and what happened to the others.

    `num_dropped` were too long, and `num_cut` had their prompt cut so that they fit. `num_equal` have the same tokens on both
    sides, so that they express no preference. `broken` says of pairs, by their place, why the chat template cannot write them.
    `lost` counts the pairs of which it leaves something out.
    """

    pairs: list[TokenPair]
    num_dropped: int
    num_cut: int
    num_equal: int
    broken: Mapping[int, str]
    lost: Mapping[str, int]


def tokenize(
    preferences: Sequence[Preference],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    overlong: Overlong,
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> TokenPairs:
    """Both sides of every pair, rendered by the chat template; pairs longer than `max_length` tokens are dropped or cut.

    A cut removes tokens from the beginning of the prompt after BOS, equally many on both sides, so that the longer one has
    `max_length`; a pair that would keep fewer than 8 tokens of its prompt is dropped. So is one whose sides are the same tokens,
    which a template that strips or leaves out what sets them apart makes of different texts. Raises `ValueError` if no pair is
    left, and one that names the rows that the chat template refuses, or writes nothing sensible of, unless `skip_broken`.
    """
    progress = progress or NoProgress()
    kept: list[TokenPair] = []
    num_dropped = num_cut = num_equal = 0
    broken: dict[int, str] = {}
    lost: Counter[str] = Counter()
    progress.start("tokenizing", len(preferences))
    try:
        for start in range(0, len(preferences), CHUNK):
            chunk = preferences[start : start + CHUNK]
            for place, (preference, side) in enumerate(zip(chunk, _encode(chunk, tokenizer), strict=True), start):
                fitting: _Rows | None = side.rows
                if side.reason:
                    broken[place] = side.reason
                    continue
                lost.update(side.lost)
                if max(map(len, side.rows)) > max_length:
                    fitting = _cut(side.rows, preference, tokenizer, max_length) if overlong == Overlong.cut else None
                    num_cut += fitting is not None
                    num_dropped += fitting is None
                if fitting is not None and _are_equal(fitting, tokenizer):
                    num_equal += 1
                elif fitting is not None:
                    kept.append(_packed(fitting, preference.margin))
            progress.advance(len(chunk))
    finally:
        progress.finish()
    if broken and not (skip_broken and kept):
        raise ValueError(listed(broken, preferences, FIX if skip_broken else f"{FIX} {SKIP}"))
    if num_dropped == len(preferences):
        raise ValueError(f"No pair fits into max_length={max_length} tokens; raise max_length.")
    if not kept:
        raise ValueError(
            f"chosen and rejected are the same tokens in {num_equal} of {len(preferences)} pairs, which leaves none to train on: the "
            "chat template strips or leaves out what sets them apart. Choose another model or template, or other data."
        )
    return TokenPairs(pairs=kept, num_dropped=num_dropped, num_cut=num_cut, num_equal=num_equal, broken=broken, lost=lost)


def listed(broken: Mapping[int, str], preferences: Sequence[Preference], remedy: str) -> str:
    """A message that lists the first of the pairs which the chat template cannot write, with the reasons."""
    return UnreadableError(broken, len(preferences)).listed([_where(pair) for pair in preferences], "pairs", remedy)


def comparable(
    preferences: Sequence[Preference], tokenizer: "PreTrainedTokenizerBase", *, skip_broken: bool, say: Callable[[str], None] = print
) -> list[Preference]:
    """The held-out pairs whose sides differ in their tokens; `say` is told of the others. Raises `ValueError` as `tokenize`."""
    sides = _encode(preferences, tokenizer)
    broken = {i: side.reason for i, side in enumerate(sides) if side.reason}
    if broken and not skip_broken:
        raise ValueError(f"held out: {listed(broken, preferences, f'{FIX} {SKIP}')}")
    if broken:
        say(f"held out: {listed(broken, preferences, LEFT_OUT)}")
    equal = {i for i, side in enumerate(sides) if not side.reason and _are_equal(side.rows, tokenizer)}
    if equal:
        say(f"held out: left out {len(equal)} of {len(preferences)} pairs whose chosen and rejected are the same tokens")
    return [pair for i, pair in enumerate(preferences) if i not in broken and i not in equal]


def _packed(rows: _Rows, margin: float | None) -> TokenPair:
    chosen, rejected = (np.array(row, dtype=np.int32) for row in rows)
    return TokenPair(chosen=chosen, rejected=rejected, margin=float(margin or 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sides:
    """Both sides of a pair as token ids, what the template left out of either, and why they cannot be used, if so."""

    rows: _Rows
    lost: tuple[str, ...]
    reason: str


def _encode(preferences: Sequence[Preference], tokenizer: "PreTrainedTokenizerBase") -> list[_Sides]:
    answered = [(*pair.prompt, turn_of(answer)) for pair in preferences for answer in (pair.chosen, pair.rejected)]
    encoded = encode(tokenizer, answered, answered=True, skip=True)
    return [
        _Sides(
            rows=(encoded.rows[i], encoded.rows[i + 1]),
            lost=tuple(dict.fromkeys((*encoded.checks[i].lost, *encoded.checks[i + 1].lost))),
            reason=encoded.checks[i].reason or encoded.checks[i + 1].reason,
        )
        for i in range(0, len(answered), 2)
    ]


def _where(pair: Preference) -> str:
    return pair.where or f"a pair of {pair.source or 'the data'} whose prompt begins {pair.prompt[0].content!r:.80}"


def _are_equal(rows: _Rows, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the model reads the same of both: up to the last token that is not padding."""
    pad = tokenizer.pad_token_id
    chosen, rejected = (without_trailing_pads(row, pad if isinstance(pad, int) else None) for row in rows)
    return chosen == rejected


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
