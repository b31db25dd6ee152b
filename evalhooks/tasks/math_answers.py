"""Answers to MATH's problems: the final one of a text, and whether it equals the expected one by math-verify."""

import logging
import re
import threading
from functools import cache
from typing import Any

from core.functions import SkippedError

_SECONDS = 5
"""For reading an answer, and for comparing two."""
_MAX_LENGTH = 20_000
"""Characters of a completion, from its end, in which its answer is looked for."""
_BOX = re.compile(r"\\f?boxed\s*(?=\{)|\\boxed\s+(\w)")
_WRITTEN = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}|\\[!,;: ]|\\left|\\right|[\s$~]|\\%|%")


def equal_answers(completion: str, answer: str, solution: str = "") -> bool:
    """Whether the final answer of the completion equals `answer`, or where that is empty the one boxed in `solution`.

    The final answer is the last that is boxed, else the last formula or number. Equal are also answers written alike. Raises
    `SkippedError` where math-verify does not come to an end or cannot read the reference, and `ValueError` for a reference without
    an answer.
    """
    expected = answer or boxed(solution) or ""
    if not expected.strip():
        raise ValueError(f"the solution {solution!r:.80} of a MATH row boxes no answer; give it as `answer`.")
    completion = completion[-_MAX_LENGTH:]
    given = boxed(completion)
    if given is not None and _plain(given) == _plain(expected):
        return True
    parse, verify, ran_out = _math_verify()
    # It stops itself by a signal, which only the main thread may ask for.
    seconds = _SECONDS if threading.current_thread() is threading.main_thread() else None
    try:
        gold = parse(f"\\boxed{{{expected}}}", parsing_timeout=seconds)
        if not gold:  # which no answer would equal
            raise SkippedError(f"math-verify reads nothing in the reference {expected!r:.80}")
        # Without one it would read any number of the text.
        found = parse(f"\\boxed{{{given}}}" if given is not None else completion, parsing_timeout=seconds, raise_on_error=True)
        return bool(verify(gold, found, timeout_seconds=seconds, raise_on_error=True))
    except SkippedError:
        raise
    except ran_out as error:
        raise SkippedError(f"math-verify found no verdict on {given or completion[-80:]!r} within {_SECONDS} s") from error
    except Exception:  # sympy raises anything on what is no formula
        return False


def boxed(text: str) -> str | None:
    """What the last `\\boxed` of a text holds, None without one; an open one holds the rest.

    >>> boxed("So \\\\boxed{\\\\frac{1}{2}} holds."), boxed("None.")
    ('\\\\frac{1}{2}', None)
    """
    found = [*_BOX.finditer(text)]
    if not found:
        return None
    if found[-1][1]:
        return found[-1][1]
    depth, start = 0, found[-1].end()
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return text[start + 1 : place]
    return text[start + 1 :]


def _plain(answer: str) -> str:
    """An answer without what changes its looks alone."""
    return _WRITTEN.sub(lambda found: found[1] or "", answer).replace("dfrac", "frac").replace("tfrac", "frac").rstrip(".")


@cache
def _math_verify() -> tuple[Any, Any, type[BaseException]]:
    try:
        from math_verify import parse, verify
        from math_verify.errors import TimeoutException
    except ImportError as error:
        raise ValueError(f"answers of MATH are compared by the package math-verify ({error}); pip install 'rewardloop[tasks]'.") from error
    for name in ("math_verify.parser", "math_verify.grader", "math_verify.utils"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it warns of every answer that it cannot read
    return parse, verify, TimeoutException
