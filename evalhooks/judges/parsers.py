"""Parses a judge's text into a rating or a choice, or None if it is unparsable.

`official` follows RewardBench's reference implementation to the letter, for numbers comparable with published ones. It
reads "8/10" as 10 and, of two verdicts, takes the one with the earlier letter. `strict` rejects ambiguous texts.
"""

import re
from enum import StrEnum

from evalhooks.judges.prompts import LETTERS


class Parser(StrEnum):
    """How a judge's text is parsed."""

    strict = "strict"
    official = "official"


_OFFICIAL_RATING = re.compile(r"\b([1-9]|10)\b\s*$")
_NUMBER = r"(10(?:\.0+)?|[1-9](?:\.[0-9]+)?)"
_STRICT_RATING = re.compile(
    rf"""
    (?:\*\*)? (?: (?:rating|score) (?:\*\*)? \s*:\s* (?:\*\*)? )? \s*  # a label, bold or not
    (?:\*\*)? (?: \[\[ \s*{_NUMBER}\s* (?:/\s*10\s*)? \]\] | {_NUMBER} ) (?:\*\*)?
    (?: \s*/\s*10 )? (?:\*\*)? \.? (?:\*\*)?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_VERDICT = re.compile(r"\[\[([A-Z])\]\]")


def parse_rating(text: str, parser: Parser = Parser.strict) -> float | None:
    """A rating from 1 to 10.

    Official: the whole number at the very end of the text. Strict: the last non-empty line, if it holds nothing but a
    rating: a number, possibly with decimals, optionally preceded by "Rating:" or "Score:", followed by "/10" or a full
    stop, and in bold or double square brackets.

    >>> [parse_rating("Fair. 8/10", parser) for parser in Parser], [parse_rating("Fair.\\nRating: 8.5/10", parser) for parser in Parser]
    ([None, 10.0], [8.5, 10.0])
    """
    if parser is Parser.official:
        match = _OFFICIAL_RATING.search(text.strip())
        return float(match[1]) if match else None
    lines = text.strip().splitlines()
    match = _STRICT_RATING.fullmatch(lines[-1].strip()) if lines else None
    return float(match[1] or match[2]) if match else None


def parse_ranking(text: str, num_answers: int, parser: Parser = Parser.strict) -> int | None:
    """The index (from 0) of the best of `num_answers` answers, which the text names as [[A]], [[B]], ...

    Official: the alphabetically first letter that occurs in this form anywhere. Strict: the only letter that does.

    >>> [parse_ranking("[[B]] is better than [[A]].", 4, parser) for parser in Parser]
    [None, 0]
    """
    shown = LETTERS[:num_answers]
    if parser is Parser.official:
        return next((place for place, letter in enumerate(shown) if f"[[{letter}]]" in text), None)
    named = set(_VERDICT.findall(text))
    return shown.index(named.pop()) if len(named) == 1 and named <= set(shown) else None
