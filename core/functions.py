"""Functions named in a configuration as `module:function`."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Verifier = Callable[[str, Mapping[str, Any]], float]
"""Judges a completion against its prompt's reference: correctness from 0 to 1 in a task, any finite number as a reward."""


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
    try:
        found = getattr(loaded, attribute)
    except AttributeError as error:
        raise ValueError(f"{what} {name}: {error}; check the spelling.") from error
    if not callable(found):
        raise ValueError(f"{what} {name}: {attribute} is a {type(found).__name__}, which is not callable; name a function.")
    return found
