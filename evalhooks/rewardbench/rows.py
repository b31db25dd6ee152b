"""Reads and checks benchmark rows in RewardBench's schemas, and scores them with any Scorer."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.data.chat import UnreadableError
from core.data.dialogues import parse_dialogue, with_columns
from core.data.preferences import answer_turns, are_transcripts, begins
from core.data.rows import dataset_rows, require_whole_text
from core.disk import writing
from core.records import BenchmarkRow, CompletionScore, DetailedScorer, Dialogue, ScoredRow, Scorer, user
from evalhooks.rewardbench import v2

HUB2 = "allenai/reward-bench-2"
HUB1 = "allenai/reward-bench"
"""The official benchmarks on the hub; their splits are `SPLIT2` and `SPLIT1`."""

SPLIT2, SPLIT1 = "test", "filtered"

_TABLE = pa.schema(
    {
        "id": pa.string(),
        "subset": pa.string(),
        "num_correct": pa.int64(),
        "scores": pa.list_(pa.float64()),
        "credit": pa.float64(),
        "num_tokens": pa.list_(pa.int64()),
        "truncated": pa.list_(pa.bool_()),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredBenchmark:
    """A scored benchmark: its rows, and per row the details of its completions' scores, None if the scorer gives none.

    >>> ScoredBenchmark(rows=(ScoredRow(id="7", subset="Math", num_correct=1, scores=(2.0, 0.5)),), details=(None,)).num_truncated
    0
    """

    rows: tuple[ScoredRow, ...]
    details: tuple[tuple[CompletionScore, ...] | None, ...]

    @property
    def num_truncated(self) -> int:
        """Number of texts (prompt and completion) truncated to the scorer's limit; truncation drops the end of the answer."""
        return sum(score.truncated for row in self.details if row is not None for score in row)

    @property
    def num_equal(self) -> int:
        """Number of rows with completions that are the same tokens, so that no reward can tell them apart."""
        return sum(any(score.repeated for score in row) for row in self.details if row is not None)


def load_rewardbench2(path: str, *, limit: float = 1.0, seed: int = 0) -> list[BenchmarkRow]:
    """Rows in RewardBench 2's schema, a fraction `limit` (above 0, at most 1) of each domain.

    `path` is a JSONL or parquet file, a folder of parquet files, a folder written by `datasets.save_to_disk`, or a hub
    dataset as `org/name` or `org/name@revision`. The split `test` is read; a local dataset's only split is read whatever
    its name. Ties are sampled in pairs. Raises `ValueError` that names the offending row and field; counts stated in a row
    must agree with its lists.
    """
    return sample_rows([_row2(row, f"{path}, row {number}") for number, row in _read(path, SPLIT2)], limit, seed)


def load_rewardbench1(path: str, *, limit: float = 1.0, seed: int = 0) -> list[BenchmarkRow]:
    """Pairs in RewardBench 1's schema (`prompt`, `chosen`, `rejected`, `subset`), a fraction `limit` of each subset.

    Like `load_rewardbench2`, but with the split `filtered`. The row number serves as the id of a pair without one.
    """
    return sample_rows([_row1(row, number, f"{path}, row {number}") for number, row in _read(path, SPLIT1)], limit, seed)


def sample_rows(rows: Sequence[BenchmarkRow], limit: float, seed: int) -> list[BenchmarkRow]:
    """About a fraction `limit` of each subset's rows (for Ties: pairs), at least one, in file order.

    Raises `ValueError` unless `limit` is above 0 and at most 1.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"The fraction of the benchmark to read (limit) is {limit}; give a number above 0 and at most 1, 1 for all of it.")
    if limit == 1:
        return list(rows)
    groups = _units(rows)
    drawn = {(subset, unit) for subset, units in groups.items() for unit in _seeded(seed, subset).sample(units, _num_of(limit, units))}
    return [row for place, row in enumerate(rows) if (row.subset.casefold(), _unit(place, row)) in drawn]


def nested_rows(rows: Sequence[BenchmarkRow], share: float) -> list[BenchmarkRow]:
    """As `sample_rows`, but each subset has one order, so that the rows of a smaller share are among those of a larger one."""
    kept: set[tuple[str, str | int]] = set()
    for subset, units in _units(rows).items():
        order = _seeded(0, subset).sample(units, len(units))
        kept |= {(subset, unit) for unit in order[: _num_of(share, units)]}
    return [row for place, row in enumerate(rows) if (row.subset.casefold(), _unit(place, row)) in kept]


def _units(rows: Sequence[BenchmarkRow]) -> dict[str, list[str | int]]:
    """The sampling units of each subset, in file order."""
    groups: dict[str, dict[str | int, None]] = defaultdict(dict)
    for place, row in enumerate(rows):
        groups[row.subset.casefold()][_unit(place, row)] = None
    return {subset: list(units) for subset, units in groups.items()}


def _seeded(seed: int, subset: str) -> random.Random:
    return random.Random(f"{seed} {subset}")


def _num_of(share: float, units: Sequence[str | int]) -> int:
    return max(1, round(share * len(units)))


def _unit(place: int, row: BenchmarkRow) -> str | int:
    """Key of a sampling unit: a row's index, or for Ties the number after the colon, which both prompts of a pair share."""
    return row.id.rpartition(":")[2] if _is_ties(row) else place


def _is_ties(row: BenchmarkRow) -> bool:
    return row.subset.casefold() == "ties"


def score_rows(rows: Sequence[BenchmarkRow], scorer: Scorer, *, ties_scorer: Scorer | None = None) -> ScoredBenchmark:
    """Scores the completions of all rows, keeping their order.

    Ties rows go to `ties_scorer` if given: a judge that ranks answers in other domains must rate those of Ties.
    """
    if ties_scorer is None:
        return _score(rows, scorer)
    parts = {False: _score([row for row in rows if not _is_ties(row)], scorer)}
    parts[True] = _score([row for row in rows if _is_ties(row)], ties_scorer)
    scored = {ties: zip(part.rows, part.details, strict=True) for ties, part in parts.items()}
    in_order = [next(scored[_is_ties(row)]) for row in rows]
    return ScoredBenchmark(rows=tuple(row for row, _ in in_order), details=tuple(details for _, details in in_order))


def _score(rows: Sequence[BenchmarkRow], scorer: Scorer) -> ScoredBenchmark:
    if not rows:  # there may be only Ties rows, or none
        return ScoredBenchmark(rows=(), details=())
    prompts, completions = [row.dialogue for row in rows], [row.completions for row in rows]
    details: list[tuple[CompletionScore, ...] | None] = [None] * len(rows)
    try:
        if isinstance(scorer, DetailedScorer):
            detailed = [tuple(values) for values in scorer.score_detailed(prompts, completions)]
            scores = [tuple(value.reward for value in values) for values in detailed]
            details = [*detailed]
        else:
            scores = [tuple(values) for values in scorer.score(prompts, completions)]
    except UnreadableError as error:
        raise ValueError(error.listed([row.where or f"row {row.id}" for row in rows], "benchmark rows")) from error
    assert [len(row.completions) for row in rows] == [len(values) for values in scores], "a Scorer gives one score per completion"
    scored = [
        ScoredRow(id=row.id, subset=row.subset, num_correct=row.num_correct, scores=values)
        for row, values in zip(rows, scores, strict=True)
    ]
    return ScoredBenchmark(rows=tuple(scored), details=tuple(details))


def write_rows(path: Path, scored: ScoredBenchmark, credits: Iterable[float | None]) -> None:
    """Writes per-row results as parquet: id, subset, num_correct, scores, credit, and num_tokens and truncated per completion.

    `credits` are the `row_results` of the benchmark's formulas: RewardBench 1 and 2 give different credit for equal scores.
    """
    table = [
        {
            "id": row.id,
            "subset": row.subset,
            "num_correct": row.num_correct,
            "scores": row.scores,
            "credit": credit,
            "num_tokens": None if details is None else [score.num_tokens for score in details],
            "truncated": None if details is None else [score.truncated for score in details],
        }
        for row, details, credit in zip(scored.rows, scored.details, credits, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with writing(path):
        pq.write_table(pa.Table.from_pylist(table, schema=_TABLE), temporary)
        temporary.rename(path)


def is_result(path: Path) -> bool:
    """Whether a parquet file was written by `write_rows`."""
    try:
        return pq.read_schema(path).names == _TABLE.names
    except pa.ArrowInvalid:
        return False


def _read(path: str, split: str) -> list[tuple[int, Any]]:
    """The rows of a benchmark, numbered from 1. Raises `ValueError` if there are none."""
    what = f"the benchmark {path}"
    rows = list(dataset_rows(path, split=split, what=what, remedy="save the one you mean alone", lone_split=True))
    if not rows:
        raise ValueError(f"{what} contains no rows.")
    return rows


def _row2(row: Any, where: str) -> BenchmarkRow:
    _require(row, {"id": (str, int), "prompt": str, "chosen": list, "rejected": list, "subset": str}, where)
    chosen, rejected = row["chosen"], row["rejected"]
    if not chosen or not all(isinstance(text, str) for text in (*chosen, *rejected)):
        raise ValueError(f"{where}: chosen and rejected must be lists of strings, and chosen must not be empty.")
    counts = {"num_correct": len(chosen), "num_incorrect": len(rejected), "total_completions": len(chosen) + len(rejected)}
    for key, found in counts.items():
        if row.get(key, found) not in (None, found):
            raise ValueError(
                f"{where}: {key!r} is {row[key]!r}, but there are {len(chosen)} chosen and {len(rejected)} rejected completions; "
                "fix the lists, or leave the count out."
            )
    turns, completions = _dialogue(row, [*chosen, *rejected], where)
    if problem := v2.row_problem(row["subset"], num_correct=len(chosen), num_completions=len(chosen) + len(rejected)):
        raise ValueError(f"{where}: {problem}.")
    return BenchmarkRow(
        id=str(row["id"]),
        prompt=row["prompt"],
        completions=completions,
        num_correct=len(chosen),
        subset=row["subset"],
        turns=turns,
        where=where,
    )


def _row1(row: Any, number: int, where: str) -> BenchmarkRow:
    _require(row, {"prompt": str, "chosen": str, "rejected": str, "subset": str}, where)
    if row.get("id") is not None:
        _require(row, {"id": (str, int)}, where)
    name = number if row.get("id") is None else row["id"]
    turns, completions = _dialogue(row, [row["chosen"], row["rejected"]], where)
    return BenchmarkRow(
        id=str(name), prompt=row["prompt"], completions=completions, num_correct=1, subset=row["subset"], turns=turns, where=where
    )


def _dialogue(row: Mapping[str, Any], completions: Sequence[str], where: str) -> tuple[Dialogue, tuple[str, ...]]:
    """The turns of the row's prompt, none where it is one user turn, and the answers in its completions.

    They are read as training reads them: a prompt may be a transcript, and other columns may hold a system turn or tools.
    """
    asked = row["prompt"]
    try:
        whole = are_transcripts(completions)
        answered = [answer_turns(text, "a completion", asked, whole=whole) for text in completions]
        begun = {turns[:-1] for turns in answered if len(turns) > 1} or {parse_dialogue(asked, "prompt")}
        if len(begun) > 1 or (whole and not begins(asked, answered[0])):
            raise ValueError("its completions are dialogues that do not all begin with its prompt")
        dialogue = with_columns(row, begun.pop())
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return () if dialogue == user(asked) else dialogue, tuple(turns[-1].content for turns in answered)


def _require(row: Any, fields: Mapping[str, Any], where: str) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is not a JSON object.")
    if row.get("subset") == "":
        raise ValueError(f"{where}: 'subset' is empty; name the row's domain.")
    require_whole_text(row, where)
    for key, kind in fields.items():
        if not isinstance(row.get(key), kind) or isinstance(row[key], bool):
            raise ValueError(f"{where}: {key!r} is missing or of the wrong type ({type(row.get(key)).__name__}).")
