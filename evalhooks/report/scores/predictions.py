"""The sections on what predicts downstream use: correlations, the pick, inputs one at a time, and the noise of seeds."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from evalhooks.analysis.columns import Columns, columns_in
from evalhooks.report.scores.section import Section, interval, listed, number

Findings = Mapping[str, Any]

_HEADS = ("Pearson r", "95% interval", "n", "Spearman", "95% interval", "Kendall", "r squared", "Note")


def relations(found: Findings) -> Iterator[Section]:
    """Benchmarks with downstream results, and each of the two kinds among themselves; where there is no correlation at all, a sentence."""
    columns = columns_in(found)
    links, among, downstream = found["correlation"], found["between_benchmarks"], found["between_downstream"]
    if found["downstream"]:
        # The parts of all pairs would be hundreds of rows, which correlation.csv and summary.json have.
        first = tuple(f"{found['benchmarks'][0]}~{column}" for column in found["downstream"][:2])
        told = {
            key: link
            for key, link in links.items()
            if " (" not in key or (key.startswith(first) and (link["pearson"] is not None or "protocol" in key))
        }
        yield Section(
            title="Does the benchmark predict downstream use?",
            sentences=(*_intervals(links), *_units(found, columns)),
            heads=("Benchmark ~ downstream", *_HEADS),
            words=("Note",),
            rows=_rows(told, columns),
            picture="benchmark_vs_downstream.png",
        )
    if len(found["benchmarks"]) * len(found["downstream"]) > 1 and _known(links):
        yield Section(title="Benchmarks by downstream results", picture="correlation_grid.png")
    heads, said = ("Benchmarks", *_HEADS), tuple(_gaps(found, columns))
    if among and (said or _known(among)):
        drawn = "benchmarks.png" if len(found["compared"]) > 1 else ""
        rows = _rows(among, columns)
        yield Section(title="Between benchmarks", sentences=said, heads=heads, words=("Note",), rows=rows, picture=drawn)
    if downstream and _known(downstream):
        heads, rows = ("Downstream results", *_HEADS), _rows(downstream, columns)
        yield Section(title="Between downstream results", heads=heads, words=("Note",), rows=rows, picture="downstream_grid.png")


def _known(links: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(link["pearson"] is not None for link in links.values())


def _intervals(links: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What to know of the intervals of r; or that there is no r, as where there are two reward models."""
    if any(link["ci95"] is not None for link in links.values()):
        yield "Intervals of r are Fisher's, which cover the truth 93 to 97 times in 100 from n = 6 on (docs/analysis.md)."
    if not _known(links) and max(link["n"] for link in links.values()) < 3:
        yield "There is no correlation: it takes 3 reward models that have both a benchmark score and a downstream result."


def _rows(links: Mapping[str, Mapping[str, Any]], columns: Columns) -> tuple[tuple[str, ...], ...]:
    """A row for each correlation, if any has 3 reward models."""
    return tuple(_row(columns.link(key), link) for key, link in links.items()) if any(link["n"] > 2 for link in links.values()) else ()


def _row(name: str, link: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        number(link["pearson"]),
        interval(link["ci95"]),
        str(link["n"]),
        number(link["spearman"]),
        interval(link["spearman_ci95"]),
        number(link["kendall"]),
        number(link["r2"]),
        link["note"],
    )


def _units(found: Findings, columns: Columns) -> Iterator[str]:
    """In which unit scores are shown, where it is not points of 100 for all."""
    shown = [*found["benchmarks"], *found["downstream"]]
    own = [columns.name(column) for column in shown if not columns.unit(column)]
    if len(own) == len(shown):
        yield "Scores are shown in the units of the table, of which it says nothing; shares=[COLUMN] names those that are shares of 1."
    elif own:
        yield f"Scores are points of 100, but for {listed(own)}: {'this is' if len(own) == 1 else 'these are'} shown as the table has it."


def _gaps(found: Findings, columns: Columns) -> Iterator[str]:
    """How much lower reward models score on one benchmark than on another (figure 2 of the paper), if both have one unit."""
    for a, b in combinations(found["compared"], 2):
        gaps = [m["scores"][a] - m["scores"][b] for m in found["models"] if a in m["scores"] and b in m["scores"]]
        if not gaps or columns.unit(a) != columns.unit(b):
            continue
        mean = sum(gaps) / len(gaps)
        over = (
            f", on average over the {len(gaps)} reward models that have both" if len(gaps) > 1 else " in the one reward model that has both"
        )
        if unit := columns.unit(a):
            told = "lower" if mean < 0 else "higher"
            yield f"{columns.name(a)} is {columns.value(a, abs(mean))} {unit} {told} than {columns.name(b)}{over}."
        else:
            yield f"{columns.name(a)} minus {columns.name(b)}: {columns.value(a, mean, sign=True)}{over}, if these count in one unit."
    if all(any(column.startswith(name) for column in found["compared"]) for name in ("rewardbench2/overall", "rewardbench1/overall")):
        yield "RewardBench 2 is the plain mean of its domains, RewardBench 1 that of its sections and, at half weight, prior sets."


def picks(found: Findings) -> list[str]:
    """Which reward model to take, a sentence or two for each downstream result."""
    columns = columns_in(found)
    named = {key: " for ".join(columns.name(column) for column in key.split("~", 1)) for key in found["pick"]}
    return [f"By {named[key]}: {entry['answer']}" for key, entry in found["pick"].items()]


def pick(found: Findings) -> Iterator[Section]:
    """The picks, with their chances."""
    if found["pick"]:
        drawn = any(entry.get("candidates") for entry in found["pick"].values())
        yield Section(title="Which reward model to take", sentences=tuple(picks(found)), picture="pick.png" if drawn else "")


def diagnostics(found: Findings) -> Iterator[Section]:
    """What each input alone predicts; of what could not be fitted one sentence."""
    columns, entries = columns_in(found), found["diagnostics"]
    fitted = [(y, entry) for y, own in entries.items() for entry in own if entry["gain"] is not None]
    rows = tuple(
        (
            columns.name(y),
            columns.name(entry["name"]),
            f"{100 * entry['gain']:.0f}%",
            columns.value(y, entry["error"]),
            columns.value(y, entry["error_of_mean"]),
            str(entry["n"]),
        )
        for y, entry in fitted
    )
    said = list(_not_fitted(entries, columns))
    if rows:
        said.insert(
            0,
            "Each input alone, on reward models that the fit did not see. The error is the root of its mean square; taken away is how much "
            "of the squared error of the mean the input saves, and below 0% it predicts worse than the mean of the others.",
        )
    if said:
        heads = ("Downstream", "Input", "Taken away", "Error", "Error of the mean", "n")
        yield Section(title="What predicts it, one input at a time", sentences=tuple(said), heads=heads, words=("Input",), rows=rows)


def _not_fitted(entries: Mapping[str, Sequence[Mapping[str, Any]]], columns: Columns) -> Iterator[str]:
    """By reason what was not fitted."""
    blank = [y for y, own in entries.items() if all(entry["gain"] is None for entry in own)]
    rest = {y: own for y, own in entries.items() if y not in blank}
    inputs = [entry["name"] for entry in next(iter(rest.values()), [])]
    never = [name for name in inputs if all(entry["gain"] is None for own in rest.values() for entry in own if entry["name"] == name)]
    why = "a fit takes 10 reward models for each input, and numbers that differ"
    if blank:
        yield f"Nothing could be fitted for {listed([columns.name(y) for y in blank])}: {why}."
    if never:
        yield f"Not fitted: {listed([columns.name(name) for name in never])}; {why}."
    for y, own in rest.items():
        for entry in own:
            if entry["gain"] is None and entry["name"] not in never:
                yield f"{columns.name(y)} by {columns.name(entry['name'])}: {entry['note']}"


def noise(found: Findings) -> Iterator[Section]:
    """What the seed alone does."""
    if not found["models"]:
        return
    columns = columns_in(found)
    known = {column: value for column, value in found["seed_noise"].items() if value}
    if not known:
        said = "No two reward models are equal but for their seed, so nothing is known of what the seed alone does."
        yield Section(title="Seed noise", sentences=(said,))
        return
    heads = ("Column", "Standard deviation", "Band", "Groups", "Degrees of freedom")
    rows = tuple(
        (
            columns.name(column),
            columns.value(column, value["sd"]),
            columns.value(column, value["band"]),
            str(value["num_groups"]),
            str(value["df"]),
        )
        for column, value in known.items()
    )
    said = "Of two reward models that differ in the seed alone, 95 in 100 are closer than the band: a difference below it is noise."
    yield Section(title="Seed noise", sentences=(said,), heads=heads, rows=rows)
