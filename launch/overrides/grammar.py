"""Overrides as text: where Hydra's grammar lets them be taken apart, and how to quote a value."""

from collections.abc import Sequence

from hydra.core.override_parser.types import Quote, QuotedString

_BRACKETS = {"[": "]", "(": ")", "{": "}"}


def quoted(text: object) -> str:
    """A value as Hydra reads it back character by character, whatever it holds; also the resolver `${quoted:...}`.

    >>> print(quoted("it's a=1, {b}"))
    'it\\'s a=1, {b}'
    """
    # What is between braces after a dollar would otherwise be taken for an interpolation.
    return QuotedString(text=str(text).replace("${", "\\${"), quote=Quote.single).with_quotes()


def split_line(line: str) -> list[str]:
    """The overrides in a line of them. Blanks separate them, except in quotes and brackets and beside a comma.

    >>> split_line("model=coast data.name='a, b' optim.lr=1e-3, 1e-4")
    ['model=coast', "data.name='a, b'", 'optim.lr=1e-3,1e-4']
    """
    overrides: list[str] = []
    for piece in filter(None, split_outside(line, " \t\r\n")):
        if overrides and (piece.startswith(",") or overrides[-1].endswith(",")):
            overrides[-1] += piece
        else:
            overrides.append(piece)
    return overrides


def split_outside(text: str, separators: Sequence[str]) -> list[str]:
    """The pieces of `text` between separators (single characters) that stand outside of quotes and brackets and are not escaped."""
    pieces, closing, quote, escaped = [""], list[str](), "", False
    for character in text:
        if not (escaped or quote or closing) and character in separators:
            pieces.append("")
            continue
        pieces[-1] += character
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _BRACKETS:
            closing.append(_BRACKETS[character])
        elif closing and character == closing[-1]:
            closing.pop()
    return pieces
