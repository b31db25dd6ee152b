"""Text from outside, made fit to be shown and kept: without control characters, and without secrets; and times as text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_ESCAPES = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b(?:[\]PX^_].*?(?:\x07|\x1b\\)|[@-Z\\-~])", re.DOTALL)
"""What terminals act on: colours and cursor (CSI), titles and links (OSC and the like), and the short ones (ECMA-48)."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tab and newline, and Unicode's marks that reorder a line or end it."""

_HIDDEN = "***"
_SECRET_KEY = r"(?:api[_-]?key|(?:access|auth|api|bearer|hf|hub|refresh)[_-]?token|token|password|passwd|secret|authorization)"
_VALUE = r"(?!\$\{|''|\"\"|null\b)(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s,}'\"]+)"
"""A value that is not empty, and no reference to one."""
_SECRETS = (
    (re.compile(r"(://[^\s/?#@:'\"]*):[^\s/?#'\"]*@"), rf"\1:{_HIDDEN}@"),  # a URL's password
    (re.compile(r"(://)[^\s/?#@:'\"]+@"), rf"\1{_HIDDEN}@"),  # a token in place of its user
    (re.compile(r"([?&;][\w.-]*(?:key|token|secret|passw(?:or)?d|signature|sig|auth)=)[^&#\s'\"]+", re.IGNORECASE), rf"\1{_HIDDEN}"),
    (re.compile(r"\b(hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abp]-|AKIA)[A-Za-z0-9_-]{12,}"), rf"\1{_HIDDEN}"),  # by what they begin with
    (re.compile(r"\b(Bearer\s+)[^\s'\"]{8,}", re.IGNORECASE), rf"\1{_HIDDEN}"),
    (re.compile(rf"((?:^[ \t-]*|['\"]){_SECRET_KEY}['\"]?[ \t]*:[ \t]*){_VALUE}", re.IGNORECASE | re.MULTILINE), rf"\1{_HIDDEN}"),
    (re.compile(rf"((?:^|[\s.,{{'\"+]){_SECRET_KEY}=){_VALUE}", re.IGNORECASE), rf"\1{_HIDDEN}"),
)


def printable(text: str) -> str:
    """`text` without what a terminal would act on rather than show; tabs and newlines stay.

    >>> printable("a\\x1b[31mred\\x1b[0m\\x07\\u202eb")
    'aredb'
    """
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def redacted(text: str) -> str:
    """`text` with `***` for passwords and tokens in URLs, tokens of known forms, and values under keys such as `api_key`.

    >>> redacted("GET http://me:hunter2@host:8000/v1?token=abc failed")
    'GET http://me:***@host:8000/v1?token=*** failed'
    """
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def shown(text: str) -> str:
    """`text` as messages show it: printable and redacted."""
    return redacted(printable(text))


def redacted_values(value: Any) -> Any:
    """Nested mappings and sequences with every text in them redacted, and texts under keys such as `api_key` hidden."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {
            key: _HIDDEN if isinstance(item, str) and item and re.fullmatch(_SECRET_KEY, str(key), re.IGNORECASE) else redacted_values(item)
            for key, item in value.items()
        }
    if isinstance(value, Sequence):
        return [redacted_values(item) for item in value]
    return value


def duration(seconds: float | None) -> str:
    """A time in its two largest units; "n/a" for None.

    >>> duration(42), duration(3725), duration(200000), duration(None)
    ('42 s', '1 h 2 min', '2 d 7 h', 'n/a')
    """
    if seconds is None:
        return "n/a"
    whole = round(seconds)
    for unit, name, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {small}"
    return f"{whole} s"
