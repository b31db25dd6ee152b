"""Compares two answers by math-verify, where it can be ended: a program, run by its path, that answers lines on its standard input.

sympy may compute for hours or take all memory, and an alarm that raises an exception inside it can be lost in an `except` of its own.
Here an alarm that nobody handles ends the process. A line is a JSON object with `expected` and `given`, texts to parse, and `seconds`,
the time that may be taken; the answer is one with `equal`, or with `skipped`, why there is no verdict.
"""

import json
import logging
import resource
import signal
import sys

from math_verify import parse, verify  # pyright: ignore[reportMissingTypeStubs]

MEMORY = 4 << 30
"""Bytes of address space."""


def verdict(expected: str, given: str) -> dict[str, bool | str]:
    reference = f"the reference {expected!r:.80}"
    try:
        gold = parse(expected, parsing_timeout=0)
    except MemoryError:
        return _no_room(reference)
    except Exception as error:  # sympy raises anything on what is no formula
        return {"skipped": f"math-verify cannot read {reference} ({type(error).__name__})"}
    if not gold:  # which no answer would equal
        return {"skipped": f"math-verify reads nothing in {reference}"}
    try:
        found = parse(given, parsing_timeout=0, raise_on_error=True)
        return {"equal": bool(verify(gold, found, timeout_seconds=0, raise_on_error=True))}
    except MemoryError:
        return _no_room(repr(given[-80:]))
    except Exception:  # likewise
        return {"equal": False}


def _no_room(what: str) -> dict[str, bool | str]:
    return {"skipped": f"math-verify found no verdict on {what} in {MEMORY >> 30} GiB"}


def main() -> None:
    logging.disable(logging.CRITICAL)  # it warns of every answer that it cannot read
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the run, which closes the input
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    for line in sys.stdin:
        question = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, question["seconds"])
        answer = verdict(question["expected"], question["given"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
