"""Functions of the user's, named in a configuration as `module:function`: how they are loaded, and what they may return."""

import ast
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


_OWN = Path(__file__).parents[1]
_PACKAGES = {"bon", "core", "evalhooks", "launch", "microworld", "ppo", "rewardloop", "rmtrain"}
"""Of this library, in `_OWN`, which a user's folder may be too."""


def imported_files(module: str, file: Path) -> dict[str, Path]:
    """The files that `module`, written in `file`, imports from the folder it lies in, directly or through others, by their place there.

    Installed libraries, and this one, are known by their versions and left out.
    """
    root = file.parents[len(module.split(".")) - (file.name != "__init__.py")]
    found: dict[str, Path] = {}
    if {"site-packages", "dist-packages"} & set(root.parts) or root == Path(os.__file__).parent:
        return found
    waiting = [file]
    while waiting:
        for near in _imports(waiting.pop(), root):
            place = near.relative_to(root).as_posix()
            if near != file and place not in found and not _is_ours(near):
                found[place] = near
                waiting.append(near)
    return dict(sorted(found.items()))


def _imports(file: Path, root: Path) -> list[Path]:
    """The files below `root` that the imports of a file name, those inside its functions too."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # whoever imports it says so
        return []
    package = file.parent.relative_to(root).parts
    names: set[tuple[str, ...]] = {package}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else ()
            module = (*start, *(node.module.split(".") if node.module else ()))
            names |= {module, *((*module, alias.name) for alias in node.names)}
    parts = {name[:length] for name in names for length in range(1, len(name) + 1)}
    places = [root.joinpath(*part) for part in sorted(parts)]
    return [found for place in places for found in (place.with_suffix(".py"), place / "__init__.py") if found.is_file()]


def _is_ours(file: Path) -> bool:
    """Whether a file belongs to one of the packages of this library."""
    return file.is_relative_to(_OWN) and file.relative_to(_OWN).parts[0] in _PACKAGES


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
