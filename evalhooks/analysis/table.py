"""A table of scores, one line per reward model, from CSV or JSONL files or from runs."""

import csv
import difflib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.data.rows import read_rows
from evalhooks.analysis.columns import Columns, columns_of_file

NAME_COLUMNS = ("model", "rm", "reward_model", "name", "id")
"""Columns that name the reward model, the first that a file has."""

_FACTS = {
    "base": ("base", "base_model"),
    "data": ("data", "training_data", "training_prompts"),
    "lr": ("lr", "learning_rate"),
    "epochs": ("epochs",),
    "seed": ("seed",),
    "flip": ("flip", "flipped"),
    "group": ("group",),
    "control": ("control",),
    "mode": ("mode", "judge_mode"),
    "tries": ("tries",),
    "lineage": ("lineage", "same_lineage"),
    "template": ("template", "chat_template"),
    "max_length": ("max_length",),
    "dtype": ("dtype", "torch_dtype"),
    "versions": ("versions",),
    "protocol": ("protocol",),
    "truncated": ("truncated", "truncated_share"),
}
"""What is known of a reward model beside its scores, and the columns that say it, in lower case with underscores."""

PROTOCOL = ("protocol", "template", "max_length", "dtype", "versions")
"""The facts in which two evaluations must agree for their scores to be comparable."""

_MISSING = {"", "-", "n/a", "na", "null", "none"}
_NOT_FINITE = {"nan", "inf", "infinity", "+inf", "-inf", "+infinity", "-infinity"}
_YES, _NO = {"true", "yes", "1", "1.0"}, {"false", "no", "0", "0.0", ""}


POLICIES = "policies"
"""The group of rows that are no reward models but policies to compare with, as the one that PPO starts from."""


class Group(StrEnum):
    """How a reward model stands to the policy that is trained with it (table 8 of the paper)."""

    on_policy = "on-policy"
    off_policy = "off-policy"
    other_prompts = "other prompts"
    controls = "controls"


_GROUPS: Mapping[str, str] = {
    "on policy": Group.on_policy,
    "off policy": Group.off_policy,
    "other prompts": Group.other_prompts,
    "off distribution": Group.other_prompts,
    "out of distribution": Group.other_prompts,
    "policy": POLICIES,
    "policies": POLICIES,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredModel:
    """A reward model with its finite scores by column, and what is known of it as text by the keys of `_FACTS`.

    >>> ScoredModel(name="a", facts={"group": "controls"}, scores={"rb2": 61.2}).control
    True
    """

    name: str
    facts: Mapping[str, str]
    scores: Mapping[str, float]

    @property
    def control(self) -> bool:
        """Whether it was made to be bad, as by flipped labels."""
        return self.facts.get("group") == Group.controls

    @property
    def protocol(self) -> str:
        """How its scores were measured, as far as the table says; empty if it does not."""
        return ", ".join(f"{key} {self.facts[key]}" for key in PROTOCOL if self.facts.get(key))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable:
    """Reward models with their scores, and policies with theirs; `notes` say what was left out of the files, and why, `columns` how the
    scores are shown.

    >>> ScoreTable(sources=("a.csv",), models=(), notes=()).models
    ()
    """

    sources: tuple[str, ...]
    models: tuple[ScoredModel, ...]
    notes: tuple[str, ...]
    policies: tuple[ScoredModel, ...] = ()
    columns: Columns = field(default_factory=Columns)

    def protocols(self, columns: Sequence[str]) -> list[str]:
        """The protocols by which the scores of all `columns` were measured, the most used first."""
        found = Counter(model.protocol for model in self.models if all(column in model.scores for column in columns))
        return [protocol for protocol, _ in found.most_common()]


def error_column(column: str, there: Iterable[str]) -> str | None:
    """The column with the standard errors of another one, if it is there."""
    known = set(there)
    return next((name for name in (f"{column}_se", f"{column}_stderr", f"se_{column}", f"{column} se") if name in known), None)


def read_table(paths: Sequence[str], columns: Sequence[str], *, names: str = "", shares: Collection[str] = ()) -> ScoreTable:
    """The table of one file, or of several joined by the reward model's name.

    Files are CSV with a header, or JSONL, JSON or parquet. Only `columns` and their standard errors are read as scores. With several
    files a column that more than one has is called STEM/COLUMN after its file. `names` is the column with the reward models' names.
    Empty cells, NaN and infinities are left out and told in `notes`. `shares` are columns with shares of 1 whose name does not say so.

    Raises `ValueError` that names the file, row or column for whatever else is no table of scores.
    """
    files = [_read_file(Path(path), names) for path in paths]
    if len({file.stem for file in files}) < len(files):
        raise ValueError(f"scores={list(paths)} holds two files of one name, by which their columns are told apart; rename one.")
    taken = Counter(column for file in files for column in file.columns)
    rows: dict[str, dict[str, tuple[object, str]]] = {}
    for file in files:
        for name, row, where in file.rows:
            own = rows.setdefault(name, {})
            for key, value in row.items():
                shared = len(files) > 1 and taken[key] > 1 and not _fact_key(key)
                own.setdefault(f"{file.stem}/{key}" if shared else key, (value, where))
    there = list(dict.fromkeys(key for row in rows.values() for key in row))
    for column in columns:
        _require_column(column, there, paths)
    wanted = [*columns, *(found for column in columns if (found := error_column(column, there)))]
    notes = [note for file in files for note in file.notes]
    models: list[ScoredModel] = []
    policies: list[ScoredModel] = []
    left_out: dict[tuple[str, str], list[str]] = {}
    for name, row in rows.items():
        facts = _facts({key: value for key, (value, _) in row.items()}, name)
        cells = {column: row.get(column, ("", "")) for column in wanted}
        found = {column: _score(value, f"{where}: {column} of {name}") for column, (value, where) in cells.items()}
        scores = {column: value for column, value in found.items() if not isinstance(value, str)}
        is_policy = facts.get("group") == POLICIES
        (policies if is_policy else models).append(ScoredModel(name=name, facts=facts, scores=scores))
        for column in columns:
            if not is_policy and isinstance(why := found[column], str):
                left_out.setdefault((column, why), []).append(name)
    _require_errors(models, wanted[len(columns) :])
    for (column, why), without in left_out.items():
        notes.append(f"{column} is {why} for {len(without)} of {len(models)}: {_some(without)}; these are left out wherever it is used.")
    values = {column: {model.name: model.scores[column] for model in (*models, *policies) if column in model.scores} for column in columns}
    shown, said = columns_of_file(values, shares=shares, stems=[file.stem for file in files])
    return ScoreTable(sources=tuple(map(str, paths)), models=tuple(models), notes=(*notes, *said), policies=tuple(policies), columns=shown)


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    stem: str
    columns: tuple[str, ...]
    rows: tuple["_Row", ...]
    notes: tuple[str, ...]


def _read_file(path: Path, names: str) -> _File:
    """The rows of a file by name, each with its place for messages."""
    rows = list(enumerate(read_cells(path), 1))
    columns = tuple(dict.fromkeys(str(key) for _, row in rows for key in row))
    if names and names not in columns:
        raise ValueError(f"{path} has no column {names} (names={names}); it has {', '.join(columns)}.")
    column = names or next((found for known in NAME_COLUMNS for found in columns if _plain(found) == known), "")
    notes = () if column else (f"{path} has no column {', '.join(NAME_COLUMNS)}; reward models are called by their rows.",)
    rows_by_name = [
        (_name_of(row.get(column) if column else f"row {number}", path, number), row, f"{path}, row {number}") for number, row in rows
    ]
    found, left_out = _told_apart(rows_by_name)
    if 2 * len(found) < len(rows):
        raise ValueError(
            f"{left_out[0]}; with {len(rows) - len(found)} of {len(rows)} rows like this {column} names no reward models. Give the column "
            "that does as names=COLUMN, or a column seed."
        )
    own = tuple(key for key in columns if key != column)
    return _File(stem=path.stem, columns=own, rows=tuple(found), notes=(*notes, *(f"{text}." for text in left_out)))


def read_cells(path: Path, *, key: str = "scores") -> list[Mapping[str, Any]]:
    """The rows of a CSV, JSONL, JSON or parquet file as they stand, at least one.

    Raises `ValueError` that names the file, and the setting `key` that named it, if there are none or they are no objects.
    """
    file = path.expanduser()
    if not file.is_file():
        raise ValueError(f"{key}={path} is no file; name a CSV or JSONL file with a line per reward model.")
    rows: list[tuple[int, Any]] = list(_csv_rows(file) if file.suffix.lower() in (".csv", ".tsv") else read_rows(file))
    if not rows:
        raise ValueError(f"{path} holds no rows; it takes a line per reward model.")
    for number, row in rows:
        if not isinstance(row, Mapping):
            raise ValueError(f"{path}, row {number} is no object with columns; write one JSON object per line, or a CSV file.")
    return [row for _, row in rows]


def _csv_rows(file: Path) -> Iterable[tuple[int, dict[str, object]]]:
    """The rows of a CSV file by the names in its first line, with the number of the row among the data."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            lines = list(csv.reader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); convert it.") from error
    except csv.Error as error:
        raise ValueError(f"{file} is no CSV ({error}); mend it.") from error
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    if not lines:
        return
    heads = [head.strip() for head in lines[0]]
    if twice := [head for head, count in Counter(heads).items() if count > 1]:
        raise ValueError(f"{file} has the column {twice[0] or '(without a name)'} twice; rename or remove one.")
    for number, line in enumerate(lines[1:], 1):
        if len(line) != len(heads):
            raise ValueError(f"{file}, row {number} has {len(line)} cells where the first line names {len(heads)} columns; mend it.")
        yield number, dict(zip(heads, line, strict=True))


def _name_of(value: object, path: Path, number: int) -> str:
    name = "" if value is None else str(value).strip()
    if not name or isinstance(value, list | dict):
        raise ValueError(f"{path}, row {number} does not name its reward model; give it a name, or the column of names as names=COLUMN.")
    return name


_APART = ("seed", "mode", "judge_mode")

_Row = tuple[str, Mapping[str, object], str]
"""The name of a row's reward model, its cells, and its place for messages."""


def _told_apart(rows: Sequence[_Row]) -> tuple[list[_Row], list[str]]:
    """The rows with seed or judge's mode added to names that stand several times, and a sentence for each name that stays unclear.

    Of rows that are the same one is kept; where they differ nobody knows which is right, and none is.
    """
    uses = Counter(name for name, _, _ in rows)
    groups: dict[str, list[_Row]] = {}
    for name, row, where in rows:
        apart = {key: value for key, value in row.items() if _plain(key) in _APART and value not in (None, "")}
        if uses[name] > 1 and apart:
            own = ", ".join(f"seed {value}" if _plain(key) == "seed" else str(value) for key, value in apart.items())
            groups.setdefault(f"{name} ({own})", []).append((name, {**row, "recipe": name}, where))
        else:
            groups.setdefault(name, []).append((name, row, where))
    kept: list[_Row] = []
    said: list[str] = []
    for own, found in groups.items():
        _, row, where = found[0]
        same = all(other == row for _, other, _ in found)
        if len(found) > 1:
            places = ", ".join(place.rpartition(", row ")[2] for _, _, place in found)
            file = where.rpartition(", row ")[0]
            what = "with the same cells, and counts once" if same else "with different cells, so none of these rows is used"
            said.append(f"{file}: {own} stands in rows {places} {what}")
        if same:
            kept.append((own, row, where))
    return kept, said


def _require_column(column: str, there: Sequence[str], paths: Sequence[str]) -> None:
    if column in there:
        return
    parts = [name for name in there if name.endswith(f"/{column}")]
    near = parts or difflib.get_close_matches(column, there, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"{', '.join(map(str, paths))} has no column {column}; {hint}It has {', '.join(there)}.")


def _score(value: object, what: str) -> float | str:
    """The number of a cell, or in a word why there is none. Raises `ValueError` for text."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _MISSING):
        return "missing"
    if isinstance(value, str) and value.strip().lower() in _NOT_FINITE:
        return "not finite"
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"{what} is {value!r}, which is no number; mend it, or leave the cell empty.") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what} is {value!r}, which is no number; mend it, or leave it out.")
    return float(value) if math.isfinite(value) else "not finite"


def _require_errors(models: Iterable[ScoredModel], columns: Sequence[str]) -> None:
    for model in models:
        for column in columns:
            if model.scores.get(column, 0.0) < 0:
                raise ValueError(f"{column} of {model.name} is {model.scores[column]:g}; a standard error is not below 0.")


def _facts(row: Mapping[str, Any], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in row.items():
        if (fact := _fact_key(key)) and value is not None and str(value).strip() != "":
            found.setdefault(fact, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value).strip())
    if "recipe" in row:
        found["recipe"] = str(row["recipe"])
    return with_group(found, name)


def with_group(facts: Mapping[str, str], name: str) -> dict[str, str]:
    """The facts with the group by its usual name; a control, or one with flipped labels, is among the controls.

    Raises `ValueError` for a `control` that is neither yes nor no.
    """
    found = dict(facts)
    group, control = found.get("group", ""), found.pop("control", "").lower()
    if control not in _YES | _NO:
        raise ValueError(f"control of {name} is {control!r}; give true or false.")
    plain = re.sub(r"[-_ ]+", " ", group.lower()).strip()
    flipped = found.get("flip", "0").lower() not in _NO
    if control in _YES or flipped or "control" in plain or "flipped" in plain:
        found["group"] = Group.controls
    elif group:
        found["group"] = _GROUPS.get(plain, group)
    return found


def _fact_key(column: str) -> str | None:
    return next((fact for fact, known in _FACTS.items() if _plain(column) in known), None)


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def _some(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
