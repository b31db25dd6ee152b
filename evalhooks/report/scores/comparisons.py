"""Which of two benchmarks predicts better, in sentences and as a table: in full for the main results, in sum for all others."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evalhooks.analysis.columns import Columns, columns_in
from evalhooks.metric_names import PPO
from evalhooks.report.scores.section import Section, interval, listed, number

Findings = Mapping[str, Any]
Entry = Mapping[str, Any]

MOST = 8
"""Comparisons that are told in full; a table holds all."""
_FEW = 3
"""Pairs of benchmarks that are each summed up over the other results; of more the counts are told together."""


def compared(found: Findings) -> list[str]:
    """The sentences: in full those of the first downstream result and of PPO, or of all where they are two at most, and the rest in sum."""
    entries, downstream = found["head_to_head"], found["downstream"]
    if not entries:
        return []
    if max(entry["n"] for entry in entries) < 3:
        return ["Nothing can be told yet: it takes 5 reward models that have both benchmarks and a downstream result."]
    main = [y for y in downstream if y in (downstream[0], PPO) or len(downstream) < 3]
    whole = [entry for entry in entries if entry["downstream"] in main]
    rest = [entry for entry in entries if entry["downstream"] not in main]
    said = [entry["answer"] for entry in whole[:MOST]]
    said += [f"{len(whole) - MOST} more such comparisons stand in the table."] if len(whole) > MOST else []
    said += _in_sum(rest, columns_in(found))
    if (count := sum(entry.get("ci95") is not None for entry in entries)) > 1:
        said.append(
            f"{count} of these comparisons have a 95% interval; if the benchmarks were all equally good, about {0.05 * count:.2g} of the "
            "intervals would exclude 0 all the same."
        )
    return said


def _in_sum(entries: Sequence[Entry], columns: Columns) -> list[str]:
    pairs: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        pairs.setdefault((entry["a"], entry["b"]), []).append(entry)
    if len(pairs) > _FEW:
        told = sum(bool(entry["better"]) for entry in entries)
        return [f"Of the {len(entries)} comparisons over the other results {told} can be told; they stand in the table."]
    return [own[0]["answer"] if len(own) == 1 else _of_pair(a, b, own, columns) for (a, b), own in pairs.items()]


def _of_pair(a: str, b: str, entries: Sequence[Entry], columns: Columns) -> str:
    """Two benchmarks over several downstream results."""
    tasks = all(entry["downstream"].startswith("bon/") for entry in entries)
    noun, count = "tasks" if tasks else "other results", len(entries)
    by = {name: [_short(entry["downstream"], columns) for entry in entries if entry["better"] == name] for name in (a, b, "")}
    if not by[a] and not by[b]:
        return f"For none of the {count} {noun} can it be told whether {columns.name(a)} or {columns.name(b)} predicts it better."
    alone = not (by[a] and by[b])
    against = {a: f" than {columns.name(b)}" if alone else "", b: f" than {columns.name(a)}" if alone else ""}
    told = [f"{columns.name(name)} predicts {len(by[name])} better{against[name]} ({listed(by[name])})" for name in (a, b) if by[name]]
    rest = f"; for {len(by[''])} it cannot be told ({listed(by[''])})" if by[""] else ""
    return f"Of {count} {noun}, {' and '.join(told)}{rest}."


def _short(column: str, columns: Columns) -> str:
    """A task by its own name; another column by its name in the report."""
    return column.removeprefix("bon/").partition("@")[0] if column.startswith("bon/") else columns.name(column)


def comparisons(found: Findings) -> Iterator[Section]:
    """The section, if anything is compared."""
    columns = columns_in(found)
    entries = found["head_to_head"]
    rows = tuple(_row(entry, columns) for entry in entries) if any(entry["n"] > 2 for entry in entries) else ()
    if entries:
        yield Section(
            title="Which benchmark predicts better?", sentences=tuple(compared(found)), heads=_HEADS, words=("A", "B", "Better"), rows=rows
        )


_HEADS = (
    "Downstream",
    "A",
    "B",
    "Better",
    "Difference of r, A - B",
    "95% interval",
    "n",
    "r of A",
    "r of B",
    "Lost by A's first",
    "Lost by B's first",
    "Lost by chance",
    "Pairs in order by A, %",
    "Pairs in order by B, %",
    "A ~ B (tau)",
)


def _row(entry: Entry, columns: Columns) -> tuple[str, ...]:
    lost, y = entry.get("regret"), entry["downstream"]
    losses = [lost[entry["a"]]["points"], lost[entry["b"]]["points"], lost[entry["a"]]["chance"]] if lost else [None] * 3
    return (
        *(columns.name(entry[key]) for key in ("downstream", "a", "b")),
        columns.name(entry["better"]) or "cannot tell",
        number(entry.get("difference"), sign=True),
        interval(entry.get("ci95")),
        str(entry["n"]),
        number(entry.get("r_a")),
        number(entry.get("r_b")),
        *(columns.value(y, value) for value in losses),
        *("n/a" if (share := entry.get(key)) is None else f"{100 * share:.1f}" for key in ("right_a", "right_b")),
        number(entry.get("ranking")),
    )
