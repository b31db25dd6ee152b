"""Functions that a configuration names as `module:function`."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Verifier = Callable[[str, Mapping[str, Any]], float]
"""Judges a completion by the reference of its prompt: correctness from 0 to 1 in a task, any finite number as a reward."""


def load_verifier(name: str) -> Verifier:
    """The verifier behind `module:function`; raises as `load_function`."""
    return load_function(name, "the verifier")


def load_function(name: str, what: str) -> Callable[..., Any]:
    """The callable behind `module:function`; `what` it is for begins the message of every error.

    Modules are looked for among the installed ones and in the current folder, behind them, so that a folder of the user's
    hides no package. The current folder stays importable, since a function may import its neighbours when it is called.

    Raises `ValueError` for another form, a module that cannot be imported, a name that it does not have, and for what
    cannot be called.
    """
    module, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{what} {name!r} must read module:function, as in my_package.rewards:brevity.")
    if not {"", os.getcwd()} & set(sys.path):  # absent where a console script started Python
        sys.path.append(os.getcwd())
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{what} {name}: the module {module} cannot be imported ({error}); it is looked for among the installed packages and in the "
            f"current folder, {os.getcwd()}."
        ) from error
    try:
        found = getattr(loaded, attribute)
    except AttributeError as error:
        raise ValueError(f"{what} {name}: {error}; check the spelling.") from error
    if not callable(found):
        raise ValueError(f"{what} {name}: {attribute} is of type {type(found).__name__}, which cannot be called; name a function.")
    return found
