"""A part of a report as data, from which page, Markdown and terminal are made, and numbers as its cells show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the report: sentences, a table of cells, lines to look up, and the name of a picture, each of which may be missing.

    >>> Section(title="Seed noise", heads=("Column", "Band"), rows=(("best of 16, average", "2.1"),)).words
    ()
    """

    title: str
    sentences: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    words: tuple[str, ...] = ()
    """Heads of the columns with words beside the first, which always has some; all others hold numbers."""
    pale: tuple[bool, ...] = ()
    """Which rows are within seed noise of the best; empty where that does not apply."""
    picture: str = ""
    asides: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """What a reader may look up: a title, and its lines."""


def number(value: float | None, *, digits: int = 3, sign: bool = False) -> str:
    """A number for a table; a missing one is "n/a"."""
    return "n/a" if value is None else f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def headline(link: Mapping[str, Any]) -> str:
    """A correlation in a few words: r, its interval and n."""
    if link.get("pearson") is None:
        return f"r not available, n = {link.get('n', 0)}"
    bounds = "no interval" if link["ci95"] is None else f"{link['ci95'][0]:.2f} to {link['ci95'][1]:.2f}"
    return f"r = {link['pearson']:.2f} ({bounds}), n = {link['n']}"


def interval(bounds: Sequence[float] | None) -> str:
    """An interval for a table; a missing one is "n/a"."""
    return "n/a" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in a sentence, the first `most` of them.

    >>> listed(["facts", "topics", "sums"]), listed(["a", "b", "c"], most=1)
    ('facts, topics and sums', 'a and 2 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
