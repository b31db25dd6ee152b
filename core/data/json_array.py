"""The elements of one large JSON array, read piece by piece: what is in memory is an element and a block of text."""

import json
from collections.abc import Iterator
from json.decoder import JSONDecodeError
from typing import Any, TextIO

from core.disk import BrokenFileError

BLOCK = 2**20
"""Characters read at a time."""
_BLANKS = " \t\n\r"
_DELIMITERS = {*_BLANKS, ",", "]"}


def is_array(text: TextIO) -> bool:
    """Whether a text is one JSON array, rather than a row on each line, which may be a list too."""
    begun = ""
    while not begun and (block := text.read(BLOCK)):
        begun = block.lstrip()
    if not begun.startswith("["):
        return False
    line, is_whole, rest = begun.partition("\n")
    last = line.rstrip()[-1]
    while not is_whole:
        if not (block := text.read(BLOCK)):
            return True
        part, is_whole, rest = block.partition("\n")
        last = part.rstrip()[-1:] or last
    if last != "]" or not (rest.strip() or any(later.strip() for later in text)):
        return True
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True  # the array only happens to break off after a bracket
    return False  # a list on each line


def elements(text: TextIO, where: str, *, remedy: str) -> Iterator[Any]:
    """The elements of a text that is a JSON array; raises `BrokenFileError` as `core.disk.parse_json`, and names the element."""
    buffer, number = _Buffer(text), 0
    try:
        buffer.take("[")
        ended = buffer.skips("]")
        while not ended:
            number += 1
            yield buffer.value()
            ended = buffer.skips("]")
            if not ended:
                buffer.take(",")
        buffer.end()
    except (ValueError, RecursionError) as error:  # as in `core.disk.parse_json`
        reason = error.msg if isinstance(error, JSONDecodeError) else str(error)
        raise BrokenFileError(f"{where} is no JSON (row {max(number, 1)}: {reason}); {remedy}.") from error


class _Buffer:
    """The part of a text from where it was read up to."""

    def __init__(self, text: TextIO) -> None:
        self._text, self._held, self._place = text, "", 0
        self._decoder = json.JSONDecoder()

    def skips(self, character: str) -> bool:
        """Steps over blanks and then the character, if it comes next."""
        self._skip_blanks()
        if not self._held.startswith(character, self._place):
            return False
        self._place += 1
        return True

    def take(self, character: str) -> None:
        if not self.skips(character):
            raise JSONDecodeError(f"Expecting {character!r}", self._held, self._place)

    def value(self) -> Any:
        """The value that comes next."""
        self._skip_blanks()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._held, self._place)
            except JSONDecodeError:
                if not self._more():
                    raise
                continue
            # A number that ends with the block may go on in the next.
            if self._held[end : end + 1] in _DELIMITERS or not self._more():
                self._place = end
                return value

    def end(self) -> None:
        self._skip_blanks()
        if self._place < len(self._held):
            raise JSONDecodeError("Extra data", self._held, self._place)

    def _skip_blanks(self) -> None:
        while True:
            while self._place < len(self._held) and self._held[self._place] in _BLANKS:
                self._place += 1
            if self._place < len(self._held) or not self._more():
                return

    def _more(self) -> bool:
        """Reads on, as much again as is held, so that a long value is not tried too often; returns whether there was anything."""
        read = self._text.read(max(BLOCK, len(self._held) - self._place))
        if read:
            self._held, self._place = self._held[self._place :] + read, 0
        return bool(read)
