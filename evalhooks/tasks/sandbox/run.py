"""Runs the tests of a program that a model wrote, in two sandboxes: what the program does cannot change how they end.

The program has one sandbox and its tests another. They exchange calls and plain values over two pipes, and the verdict leaves the
tests' sandbox by a third, of which the program's knows nothing: there is nothing in the program's reach that could be forged.
"""

import json
import os
import select
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

from core.functions import SkippedError
from evalhooks.tasks.sandbox.bubblewrap import MAY_NOT, Limits, sandboxed
from evalhooks.tasks.sandbox.inside import PROGRAM, READY, TESTS
from evalhooks.tasks.sandbox.seccomp import filter_program

_MOST_TOLD = 2000
"""Characters of what a sandbox says that are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """Whether a program passed its tests, and if not, why.

    >>> Tested(passed=False, why="AssertionError: ").passed
    False
    """

    passed: bool
    why: str = ""


def run_tests(program: str, tests: str, *, entry_point: str = "", limits: Limits | None = None) -> Tested:
    """Runs `tests`, which call the program's functions; with `entry_point` also `check(entry_point)`, as HumanEval's tests are written.

    A name that `tests` use and define nowhere is one of the program's functions. Arguments and results are plain data: numbers, text,
    bytes, None, and lists, tuples, sets and dicts of them. Raises `ValueError` where there is no sandbox, and `SkippedError` where the
    tests could not be run for reasons that are not the program's.
    """
    limits = limits or Limits()
    with ExitStack() as stack:
        asked, asking = _pipe(stack)
        answered, answering = _pipe(stack)
        verdicts, verdict = _pipe(stack)
        said = stack.enter_context(os.fdopen(os.memfd_create("said"), "rb"))
        sides = (("program", PROGRAM, program, (asked, answering), None), ("tests", TESTS, tests, (answered, asking), verdict))
        for role, path, code, (reading, writing), channel in sides:
            file, rules = _held(stack, code.encode(errors="replace")), _held(stack, filter_program())
            inherited = [held.fileno() for held in (file, rules, channel) if held]
            own = [role, limits.settings(), entry_point, str(channel.fileno() if channel else -1)]
            command = sandboxed(seccomp=rules.fileno(), limits=limits, files={path: file.fileno()}, arguments=own)
            process = subprocess.Popen(command, stdin=reading, stdout=writing, stderr=said, pass_fds=inherited, env={})
            stack.callback(process.wait)
            stack.callback(process.kill)
        for end in (asked, asking, answered, answering, verdict):
            end.close()  # so that either side finds the other one's end
        return _verdict(verdicts.fileno(), limits.wall_s, said.fileno())


def _verdict(verdicts: int, wall_s: float, said: int) -> Tested:
    """The verdict that the tests' sandbox writes."""
    end, text = time.monotonic() + wall_s, b""
    while (left := end - time.monotonic()) > 0 and select.select([verdicts], [], [], left)[0]:
        piece = os.read(verdicts, 1 << 16)
        if not piece:
            break
        text += piece
    lines = [json.loads(line) for line in text.decode().splitlines()]
    if not lines or lines[0] != READY:
        told = lines[0]["broken"] if lines else "the sandbox of the tests did not start"
        raise SkippedError(f"{told}: {_read(said) or f'nothing came within {wall_s:g} s'}")
    if len(lines) == 1:
        return Tested(passed=False, why=f"no result within {wall_s:g} s, or within the limits on computing and memory")
    if "broken" in lines[1]:
        raise SkippedError(lines[1]["broken"])
    return Tested(passed=lines[1]["passed"], why=lines[1].get("why", ""))


def _read(said: int) -> str:
    return os.pread(said, _MOST_TOLD, 0).decode(errors="replace").strip()


def _held(stack: ExitStack, content: bytes) -> BinaryIO:
    """A file in memory with this content, at its beginning."""
    file = stack.enter_context(os.fdopen(os.memfd_create("held"), "w+b"))
    file.write(content)
    file.seek(0)
    return file


def _pipe(stack: ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """The two ends of a pipe, for reading and for writing."""
    reading, writing = os.pipe()
    return stack.enter_context(os.fdopen(reading, "rb", buffering=0)), stack.enter_context(os.fdopen(writing, "wb", buffering=0))


@cache
def require_sandbox() -> None:
    """Raises `ValueError` with the remedy where code cannot be run in a sandbox here."""
    try:
        found = run_tests("def double(n):\n    return 2 * n\n", "assert double(2) == 4\n")
    except SkippedError as error:
        raise ValueError(f"bubblewrap is here and cannot make a sandbox ({error}); {MAY_NOT}") from error
    assert found.passed, found.why
