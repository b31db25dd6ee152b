"""Functions of the user's, named in a configuration as `module:function`: how they are loaded, and what they may return."""

import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Verifier = Callable[[str, Mapping[str, Any]], float]
"""Judges a completion against its prompt's reference: correctness from 0 to 1 in a task, any finite number as a reward.

True and False count as 1 and 0; scalars of numpy and torch are taken, 0-d arrays too. None, NaN, text and infinities are refused.
"""


class SkippedError(Exception):
    """Raised by a verifier that cannot judge an answer, for reasons that are not the answer's: it is skipped rather than wrong."""


@runtime_checkable
class _Array(Protocol):
    """What scalars, arrays and tensors of numpy and torch have in common."""

    def tolist(self) -> object: ...


def load_verifier(name: str) -> Verifier:
    """The verifier named by `module:function`; raises like `load_function`."""
    return load_function(name, "the verifier")


def load_function(name: str, what: str) -> Callable[..., Any]:
    """The callable named by `module:function`; error messages begin with `what`, its purpose.

    Modules are searched for among the installed ones, then in the current folder, so that no user folder hides a package.
    The current folder stays importable, since a function may import its neighbours when it is called.

    Raises `ValueError` for a malformed name, a module that cannot be imported, a missing attribute, and one that is not
    callable.
    """
    module, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{what} {name!r} must read module:function, as in my_package.rewards:brevity.")
    if not {"", os.getcwd()} & set(sys.path):  # missing if Python was started by a console script
        sys.path.append(os.getcwd())
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{what} {name}: the module {module} cannot be imported ({error}); it was searched for among the installed packages and in the "
            f"current folder, {os.getcwd()}."
        ) from error
    except (Exception, SystemExit) as error:  # the module is not ours: it may raise anything, or end the process
        raise ValueError(
            f"{what} {name}: the module {module} cannot be imported ({type(error).__name__}: {error}); `python -c 'import {module}'` shows "
            "where it fails."
        ) from error
    try:
        found = getattr(loaded, attribute)
    except AttributeError as error:
        raise ValueError(f"{what} {name}: {error}; check the spelling.") from error
    if not callable(found):
        raise ValueError(f"{what} {name}: {attribute} is a {type(found).__name__}, which is not callable; name a function.")
    return found


def plain(value: object) -> object:
    """A scalar, array or tensor of numpy or torch as numbers and lists of Python; anything else unchanged."""
    return value.tolist() if isinstance(value, _Array) else value


def finite_number(value: object) -> float | None:
    """The value as a float if it is a finite number of any kind, else None; True and False are 1 and 0."""
    number = plain(value)
    if not isinstance(number, Real | Decimal):
        return None
    try:
        found = float(number)
    except (OverflowError, ValueError):  # an integer beyond the range of a float; a signalling NaN
        return None
    return found if math.isfinite(found) else None


@contextmanager
def named_errors(function: Callable[..., Any], name: str, doing: str) -> Generator[None]:
    """Turns whatever a user's function raises, but `SkippedError`, into a `ValueError` that says what it was doing, and in which line it
    failed."""
    try:
        yield
    except SkippedError:
        raise
    except (Exception, SystemExit) as error:  # the function is not ours: it may raise anything, or end the process
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{name}, {doing}: {kind}{error}{place_of(function, error)}") from error


def name_of(function: Callable[..., Any]) -> str:
    """`module:function`, as a configuration names it."""
    named = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def place_of(function: Callable[..., Any], error: BaseException | None = None) -> str:
    """` (file:line)` of a function, or of the place in its file where `error` was raised; empty where Python knows no file."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__) if error else []
    lines = [frame.lineno for frame in frames if frame.filename == code.co_filename]
    file = Path(code.co_filename)
    shown_file = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return f" ({shown_file}:{lines[-1] if lines else code.co_firstlineno})"
