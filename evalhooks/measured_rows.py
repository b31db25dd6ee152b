"""Which part of its rows a run was measured on where `hooks.budget` left some out, as its record tells it. Imports no torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.disk import BrokenFileError, read_json
from core.runs.record import value_at

SIZES = "rows"
"""The key, of a record and of the files that `evalhooks.budget` keeps, with the rows measured and all rows by what begins the names of
their metrics: rewardbench2, held_out, bon/TASK, downstream/TASK."""

HELD_OUT = "held_out"
"""What held-out pairs are called among the parts of what is scored."""
_FILES = {"rewardbench2": "hooks.rewardbench2", "rewardbench1": "hooks.rewardbench1", "bon": "hooks.pools"}
_LIMITED = {"rewardbench2", "rewardbench1"}

FILE = "tasks_share.json"
"""Where a policy's run keeps the share that its probe has found, and how many prompts that leaves of each task."""
ROWS_FILE = "rows_share.json"
"""Where a reward model's run keeps the same of the rows that its hooks score."""


def rows_text(record: Mapping[str, Any], metric: str) -> str:
    """How many rows a metric was measured on, as "41 of 1865 rows"; empty where these were all.

    >>> record = {"rows": {"rewardbench2": [41, 1865], "bon/sums": [3, 10], "bon/lists": [2, 5]}}
    >>> [rows_text(record, metric) for metric in ("rewardbench2/overall", "bon/sums@16", "bon/average@16", "held_out/accuracy")]
    ['41 of 1865 rows', '3 of 10 rows', '5 of 15 rows', '']
    """
    kind, _, task = metric.partition("@")[0].partition("/")
    sizes: Mapping[str, Any] = record.get(SIZES) or {}
    own = [size for name, size in sizes.items() if name in (kind, f"{kind}/{task}") or (task == "average" and name.startswith(f"{kind}/"))]
    measured, total = sum(size[0] for size in own), sum(size[1] for size in own)
    return f"{measured} of {total} rows" if measured < total else ""


def rows_texts(record: Mapping[str, Any]) -> list[str]:
    """The same of everything of which a part was measured, as "41 of 1865 rows of rewardbench2"."""
    return [f"{text} of {name}" for name in record.get(SIZES) or {} if (text := rows_text(record, name))]


def different_rows(records: Mapping[str, Mapping[str, Any]], metric: str) -> str:
    """A sentence on runs, each under what it is called, whose values of a metric do not compare, as they were measured on different rows:
    which, and the key to set. Empty where they do.

    Held-out pairs of other data are no other rows: each run has its own.
    """
    kind = metric.partition("/")[0]
    known = {name: record for name, record in records.items() if any(key.startswith(f"{kind}/") for key in record.get("final") or {})}
    if kind == HELD_OUT and len({str(((record.get(SIZES) or {}).get(kind) or [0, ""])[1]) for record in known.values()}) > 1:
        return ""
    facts = {name: _rows_of(record, kind, metric) for name, record in known.items()}
    apart = [place for place in range(len(_REMEDIES)) if len({fact[place] for fact in facts.values()} - {""}) > 1]
    if not apart:
        return ""
    groups: dict[str, list[str]] = {}
    for name, fact in facts.items():
        groups.setdefault(", ".join(fact[place] for place in apart if fact[place]) or "not known", []).append(name)
    told = "; ".join(f"{what}: {', '.join(names)}" for what, names in groups.items())
    remedies = ", and ".join(_REMEDIES[place].format(file=_FILES.get(kind, "")) for place in apart)
    return f"{kind} was measured on different rows ({told}), so that its scores do not compare; set {remedies}."


_REMEDIES = ("hooks.budget=null, which measures all rows", "hooks.limit to one value", "{file} to one file")
"""Which keys make the rows the same, by what `_rows_of` tells of them."""


def _rows_of(record: Mapping[str, Any], kind: str, metric: str) -> tuple[str, str, str]:
    """What the budget has left of the rows, the share of a file that was read, and the file by the hash of its content; empty: unknown."""
    inputs = value_at(record, "identity.inputs") or {}
    limit = value_at(record, "identity.hooks.limit") if kind in _LIMITED else None
    mark = str(inputs.get(_FILES.get(kind, ""), ""))[:8]
    return rows_text(record, metric) or "all rows", "" if limit is None else f"hooks.limit={limit}", mark and f"file {mark}"


def listed(sizes: Mapping[str, tuple[int, int]], what: str) -> str:
    """Rows measured and all rows of several parts, in a sentence; `what` they are.

    >>> listed({"gsm8k": (4, 100), "math": (1, 20)}, "prompts")
    '4 of 100 prompts of gsm8k, 1 of 20 prompts of math'
    """
    return ", ".join(f"{measured} of {total} {what} of {name}" for name, (measured, total) in sizes.items())


def kept_sizes(run_dir: Path) -> dict[str, Any]:
    """For a run's record: the rows that were measured and all rows, by benchmark or task; empty where there was no budget."""
    file = next((run_dir / name for name in (FILE, ROWS_FILE) if (run_dir / name).exists()), None)
    found = None if file is None else kept_share(file, lambda line: None)
    return {SIZES: found[SIZES]} if found and SIZES in found else {}


def kept_share(file: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """What an earlier session's probe found; None where there is none that can be read."""
    if not file.exists():
        return None
    try:
        found = read_json(file, remedy="the probe is made again")
        if not 0 < float(found["share"]) <= 1:
            raise ValueError(f"share is {found['share']}")
    except BrokenFileError as error:
        say(str(error))
        return None
    except (KeyError, TypeError, ValueError) as error:
        say(f"{file} holds no share of prompts ({error}); the probe is made again.")
        return None
    return found
