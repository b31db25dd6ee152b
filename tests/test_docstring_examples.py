"""The examples in docstrings hold."""

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import bon
import core
import evalhooks
import launch
import microworld
import ppo
import rewardloop
import rmtrain

PACKAGES = (core, rmtrain, ppo, bon, evalhooks, launch, microworld, rewardloop)


def modules(package: str, paths: list[str]) -> list[str]:
    """All modules of a package that are not run by being imported."""
    found = [info.name for info in pkgutil.walk_packages(paths, f"{package}.")]
    return [package, *(name for name in found if not name.endswith("__main__"))]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_examples_in_docstrings_hold(package: ModuleType) -> None:
    for name in modules(package.__name__, list(package.__path__)):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != "triton":  # which comes with torch for GPUs, and only kernels need
                raise
            continue
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
        assert result.failed == 0, f"{name}: {result.failed} of {result.attempted} examples fail, as is told above"
