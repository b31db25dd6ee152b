"""Scores that are NaN or infinite: the rows that have them, and the subsets that have nothing else.

A NaN earns a row no credit, so a reward model that gives nothing but NaN would look like a bad one rather than a broken one.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from core.records import ScoredRow

MAX_NAMED = 10
"""Rows that a message names."""

REMEDY = "look for broken weights, or overflow in fp16, and score again"


def rows_not_finite(rows: Sequence[ScoredRow], canonical: Callable[[str], str]) -> dict[str, tuple[str, ...]]:
    """The ids of the rows with a score that is not finite, by subset."""
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if not _is_finite(row):
            subset = canonical(row.subset)
            found[subset] = (*found.get(subset, ()), row.id)
    return found


def without_finite_row(rows: Sequence[ScoredRow], canonical: Callable[[str], str]) -> dict[str, str]:
    """Why subsets are refused, by name: those in which no row has finite scores."""
    finite = {canonical(row.subset) for row in rows if _is_finite(row)}
    return {
        subset: f"{subset} has no row with finite scores ({len(ids)} row(s): {_listed(ids)}); {REMEDY}."
        for subset, ids in rows_not_finite(rows, canonical).items()
        if subset not in finite
    }


def remark(not_finite: Mapping[str, Sequence[str]], num_rows: int) -> str:
    """A line that counts and names the rows with scores that are not finite; empty without any."""
    num = sum(map(len, not_finite.values()))
    if not num:
        return ""
    named = "; ".join(f"{subset} {_listed(ids)}" for subset, ids in not_finite.items())
    return f"{num} of {num_rows} rows have a score that is NaN or infinite, and a NaN earns no credit ({REMEDY}): {named}"


def _is_finite(row: ScoredRow) -> bool:
    return all(map(math.isfinite, row.scores))


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(ids[:MAX_NAMED]) + (f" and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else "")
