"""What W&B has been given of a run: whatever step a run is resumed from, every row reaches it once."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.disk import BrokenFileError, json_float, parse_json, read_lines, remove
from core.runs.tracking import METRICS

if TYPE_CHECKING:  # takes seconds to import
    import wandb

SENT = "sent.jsonl"
"""The rows of earlier sessions, beside W&B's own folders: the run's log loses those that it will log again."""
ONLINE = "was-online"
"""The file that says that W&B's host has rows of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One call of a tracker's `log`.

    >>> Row(axis="train/step", step=3, metrics={"train/loss": 0.7}).step
    3
    """

    axis: str
    step: int
    metrics: Mapping[str, float]


class SentRows:
    """The rows given to W&B, in their order, each metric once per axis and step."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows: list[Row] = []
        self._known: set[tuple[str, int, str]] = set()
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> Row | None:
        """The part of a row that was not there yet; None if all of it was."""
        metrics = {name: value for name, value in row.metrics.items() if (row.axis, row.step, name) not in self._known}
        if not metrics:
            return None
        self._known.update((row.axis, row.step, name) for name in metrics)
        self.rows.append(new := Row(axis=row.axis, step=row.step, metrics=metrics))
        return new


def earlier_rows(run_dir: Path, files: Path) -> SentRows:
    """The rows of a run's earlier sessions, to be called before anything is logged again; they are kept in `files`."""
    found = SentRows([*_rows_in(files / SENT), *_rows_in(run_dir / METRICS)])
    if found.rows:
        files.mkdir(parents=True, exist_ok=True)
        temporary = files / f".tmp-{SENT}"
        temporary.write_text("".join(map(_line_of, found.rows)), encoding="utf-8")
        temporary.replace(files / SENT)
    return found


def is_elsewhere(files: Path) -> bool:
    """Whether W&B's host has rows of the run already, sent online or by `wandb sync`."""
    return (files / ONLINE).exists() or any(files.glob("offline-run-*/*.synced"))


def offline_folders(files: Path) -> list[Path]:
    """The folders of a run's offline sessions."""
    return sorted(files.glob("offline-run-*"))


def remove_folders(folders: Sequence[Path]) -> None:
    """Removes folders of earlier sessions, whose rows are in a new one."""
    for folder in folders:
        remove(folder)


def tables_of(samples: Sequence[Mapping[str, Any]]) -> "dict[str, wandb.Table]":
    """Samples as tables by kind, `samples/held_out` for instance: a line per completion."""
    if not samples:
        return {}
    import wandb

    columns: list[str | int] = ["place", "prompt", "completion", "score", "correct", "margin"]
    tables = {str(row["kind"]): wandb.Table(columns=columns, allow_mixed_types=True) for row in samples}
    for row in samples:
        place = " ".join(str(row[key]) for key in ("subset", "source", "task", "id") if row.get(key))
        prompt = "\n\n".join(f"[{turn['role']}] {turn['content']}" for turn in row["prompt"])
        for completion in row["completions"]:
            correct, margin = (None if value is None else float(value) for value in (completion.get("correct"), row.get("margin")))
            score = None if completion.get("score") is None else float(completion["score"])
            tables[str(row["kind"])].add_data(place, prompt, completion["text"], score, correct, margin)
    return {f"samples/{kind}": table for kind, table in tables.items()}


def _line_of(row: Row) -> str:
    values = {name: json_float(float(value)) for name, value in row.metrics.items()}
    return json.dumps({"axis": row.axis, row.axis: row.step, **values}, allow_nan=False) + "\n"


def _rows_in(path: Path) -> list[Row]:
    """The rows in a log, in their order; a line that holds none is left out, as whoever reads the log says."""
    rows: list[Row] = []
    for number, text in read_lines(path) if path.is_file() else ():
        try:
            line = parse_json(text, f"{path}:{number}", remedy="it is left out")
            axis = line["axis"]
            values = {name: float(value) for name, value in line.items() if name not in ("axis", "time", axis)}
            rows.append(Row(axis=axis, step=int(line[axis]), metrics=values))
        except (BrokenFileError, KeyError, TypeError, ValueError):
            continue
    return rows
