"""Pairs as token ids on disk, made once for each tokenizer; what a process holds of a pair is a few numbers.

Shapes: N pairs.
"""

import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import core.data.chat
import core.data.dates
import core.data.dialogues
import core.data.pad_token
import core.data.template_check
import rmtrain.store
from core.data.chat import encode
from core.data.dates import date_of
from core.data.dialogues import turn_of
from core.data.fingerprint import code_fingerprint, fingerprint
from core.data.pad_token import without_trailing_pads
from core.data.template_check import Check
from core.disk import read_json, write_json
from core.progress import Progress
from core.records import Preference
from core.runs.cache import name_of, private
from rmtrain.store import OpenFile, PairStore, StoredPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 512
"""Pairs tokenised at a time: what the tokenizer returns is many times as large as the ids that are kept."""

_IDS, _PAIRS, _VERDICTS, _LENGTHS = "ids.bin", "pairs.bin", "verdicts.json", "lengths.npy"
_PAIR = np.dtype([("lengths", np.int32, 2), ("verdict", np.int32), ("equal", np.bool_), ("margin", np.float64)])
"""What is kept of a pair besides its ids: `verdict` is a number among the store's."""
_CODE = (core.data.chat, core.data.dates, core.data.dialogues, core.data.pad_token, core.data.template_check, rmtrain.store)
"""What decides how pairs become tokens; this module too."""

Ids = NDArray[np.int32]
Verdict = tuple[Check, Check]
"""What the template made of chosen and rejected."""


class TokenStore:
    """The token ids of pairs, in a folder that `_write` made, whose files are open from the beginning.

    `equal_N` says whether the model reads the same of both sides, `margins_N` is 0 for pairs that have none.
    """

    def __init__(self, folder: Path) -> None:
        found = np.fromfile(folder / _PAIRS, dtype=_PAIR)
        self.lengths_N2: NDArray[np.int32] = found["lengths"].copy()
        self.verdict_N: NDArray[np.int32] = found["verdict"].copy()
        self.equal_N: NDArray[np.bool_] = found["equal"].copy()
        self.margins_N: NDArray[np.float64] = found["margin"].copy()
        self.verdicts = [_verdict(plain) for plain in read_json(folder / _VERDICTS, remedy="remove the folder")["verdicts"]]
        self._ends_N = np.cumsum(self.lengths_N2.sum(axis=1, dtype=np.int64))
        self._ids = OpenFile(folder / _IDS)

    def ids(self, place: int) -> tuple[Ids, Ids]:
        """The ids of chosen and rejected."""
        chosen, rejected = self.lengths_N2[place].tolist()
        end = int(self._ends_N[place])
        both = np.frombuffer(
            self._ids.read(4 * (end - chosen - rejected), 4 * end), dtype=np.int32
        ).copy()  # bytes are read-only, which torch warns of
        return both[:chosen], both[chosen:]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Pairs and their tokens, in the same order. `name` is that of the tokens in the cache of `source`, if they are in one."""

    pairs: Sequence[Preference]
    tokens: TokenStore
    name: str
    source: PairStore | None


class Tokenized:
    """The pairs of a sequence as tokens: their lengths, what is known of them, and their ids, read when they are asked for."""

    def __init__(self, parts: Sequence[_Part], homes_2N: NDArray[np.int64], flipped_N: NDArray[np.bool_]) -> None:
        self._parts, self._flipped_N = parts, flipped_N
        self._part_N, self._place_N = homes_2N
        self.lengths_N2 = self._gathered([part.tokens.lengths_N2 for part in parts])
        self.equal_N = self._gathered([part.tokens.equal_N for part in parts])
        self.margins_N = self._gathered([part.tokens.margins_N for part in parts])
        self.is_fine_N = self._gathered([part.tokens.verdict_N == 0 for part in parts])
        """False where the template refuses a pair or leaves something out; `verdict` says what."""

    def __len__(self) -> int:
        return len(self._place_N)

    def ids(self, index: int) -> tuple[Ids, Ids]:
        """The ids of chosen and rejected."""
        chosen, rejected = self._parts[self._part_N[index]].tokens.ids(int(self._place_N[index]))
        return (rejected, chosen) if self._flipped_N[index] else (chosen, rejected)

    def verdict(self, index: int) -> Verdict:
        """What the template made of chosen and rejected."""
        tokens = self._parts[self._part_N[index]].tokens
        chosen, rejected = tokens.verdicts[tokens.verdict_N[self._place_N[index]]]
        return (rejected, chosen) if self._flipped_N[index] else (chosen, rejected)

    def prompt_lengths(self, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> NDArray[np.int32]:
        """Tokens of the prompts alone, for pairs longer than `max_length`; 0 for the others."""
        return self._gathered([_prompt_lengths(part, tokenizer, max_length) for part in self._parts])

    def _gathered(self, by_part: Sequence[NDArray[Any]]) -> NDArray[Any]:
        starts = np.cumsum([0, *map(len, by_part)])
        return np.concatenate(by_part)[starts[self._part_N] + self._place_N]


def tokenized(preferences: Sequence[Preference], tokenizer: "PreTrainedTokenizerBase", progress: Progress) -> Tokenized:
    """The pairs as tokens: those of `StoredPairs` in the cache of their store, where every job with this tokenizer finds them.

    If half of a store or more is wanted, all of it is tokenised, so that other draws, mixes and seeds find theirs too.
    """
    if not isinstance(preferences, StoredPairs):
        store = private(lambda folder: _write(folder, preferences, tokenizer, progress), TokenStore)
        number = len(preferences)
        homes = np.stack([np.zeros(number, dtype=np.int64), np.arange(number)])
        return Tokenized([_Part(preferences, store, "", None)], homes, np.zeros(number, dtype=bool))
    homes = preferences.homes_2N.copy()
    maker = _maker(tokenizer)
    parts: list[_Part] = []
    for number, store in enumerate(preferences.stores):
        is_own = homes[0] == number
        part, rows = _part(store, np.unique(homes[1, is_own]), tokenizer, maker, progress)
        parts.append(part)
        homes[1, is_own] = np.searchsorted(rows, homes[1, is_own])
    return Tokenized(parts, homes, preferences.flipped_N)


def prepare(preferences: Sequence[Preference], tokenizer: "PreTrainedTokenizerBase", progress: Progress) -> None:
    """Makes the tokens of stored pairs, if they are not there, for other processes to find."""
    if isinstance(preferences, StoredPairs):
        tokenized(preferences, tokenizer, progress)


def _part(
    store: PairStore, rows: NDArray[np.int64], tokenizer: "PreTrainedTokenizerBase", maker: str, progress: Progress
) -> tuple[_Part, NDArray[np.int64]]:
    """The tokens of at least these rows of a store, and the rows that they are of."""
    identity = {"pairs": store.name, "maker": maker}
    whole = name_of("tokens", identity)
    if 2 * len(rows) >= len(store) or (store.cache is not None and store.cache.holds(whole)):
        rows, name = np.arange(len(store)), whole
    else:
        name = name_of("tokens", {**identity, "rows": hashlib.sha256(rows.tobytes()).hexdigest()})
    pairs = StoredPairs([store], rows, np.zeros(len(rows), dtype=bool))

    def build(folder: Path) -> None:
        _write(folder, pairs, tokenizer, progress)

    if store.cache is None or not len(rows):
        return _Part(pairs, private(build, TokenStore), name, None), rows
    tokens = store.cache.open(name, build, TokenStore, what=f"the tokens of {store.path}")
    return _Part(pairs, tokens, name, store), rows


def _maker(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Identifies all that makes tokens of texts: the tokenizer with its template, the date that this writes, and the code."""
    with tempfile.TemporaryDirectory(prefix="rewardloop-") as folder:
        tokenizer.save_pretrained(folder)
        saved = fingerprint(Path(folder))
    libraries = [metadata.version(name) for name in ("transformers", "tokenizers", "jinja2")]
    return name_of("maker", {"saved": saved, "date": str(date_of(tokenizer)), "libraries": libraries, "code": _code()})


def _code() -> str:
    return code_fingerprint(sys.modules[__name__], *_CODE)


def _write(folder: Path, pairs: Sequence[Preference], tokenizer: "PreTrainedTokenizerBase", progress: Progress) -> None:
    pad = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else None
    verdicts: dict[Verdict, int] = {(Check(), Check()): 0}
    progress.start("tokenizing", len(pairs))
    try:
        with (folder / _IDS).open("wb") as ids, (folder / _PAIRS).open("wb") as kept:
            for start in range(0, len(pairs), CHUNK):
                chunk = [pairs[place] for place in range(start, min(start + CHUNK, len(pairs)))]
                answered = [(*pair.prompt, turn_of(answer)) for pair in chunk for answer in (pair.chosen, pair.rejected)]
                encoded = encode(tokenizer, answered, answered=True, skip=True)
                found = np.zeros(len(chunk), dtype=_PAIR)
                for place, pair in enumerate(chunk):
                    chosen, rejected = encoded.rows[2 * place : 2 * place + 2]
                    checks = (encoded.checks[2 * place], encoded.checks[2 * place + 1])
                    # The model reads a row up to the last token that is not padding.
                    equal = without_trailing_pads(chosen, pad) == without_trailing_pads(rejected, pad)
                    verdict = verdicts.setdefault(checks, len(verdicts))
                    found[place] = ((len(chosen), len(rejected)), verdict, equal, float(pair.margin or 0.0))
                    ids.write(np.array([*chosen, *rejected], dtype=np.int32).tobytes())
                kept.write(found.tobytes())
                progress.advance(len(chunk))
    finally:
        progress.finish()
    write_json(folder / _VERDICTS, {"verdicts": [[_plain(chosen), _plain(rejected)] for chosen, rejected in verdicts]})


def _prompt_lengths(part: _Part, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> NDArray[np.int32]:
    places = np.flatnonzero(part.tokens.lengths_N2.max(axis=1) > max_length)

    def build(folder: Path) -> None:
        lengths: list[int] = []
        for start in range(0, len(places), CHUNK):
            prompts = [part.pairs[place].prompt for place in places[start : start + CHUNK].tolist()]
            lengths += map(len, encode(tokenizer, prompts, answered=False, skip=True).rows)
        np.save(folder / _LENGTHS, np.array(lengths, dtype=np.int32))

    def read(folder: Path) -> NDArray[np.int32]:
        return np.load(folder / _LENGTHS)

    found = np.zeros(len(part.pairs), dtype=np.int32)
    if part.source is None or part.source.cache is None:
        found[places] = private(build, read)
    else:
        name = name_of("prompts", {"tokens": part.name, "max_length": max_length})
        found[places] = part.source.cache.open(name, build, read, what=f"the lengths of prompts of {part.source.path}")
    return found


def _plain(check: Check) -> list[Any]:
    return [list(check.lost), check.reason]


def _verdict(plain: Sequence[Sequence[Any]]) -> Verdict:
    chosen, rejected = (Check(lost=tuple(lost), reason=reason) for lost, reason in plain)
    return chosen, rejected
