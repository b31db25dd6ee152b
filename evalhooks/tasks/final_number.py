"""The number that a worked solution ends in, however people and models write numbers.

What notations leave no doubt about is read, and the rest is kept apart: `3,4` is a list of two numbers, since separators stand between
groups of three digits, and `3-4` is a range, since a hyphen after a digit is no minus sign.
"""

import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_MAX_LENGTH = 60
"""Characters of a number. A longer one comes from a policy that has lost its way, and exact arithmetic with it takes long."""
_MAX_LINE = 400
"""Characters after `####` that are looked at."""
_CONTEXT = 20
"""Characters before a number that decide what it is."""

_THIN = "\u2009"
_CHARACTERS = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if code != 0xFF0C},  # full width; its comma may only punctuate
    **dict.fromkeys(map(ord, "\u2212\u2013\u2010\u2011\ufe63\u207b"), "-"),  # minus, en dash, hyphens
    **dict.fromkeys(map(ord, "\u00a0\u2006\u2007\u2008\u200a\u202f"), _THIN),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad")),  # invisible, so removed
    0x2044: "/",
}
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e\u2189]")
_LATEX_COMMA = re.compile(r"\{,\}|,\\!")
_LATEX_SPACE = re.compile(r"\\[,;:! ]")
_LATEX_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?[\d.,]{1,30})\s*\}\s*\{\s*([\d.,]{1,30})\s*\}|(\d)\s*(\d))")

_NUMBER = re.compile(
    rf"""
    (?P<number>
        (?: \d{{1,3}} (?:[,_'\u2019\uff0c{_THIN}]\d{{3}})+ (?!\d)
          | \d{{1,3}} (?:[ ]\d{{3}}){{0,4}} [ ]0\d\d (?:[ ]\d{{3}}){{0,4}} (?!\d)  # a group that begins with 0 is no number of its own
          | \d+
        ) (?:\.\d+)? (?:[eE][-+]?\d{{1,2}}(?!\w))?
      | (?<![\w.])\.\d+
    )
    (?P<over> (?:/\d+(?:\.\d+)?)+ | [ ]\d{{1,4}}/\d{{1,4}}(?![\d/]) )?
    """,
    re.VERBOSE,
)
_CURRENCY = re.compile(r"(?:(?:[A-Z]{1,2})?\\?[$€£¥₹₩₽₺₱]|(?<![A-Za-z])(?:USD|EUR|GBP|CAD|AUD|INR|CNY|RMB|JPY|Rs\.?)) ?$")
_COMMAND = re.compile(r"\\[A-Za-z]+")

_MARK = re.compile(r"#{4,}")
_LABEL = re.compile(r"[\s*_`>:]*(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?|答案是?)?[\s*_`>:]*", re.IGNORECASE)
_NUMBERED_HEADING = re.compile(r"\d{1,2}[.):]\s+\S")
_BOX = re.compile(r"\\f?boxed\s*")
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """A number in a text, None if it has no value that could be compared, and its place, currency and sign included."""

    value: Fraction | None
    start: int
    end: int


def final_number(text: str) -> Fraction | None:
    r"""The number after the last `####`, else that in the last `\boxed`, else the last one of all; None if there is none.

    >>> [str(final_number(text)) for text in ("#### 18 eggs in 2 boxes", r"\boxed{9{,}500} in 2024", "It is 3, then -1.5.")]
    ['18', '9500', '-3/2']
    """
    text = _plain(text)
    for region in (_marked(text), _boxed(text)):
        if region is not None and (found := _of_region(region)) is not None:
            return found.value
    last = deque(_numbers(text), maxlen=1)
    return last[0].value if last else None


def _plain(text: str) -> str:
    """The text with one sign for minus, for a thin space and for a separator, and with fractions as 1/2."""
    text = _VULGAR.sub(lambda found: f" {unicodedata.normalize('NFKC', found[0])}", text).translate(_CHARACTERS)
    text = _LATEX_SPACE.sub(_THIN, _LATEX_COMMA.sub(",", text))
    return _LATEX_FRACTION.sub(_slashed, text)


def _slashed(found: re.Match[str]) -> str:
    before = found.string[found.start() - 1] if found.start() else ""
    above, below = (found[1], found[2]) if found[1] else (found[3], found[4])
    return f"{' ' if before.isdigit() else ''}{above.replace(',', '')}/{below.replace(',', '')}"


def _marked(text: str) -> str | None:
    """What follows the last `####` that has a number right after it; the number of a heading, as in `#### 2. Costs`, does not count."""
    for mark in reversed([*_MARK.finditer(text)]):
        label = _LABEL.match(text, mark.end())
        begin = label.end() if label else mark.end()
        line = text[begin : begin + _MAX_LINE].split("\n", 1)[0]
        first = next(_numbers(line), None)
        if first and not any(map(str.isalnum, _COMMAND.sub("", line[: first.start]))) and not _NUMBERED_HEADING.match(line):
            return line
    return None


def _boxed(text: str) -> str | None:
    """What the last `\\boxed` holds."""
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    rest = text[starts[-1] :]
    if not rest.startswith("{"):
        return rest.split("\n", 1)[0]
    depth = 0
    for place, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if not depth:
            return rest[1:place]
    return rest[1:]


def _of_region(region: str) -> _Found | None:
    """The first number of a place made for one; of an equation that on the last side with a single one: 18 in `9 * 2 = 18`."""
    region = _SPACED.sub(lambda found: found[0].replace(" ", ""), region)
    sides = [[*_numbers(re.sub(r"^\W*?([-+])\s+", r"\1", side))] for side in re.split(r"[=≈]|\\approx", region)]
    single = [side[0] for side in sides if len(side) == 1]
    if len(sides) > 1 and single:
        return single[-1]
    return next((number for side in sides for number in side), None)


def _numbers(text: str) -> Iterator[_Found]:
    """The numbers in a text. Digits of words (x2, H2O), subscripts, exponents and what follows a second point (1.2.3) are none."""
    for match in _NUMBER.finditer(text):
        before = text[max(0, match.start() - _CONTEXT) : match.start()]
        currency = _CURRENCY.search(before)
        before = before[: currency.start()] if currency else before
        sign = before[-1:] if before[-1:] in ("-", "+") else ""
        start = match.start() - (len(currency[0]) if currency else 0) - len(sign)
        if sign:
            ahead = before[-2:-1]
            # "3-4" and "F-16" hyphenate, "$18-$20" is a range; after Chinese text it is a minus sign.
            if _is_letter(ahead) or ahead.isdigit() or (ahead and ahead in ")]}%.") or (currency and ahead == "$"):
                sign = ""
        elif not currency and _continues_word(before):
            continue
        yield _Found(value=_value(match, negative=sign == "-"), start=start, end=match.end())


def _continues_word(before: str) -> bool:
    """Whether digits after `before` belong to what stands there: a word, a subscript, an exponent, a version."""
    last = before[-1:]
    if last == "_":
        return not before.endswith("__") and (before[-2:-1].isalnum() or before[-2:-1] == "}")  # x_1; __18__ and _18_ are emphasis
    if last == ".":
        return before[-2:-1].isdigit()
    return (_is_letter(last) and not re.search(r"\\[A-Za-z]+$", before)) or last == "^" or before.endswith(("_{", "^{"))


def _is_letter(character: str) -> bool:
    """Whether it is a letter of a script that sets words apart from numbers; Chinese does not."""
    return character.isalpha() and unicodedata.category(character) != "Lo"


def _value(match: re.Match[str], *, negative: bool) -> Fraction | None:
    """None for a number that is too long, and for one divided by zero."""
    if len(match[0]) > _MAX_LENGTH:
        return None
    whole, over = Fraction(re.sub(rf"[,_'\u2019\uff0c {_THIN}]", "", match["number"])), match["over"] or ""
    if over.startswith(" "):
        above, below = map(int, over.split("/"))
        if above >= below or whole.denominator != 1:  # two numbers that stand side by side
            return Fraction(above, below) if below else None
        whole += Fraction(above, below)
    elif over.count("/") > 1:  # a date
        return Fraction(over.rpartition("/")[2])
    elif over:
        below = Fraction(over[1:])
        if not below:
            return None
        whole /= below
    return -whole if negative else whole
