"""Answers to MATH's problems: the final one of a text, and whether it equals the expected one by math-verify."""

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from core.functions import SkippedError

_SECONDS = 5
"""For reading an answer and comparing it."""
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
    # Without the box it would read any number of the text.
    return _COMPARER.equal(f"\\boxed{{{expected}}}", f"\\boxed{{{given}}}" if given is not None else completion)


class _Comparer:
    """The process that compares answers; started at the first question, and again after one that it did not survive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._starter = 0

    def equal(self, expected: str, given: str) -> bool:
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps({"expected": expected, "given": given, "seconds": _SECONDS}) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            except BaseException:  # an interrupt: what it answers would be taken for the answer to the next question
                self.close()
                raise
            if not answer:
                ended = self.close()
                if ended is not None and ended < 0:
                    why = f"within {_SECONDS} s" if ended == -signal.SIGALRM else f"before its process was killed by signal {-ended}"
                    raise SkippedError(f"math-verify found no verdict on {given[-80:]!r} {why}")
                raise ValueError(
                    f"the process that compares answers of MATH ended ({ended}). Its message is above; if it lacks math-verify, "
                    "pip install 'rewardloop[tasks]'."
                )
        verdict = json.loads(answer)
        if "skipped" in verdict:
            raise SkippedError(verdict["skipped"])
        return verdict["equal"]

    def _running(self) -> subprocess.Popen[str]:
        # A process forked since would share the pipes with the one that started it.
        if self._process is None or self._starter != os.getpid():
            if find_spec("math_verify") is None:
                raise ValueError("answers of MATH are compared by the package math-verify; pip install 'rewardloop[tasks]'.")
            command = [sys.executable, "-P", str(Path(__file__).with_name("math_process.py"))]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
            self._starter = os.getpid()
        return self._process

    def close(self) -> int | None:
        """Ends the process, if this one has started it; returns its exit code."""
        process, self._process = self._process, None
        if process is None or self._starter != os.getpid():
            return None
        process.kill()
        with suppress(BrokenPipeError), process:  # closes the pipes, one perhaps with a question unsent, and waits
            pass
        return process.returncode


_COMPARER = _Comparer()
atexit.register(_COMPARER.close)


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
