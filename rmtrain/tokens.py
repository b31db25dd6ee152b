"""Preference pairs as token ids, within a length limit.

Shapes: N pairs, L tokens of prompt and completion."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from core.data.chat import UnreadableError
from core.progress import NoProgress, Progress
from core.records import Preference
from rmtrain.config import Overlong
from rmtrain.store import StoredPairs
from rmtrain.token_store import Tokenized, tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIX, SKIP, LEFT_OUT = "Fix or remove these rows.", "Or leave them out with data.skip_broken=true.", "They are left out."
MIN_PROMPT = 8
"""Tokens of the prompt, BOS included, that must remain after a cut."""


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


class FittingPairs(Sequence[TokenPair]):
    """The pairs at some indices of tokenised ones, read when they are asked for; `cut_N` tokens are taken out after BOS."""

    def __init__(self, tokens: Tokenized, indices_N: NDArray[np.int64], cut_N: NDArray[np.int64], bos: int | None) -> None:
        self._tokens, self._indices_N, self._cut_N, self._bos = tokens, indices_N, cut_N, bos

    def __len__(self) -> int:
        return len(self._indices_N)

    @overload
    def __getitem__(self, index: int) -> TokenPair: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenPair]: ...
    def __getitem__(self, index: int | slice) -> TokenPair | list[TokenPair]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = int(self._indices_N[index])
        chosen, rejected = self._tokens.ids(place)
        if cut := int(self._cut_N[index]):
            start = int(chosen[0] == self._bos)
            chosen, rejected = (np.delete(row, slice(start, start + cut)) for row in (chosen, rejected))
        return TokenPair(chosen=chosen, rejected=rejected, margin=float(self._tokens.margins_N[place]))

    @property
    def longest(self) -> int:
        """Tokens of the longest side."""
        return int((self._tokens.lengths_N2[self._indices_N].max(axis=1) - self._cut_N).max())

    @property
    def have_margins(self) -> bool:
        """Whether any pair has a margin."""
        return bool(self._tokens.margins_N[self._indices_N].any())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenPairs:
    """The pairs to train on, in order, and what happened to the others.

    `shares_N` says of all pairs which share of their tokens is trained on: 0 of one that is left out, below 1 of one that is cut.
    `num_dropped` were too long, and `num_cut` had their prompt cut so that they fit. `num_equal` have the same tokens on both
    sides, so that they express no preference. `broken` says of pairs, by their place, why the chat template cannot write them.
    `lost` counts the pairs of which it leaves something out.
    """

    pairs: FittingPairs
    shares_N: NDArray[np.float64]
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

    The ids stay on disk, and those of `StoredPairs` are found there next time (see `rmtrain.token_store.tokenized`).
    """
    tokens = tokenized(preferences, tokenizer, progress or NoProgress())
    broken, lost = _judged(tokens)
    usable = np.ones(len(tokens), dtype=bool)
    usable[list(broken)] = False
    excess_N = np.where(usable, np.maximum(tokens.lengths_N2.max(axis=1, initial=0).astype(np.int64) - max_length, 0), 0)
    fits = excess_N == 0
    if overlong == Overlong.cut and not fits.all():
        fits |= _prompts_in(tokens, ~fits, tokens.prompt_lengths(tokenizer, max_length)) - excess_N >= MIN_PROMPT
    # Both sides of a cut lose the same tokens, so they are equal if they were before.
    kept = usable & fits & ~tokens.equal_N
    num_dropped, num_equal = int((usable & ~fits).sum()), int((usable & fits & tokens.equal_N).sum())
    if broken and not (skip_broken and kept.any()):
        raise ValueError(listed(broken, preferences, FIX if skip_broken else f"{FIX} {SKIP}"))
    if num_dropped == len(preferences):
        raise ValueError(f"No pair fits into max_length={max_length} tokens; raise max_length.")
    if not kept.any():
        raise ValueError(
            f"chosen and rejected are the same tokens in {num_equal} of {len(preferences)} pairs, which leaves none to train on: the "
            "chat template strips or leaves out what sets them apart. Choose another model or template, or other data."
        )
    bos = tokenizer.bos_token_id
    lengths_N = np.maximum(tokens.lengths_N2.sum(axis=1), 1)
    return TokenPairs(
        pairs=FittingPairs(tokens, np.flatnonzero(kept), excess_N[kept], bos if isinstance(bos, int) else None),
        shares_N=np.where(kept, 1 - 2 * excess_N / lengths_N, 0.0),
        num_dropped=num_dropped,
        num_cut=int((usable & fits & (excess_N > 0)).sum()),
        num_equal=num_equal,
        broken=broken,
        lost=lost,
    )


def listed(broken: Mapping[int, str], preferences: Sequence[Preference], remedy: str) -> str:
    """A message that lists the first of the pairs which the chat template cannot write, with the reasons."""
    return UnreadableError(broken, len(preferences)).listed({index: _where(preferences[index]) for index in broken}, "pairs", remedy)


def comparable(
    preferences: Sequence[Preference],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    skip_broken: bool,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> Sequence[Preference]:
    """The held-out pairs whose sides differ in their tokens; `say` is told of the others. Raises `ValueError` as `tokenize`."""
    if not preferences:
        return preferences
    tokens = tokenized(preferences, tokenizer, progress or NoProgress())
    broken, _ = _judged(tokens)
    if broken and not skip_broken:
        raise ValueError(f"held out: {listed(broken, preferences, f'{FIX} {SKIP}')}")
    if broken:
        say(f"held out: {listed(broken, preferences, LEFT_OUT)}")
    usable = np.ones(len(tokens), dtype=bool)
    usable[list(broken)] = False
    if num_equal := int((usable & tokens.equal_N).sum()):
        say(f"held out: left out {num_equal} of {len(preferences)} pairs whose chosen and rejected are the same tokens")
    kept = usable & ~tokens.equal_N
    return preferences.take(kept) if isinstance(preferences, StoredPairs) else [preferences[i] for i in np.flatnonzero(kept).tolist()]


def _judged(tokens: Tokenized) -> tuple[dict[int, str], Counter[str]]:
    """Why pairs cannot be used, by their indices, and how many of the others lack what the template leaves out."""
    broken: dict[int, str] = {}
    lost: Counter[str] = Counter()
    for index in np.flatnonzero(~tokens.is_fine_N).tolist():
        chosen, rejected = tokens.verdict(index)
        if reason := chosen.reason or rejected.reason:
            broken[index] = reason
        else:
            lost.update(dict.fromkeys((*chosen.lost, *rejected.lost), 1))
    return broken, lost


def _where(pair: Preference) -> str:
    return pair.where or f"a pair of {pair.source or 'the data'} whose prompt begins {pair.prompt[0].content!r:.80}"


def _prompts_in(tokens: Tokenized, which_N: NDArray[np.bool_], prompts_N: NDArray[np.int32]) -> NDArray[np.int64]:
    """Tokens of the prompt that both sides begin with, for some pairs; 0 for the others.

    Answers that begin alike share more than the prompt, and a template may end a bare prompt differently from an answered one.
    """
    found = np.zeros(len(tokens), dtype=np.int64)
    for index in np.flatnonzero(which_N).tolist():
        chosen, rejected = tokens.ids(index)
        shorter = min(len(chosen), len(rejected))
        parted = np.flatnonzero(chosen[:shorter] != rejected[:shorter])
        found[index] = min(int(parted[0]) if len(parted) else shorter, int(prompts_N[index]))
    return found
