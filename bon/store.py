"""The files of a pool. What was drawn and what verifiers say of it lie apart, so that either can be made again without the other.

pool.json                            what determines the completions
drawing/gsm8k/part-00000.parquet     batches as they were drawn, until a task is whole
drawn/gsm8k/part-00000.parquet       the prompts of a task in their order, `PART` in a file
verified/gsm8k/part-00000.parquet    the correctness of the completions in the file of the same name
COMPLETE                             all tasks are drawn and verified
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bon.config import MANIFEST
from core.data.dialogues import messages_of, parse_dialogue
from core.disk import MARKER, BrokenFileError, atomic_file, read_json
from core.records import Dialogue

FORMAT = 2
DRAWING, DRAWN, VERIFIED = "drawing", "drawn", "verified"
PART = 256
"""Prompts in a file."""
_KEY = b"rewardloop.verification"
"""The metadata of a file of verdicts that says what they were made with."""

SKIPPED = "skipped"
"""What verdicts count as made with if some are missing."""

_DRAWN = pa.schema(
    {"place": pa.int64(), "id": pa.string(), "prompt": pa.string(), "completions": pa.list_(pa.string()), "finished": pa.list_(pa.bool_())}
)
_VERIFIED = pa.schema({"place": pa.int64(), "id": pa.string(), "correct": pa.list_(pa.float64())})


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnRow:
    """The completions of the prompt at a place of its task, each with whether it ended before the token limit.

    >>> DrawnRow(place=0, id="7", prompt=(), completions=("A plum.",), finished=(True,)).place
    0
    """

    place: int
    id: str
    prompt: Dialogue
    completions: tuple[str, ...]
    finished: tuple[bool, ...]


def remedy_of(folder: Path) -> str:
    """What to do about pools that cannot be read."""
    return (
        "restore the file, or delete the folder to draw the pools again with `rewardloop bon`; if the change is meant, empty "
        f"{folder / MARKER}"
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a pool says of itself. Raises `BrokenFileError` if it names no tasks."""
    file, remedy = folder / MANIFEST, remedy_of(folder)
    manifest = read_json(file, remedy=remedy)
    if not isinstance(manifest.get("tasks"), list | dict):
        raise BrokenFileError(f"{file} names no tasks; {remedy}.")
    return manifest


def parts_of(folder: Path) -> list[Path]:
    """The parts in a folder, in their order."""
    return sorted(folder.glob("part-*.parquet"))


def part(folder: Path, number: int) -> Path:
    """The file of a part."""
    return folder / f"part-{number:05d}.parquet"


def write_drawn(file: Path, rows: Sequence[DrawnRow]) -> None:
    """Writes completions atomically."""
    table = [
        {
            "place": row.place,
            "id": row.id,
            "prompt": json.dumps(messages_of(row.prompt), ensure_ascii=False),
            "completions": list(row.completions),
            "finished": list(row.finished),
        }
        for row in rows
    ]
    _write(file, table, _DRAWN)


def read_drawn(file: Path, remedy: str) -> list[DrawnRow]:
    """The completions in a part. Raises `BrokenFileError` ending in `remedy` for a file that is none."""
    return [_drawn(row, f"{file}, row {number}", remedy) for number, row in enumerate(_read(file, _DRAWN, remedy), 1)]


def _drawn(row: Mapping[str, Any], where: str, remedy: str) -> DrawnRow:
    texts, finished = row["completions"], row["finished"]
    if not texts or None in texts or None in finished or len(texts) != len(finished):
        raise BrokenFileError(f"{where} has completions that are not a list of texts; {remedy}.")
    try:
        prompt = parse_dialogue(json.loads(row["prompt"]), where)
    except ValueError as error:
        raise BrokenFileError(f"{where} has no prompt that can be read ({error}); {remedy}.") from error
    return DrawnRow(place=row["place"], id=row["id"], prompt=prompt, completions=tuple(texts), finished=tuple(finished))


def write_verdicts(file: Path, rows: Sequence[DrawnRow], correct: Sequence[Sequence[float | None]], *, key: str) -> None:
    """Writes the correctness of the completions of `rows` atomically, None where the verifier skipped one; `key` is what it was judged
    with. Verdicts with skipped ones among them have none: whoever asks for them has the verifier try again."""
    table = [{"place": row.place, "id": row.id, "correct": list(own)} for row, own in zip(rows, correct, strict=True)]
    skipped = any(value is None for own in correct for value in own)
    _write(file, table, _VERIFIED.with_metadata({_KEY: SKIPPED.encode() if skipped else key.encode()}))


def verified_with(file: Path) -> str | None:
    """What the verdicts in a file were made with, "skipped" if some are missing; None if there are none that can be read."""
    try:
        found: Mapping[bytes, bytes] = pq.read_schema(file).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    return found[_KEY].decode() if _KEY in found else None


def read_verdicts(file: Path, rows: Sequence[DrawnRow], remedy: str) -> list[tuple[float, ...]]:
    """The correctness of the completions of `rows`, empty for a row of which one was skipped.

    Raises `BrokenFileError` for a file that is not about them.
    """
    found = _read(file, _VERIFIED, remedy)
    if [row["id"] for row in found] != [row.id for row in rows] or any(
        len(own["correct"]) != len(row.completions) for own, row in zip(found, rows, strict=True)
    ):
        raise BrokenFileError(f"{file} is about other completions than those drawn; {remedy}.")
    for number, row in enumerate(found, 1):
        if wrong := [value for value in row["correct"] if value is not None and not 0 <= value <= 1]:
            raise BrokenFileError(
                f"{file}, row {number} has {wrong[0]!r} among its values of `correct`, which lie between 0 and 1; {remedy}."
            )
    return [() if None in row["correct"] else tuple(row["correct"]) for row in found]


def _write(file: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    with atomic_file(file) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary, write_page_checksum=True)


def _read(file: Path, schema: pa.Schema, remedy: str) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(file, page_checksum_verification=True)
    except FileNotFoundError:
        raise BrokenFileError(f"{file} is missing; {remedy}.") from None
    except (OSError, pa.ArrowException) as error:
        raise BrokenFileError(f"{file} is no part of a pool ({error}); {remedy}.") from error
    if table.schema.remove_metadata() != schema or any(column.null_count for column in table.columns):
        raise BrokenFileError(f"{file} is no part of a pool (its columns are {', '.join(table.column_names)}); {remedy}.")
    return table.to_pylist()
