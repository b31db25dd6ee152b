"""What a table of scores says, as sections of a page, as Markdown and as lines for the terminal: one set of tables for all three."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from evalhooks.report.dashboard.table import minus
from evalhooks.report.scores.comparisons import compared, comparisons
from evalhooks.report.scores.model_tables import models, overlap, paper_tables, protocols, reference, self_preference
from evalhooks.report.scores.predictions import diagnostics, noise, pick, picks, relations
from evalhooks.report.scores.section import Section, listed

Findings = Mapping[str, Any]


def sections(found: Findings) -> Iterator[Section]:
    """The parts that the findings have something for."""
    yield from relations(found)
    yield from comparisons(found)
    yield from pick(found)
    yield from diagnostics(found)
    yield from noise(found)
    if found.get("self_preference"):
        yield self_preference(found["self_preference"])
    if found.get("reference"):
        yield reference(found)
    if found["models"]:
        yield models(found)
    yield from paper_tables(found)
    if found.get("overlap"):
        yield overlap(found["overlap"])
    if len(found["protocols"]) > 1 or any(found["protocols"]):
        yield protocols(found)
    if found["left_out"]:
        yield Section(title="Notes", sentences=tuple(found["left_out"]))


MOST_ROWS = 20
"""Rows of a table that is seen at once; a longer one opens when it is asked for."""


def html(found: Findings, figures: Mapping[str, str], *, without: Sequence[str] = ()) -> str:
    """The sections for the page but those `without`, by title; `figures` are what the page shows for a picture, if anything."""
    parts: list[str] = []
    for section in (section for section in sections(found) if section.title not in without):
        if not (section.sentences or section.rows or section.picture in figures):
            continue
        parts.append(f"<section><h2>{escape(section.title)}</h2>")
        parts += [f'<p class="caption">{escape(text)}</p>' for text in section.sentences]
        parts.append(figures.get(section.picture, ""))
        if section.rows:
            parts.append(_html_table(section))
        for title, lines in section.asides:
            shown = "".join(f"<li>{escape(line)}</li>" for line in lines)
            parts.append(f"<details><summary>{escape(title)}</summary><ul>{shown}</ul></details>")
        parts.append("</section>")
    return "".join(parts)


def _html_table(section: Section) -> str:
    """Columns with numbers are aligned and sorted as such."""
    kinds = ["w" if place == 0 or head in section.words else "n" for place, head in enumerate(section.heads)]
    head = "".join(
        f'<th class="{kind}" scope="col"><button type="button">{escape(text)}</button></th>'
        for text, kind in zip(section.heads, kinds, strict=True)
    )
    flags = [' class="control"' if pale else "" for pale in section.pale] or [""] * len(section.rows)
    body = "".join(
        f"<tr{flag}>{''.join(_html_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True))}</tr>"
        for row, flag in zip(section.rows, flags, strict=True)
    )
    whole = f'<table class="sorts"><thead><tr class="sort">{head}</tr></thead><tbody>{body}</tbody></table>'
    table = f'<div class="scroll" tabindex="0">{whole}</div>'
    return f"<details><summary>All {len(section.rows)} rows</summary>{table}</details>" if len(section.rows) > MOST_ROWS else table


def _html_cell(text: str, kind: str) -> str:
    return f"<td>{escape(text)}</td>" if kind == "w" else f'<td class="n">{minus(text)}</td>'


def answers(found: Findings) -> list[str]:
    """The sentences that a terminal shows: which benchmark predicts better, picks, and what was left out."""
    said = [*compared(found), *(f"Pick {text[0].lower()}{text[1:]}" for text in picks(found))]
    said += [entry["answer"] for entry in (found.get("self_preference") or {}).get("preferences", [])]
    said += _shared(found.get("overlap") or [])
    return [*said, *found["left_out"], *(source["note"] for source in found.get("reference", []) if source["note"])]


def _shared(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How many prompts each benchmark shares with the tasks."""
    for name, size in dict.fromkeys((entry["benchmark"], entry["of"]) for entry in entries):
        own = [entry for entry in entries if entry["benchmark"] == name]
        some = [f"{entry['shared']} with {entry['task']}" for entry in sorted(own, key=lambda entry: -entry["shared"]) if entry["shared"]]
        none = [entry["task"] for entry in own if not entry["shared"]]
        parts = [*([listed(some)] if some else []), *([f"none with {listed(none)}"] if none else [])]
        yield f"Of its {size} prompts {name} shares {'; '.join(parts)}."


def markdown(found: Findings, cell: Callable[[str], str], *, without: Sequence[str] = ()) -> list[str]:
    """The sections but those `without` as parts of a Markdown page; `cell` makes text that stays text."""
    parts: list[str] = []
    for section in (section for section in sections(found) if section.title not in without):
        parts.append(f"## {section.title}")
        parts += [cell(text) for text in section.sentences]
        if section.picture:
            parts.append(f"![{section.title}]({section.picture})")
        if section.rows:
            lines = [section.heads, ["---"] * len(section.heads), *section.rows]
            parts.append("\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines))
        if section.asides:
            parts.append("\n".join(f"- {cell(f'{title}, for example: {lines[0]}')}" for title, lines in section.asides))
    return parts
