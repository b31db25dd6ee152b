"""Short answers, as BIG-Bench Hard and PopQA ask for: which one a text gives, and whether it is the expected one."""

import re
import string
from collections.abc import Iterable

from evalhooks.tasks.math_answers import boxed

_SAYS = re.compile(r"\banswer(?:\s+to\s+[^.:\n]{1,60})?\s*(?:is|are|would be|should be|:)(?:\s*:)?[\s*_`]*", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_OPTION = re.compile(r"^\W*\(?([A-Za-z])(?:\)|[.:](?=\s|$)|(?=\W*$))")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def given_answer(text: str) -> str:
    """The answer that a worked solution gives: what follows the last "answer is", else the last `\\boxed`, else the last line.

    >>> given_answer("It holds, so the answer is (B). Done."), given_answer("First ...\\n\\n**valid**")
    ('(B). Done.', '**valid**')
    """
    says = [*_SAYS.finditer(text)]
    if says:
        line = text[says[-1].end() :].lstrip().split("\n", 1)[0].strip()
        if line:
            return boxed(line) or line
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return boxed(text) or (lines[-1] if lines else "")


def same_answer(given: str, target: str) -> bool:
    """Whether a given answer is the target of a row of BIG-Bench Hard: a letter in brackets, a word, a number, words or brackets.

    Case, quotes, Markdown and the full stop do not count. Of an option the letter counts, whether or not its text follows. What follows
    the target in the same sentence does not count either, unless it goes on with what else the target could have been.
    """
    given = _COMMAND.sub(r"\1", given)
    if option := re.fullmatch(r"\(([A-Z])\)", target):
        found = _OPTION.match(given.strip("*_`$ "))
        return found is not None and found[1].upper() == option[1]
    if not any(map(str.isalnum, target)):  # closing brackets
        brackets = "()[]{}<>"
        return "".join(c for c in given if c in brackets) == "".join(c for c in target if c in brackets)
    wanted, found_words = _words(target), _words(given)
    if len(wanted) > 1:
        return (found_words[-len(wanted) :] == wanted and len(found_words) <= len(wanted) + 1) or found_words == wanted
    return found_words[:1] == wanted


def _words(text: str) -> list[str]:
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.lower())
    return [word for word in (piece.strip("\"'`*_.,;:!?$()[]") for piece in re.split(r"[\s,]+", text)) if word]


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and repeated blanks (Rajpurkar et al. 2016)."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", text).split())


def names_any(text: str, aliases: Iterable[str]) -> bool:
    """Whether any of the aliases occurs in the text, as whole words (Mallen et al. 2023 take any occurrence)."""
    padded = f" {normalized(text)} "
    return any(f" {found} " in padded for alias in aliases if (found := normalized(alias)))
