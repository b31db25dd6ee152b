"""What runs inside the sandboxes: a program that a model wrote in one, the tests of it in the other, with two pipes between them.

It is run as a script by an interpreter that sees none of this project, so it imports the standard library alone. Calls and values
cross as JSON of plain data: no object of the program ever reaches the process that decides.
"""

import builtins
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any, NoReturn

PROGRAM, TESTS = "/program.py", "/tests.py"
"""Where the two sandboxes hold the code that they run."""
READY = "ready"
"""The first line of either side, written before any code of a model's runs."""
_LINE = 1 << 23
"""Bytes of a message at most."""
_CONTAINERS: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


class ProgramError(Exception):
    """The program raised, ended, or answered with what is no plain data."""


class UnsendableError(Exception):
    """A value that is no plain data."""


def encoded(value: Any) -> Any:
    """A value as JSON that keeps the types of plain data. Raises `UnsendableError` for any other."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return {"int": hex(value)}
    if kind is float:
        return {"float": repr(value)}
    if kind is complex:
        return {"complex": [repr(value.real), repr(value.imag)]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind is list:
        return [encoded(item) for item in value]
    if kind.__name__ in _CONTAINERS and kind is _CONTAINERS[kind.__name__]:
        return {kind.__name__: [encoded(item) for item in value]}
    if isinstance(value, dict):  # a Counter or the like is equal to such a dict
        return {"dict": [[encoded(key), encoded(item)] for key, item in value.items()]}
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():
        return encoded(value.item())
    raise UnsendableError(f"a {kind.__name__} is no plain data")


def decoded(value: Any) -> Any:
    """The value of `encoded`."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "int":
            return int(content, 16)
        case "float":
            return float(content)
        case "complex":
            return complex(float(content[0]), float(content[1]))
        case "bytes":
            return bytes.fromhex(content)
        case "bytearray":
            return bytearray.fromhex(content)
        case "dict":
            return {decoded(key): decoded(item) for key, item in content}
        case _:
            return _CONTAINERS[kind](decoded(item) for item in content)


def limit(cpu_s: int, memory: int, file_size: int) -> None:
    """Limits on this process that it cannot lift again."""
    for what, most in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 16),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def serve() -> None:
    """Runs the program, then calls its functions as asked for. What the program prints goes nowhere."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    _send(answers, READY)
    names: dict[str, Any] = {"__name__": "program"}
    failure = ""
    try:
        with open(PROGRAM, encoding="utf-8") as file:
            exec(compile(file.read(), PROGRAM, "exec"), names)
    except BaseException as error:  # whatever a model wrote
        failure = _told(error)
    while line := asked.readline():
        name, arguments, keywords = decoded(json.loads(line))
        if failure:
            _send(answers, {"raised": failure})
            continue
        try:
            answer = {"returned": encoded(names[name](*arguments, **keywords))}
        except KeyError as error:
            answer = {"raised": f"it defines no {name}" if error.args == (name,) else _told(error), "kind": "KeyError"}
        except BaseException as error:  # whatever a model wrote
            answer = {"raised": _told(error), "kind": type(error).__name__}
        _send(answers, answer)


def grade(entry_point: str, verdicts: int) -> None:
    """Runs the tests against the program in the other sandbox, and writes to the file descriptor `verdicts` how they ended."""
    asking, answers = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)  # what tests print is no call
    verdict = os.fdopen(verdicts, "w", encoding="utf-8")
    ready = answers.readline(_LINE)
    if ready != f'"{READY}"\n'.encode():
        _end(verdict, {"broken": "the sandbox of the program did not start"})
    print(json.dumps(READY), file=verdict, flush=True)

    def program(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            try:
                request = encoded([name, list(arguments), keywords])
            except UnsendableError as error:
                _end(verdict, {"broken": f"the tests pass an argument that cannot be sent: {error}"})
            return _asked(asking, answers, request)

        return call

    names = _Names(program)
    try:
        with open(TESTS, encoding="utf-8") as file:
            exec(compile(file.read(), TESTS, "exec"), names)
        if entry_point:
            names["check"](program(entry_point))
    except BaseException as error:  # an assertion, what the program raised, or what the tests make of its answers
        _end(verdict, {"passed": False, "why": _told(error)})
    _end(verdict, {"passed": True})


class _Names(dict[str, Any]):
    """The names of the tests; those that neither they nor Python define are the program's functions."""

    def __init__(self, program: Callable[[str], Callable[..., Any]]) -> None:
        super().__init__(__name__="tests", __builtins__=builtins)
        self._program = program

    def __missing__(self, name: str) -> Any:
        if name in vars(builtins):
            raise KeyError(name)  # Python then looks there
        return self._program(name)


def _asked(asking: Any, answers: Any, request: Any) -> Any:
    """What the program returns. Raises what it raised, where that is an exception of Python's own, else `ProgramError`."""
    try:
        _send(asking, request)
        line = answers.readline(_LINE)
        if not line.endswith(b"\n"):
            raise ProgramError("it ended" if not line else "its answer is too long")
        answer = json.loads(line)
        if "returned" in answer:
            return decoded(answer["returned"])
        raised, kind = str(answer["raised"]), answer.get("kind")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ProgramError(f"it answered with what is no plain data ({_told(error)})") from error
    known = vars(builtins).get(str(kind))
    if isinstance(known, type) and issubclass(known, Exception):  # tests may expect it
        raise known(raised)
    raise ProgramError(raised)


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except BaseException:  # an exception of a model's that cannot even be shown
        return "an exception"


def _send(stream: Any, value: Any) -> None:
    stream.write(json.dumps(value).encode() + b"\n")
    stream.flush()


def _end(verdict: Any, found: dict[str, Any]) -> NoReturn:
    print(json.dumps(found), file=verdict, flush=True)
    os._exit(0)


if __name__ == "__main__":
    role, limits, entry, channel = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    limit(**limits)
    sys.argv = [sys.argv[0]]
    os.chdir("/tmp")
    if role == "program":
        serve()
    else:
        grade(entry, channel)
