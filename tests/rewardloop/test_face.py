import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import rewardloop
from rewardloop._forward import homes

ROOT = Path(__file__).parents[2]
NAMES = sorted({*rewardloop.__all__} - {"__version__"})
HOMES = homes(inspect.getsource(rewardloop))


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_the_object_of_its_home(name: str) -> None:
    home, own_name = HOMES[name]
    assert getattr(rewardloop, name) is getattr(import_module(home), own_name)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_documented_where_it_is_defined(name: str) -> None:
    home, own_name = HOMES[name]
    assert documented(ast.parse(inspect.getsource(import_module(home))), own_name), f"{home}.{own_name} has no docstring"


def documented(module: ast.Module, name: str) -> bool:
    """Whether a function, a class, or the string below an assignment says what `name` is."""
    for statement, following in zip(module.body, [*module.body[1:], ast.Pass()], strict=True):
        match statement, following:
            case (ast.FunctionDef() | ast.ClassDef()) as definition, _ if definition.name == name:
                return bool(ast.get_docstring(definition))
            case ast.Assign(targets=[ast.Name(id=found)]), ast.Expr(value=ast.Constant(value=str())) if found == name:
                return True
            case _:
                pass
    return False


def test_the_page_lists_the_names_that_the_package_declares() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert sorted(listed) == NAMES


def test_neither_the_package_nor_its_version_imports_torch() -> None:
    heavy = "[name for name in ('torch', 'transformers', 'numpy', 'hydra') if name in sys.modules]"
    code = f"import rewardloop, sys, json; rewardloop.__version__, dir(rewardloop), rewardloop.__all__; print(json.dumps({heavy}))"
    assert json.loads(run(code)) == []


def test_a_name_brings_its_own_home_and_no_other() -> None:
    code = "import rewardloop, sys; rewardloop.best_of_n; print('bon.estimators' in sys.modules, 'bon.pools' in sys.modules)"
    assert run(code) == "True False\n"


def test_a_star_import_brings_every_name() -> None:
    code = "from rewardloop import *; import json; print(json.dumps(sorted(set(globals()) & set(__import__('rewardloop').__all__))))"
    assert json.loads(run(code)) == sorted(rewardloop.__all__)


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert rewardloop.__version__ == project["version"]


def test_completion_offers_every_name_before_it_was_asked_for() -> None:
    assert {*rewardloop.__all__} <= {*dir(rewardloop)}
    assert "__doc__" in dir(rewardloop)


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match=r"^module 'rewardloop' has no attribute 'reward_bench'$"):
        rewardloop.reward_bench  # type: ignore[attr-defined]  # noqa: B018


def test_a_package_that_declares_nothing_is_told_where_to_declare() -> None:
    with pytest.raises(ValueError, match="no `if TYPE_CHECKING:` block"):
        homes("import torch")


def test_only_what_is_declared_is_forwarded() -> None:
    source = """
from somewhere import helper

if TYPE_CHECKING:
    import ppo.kl
    from bon.estimators import best_of_n as best_of_n
    estimate = ppo.kl.kl_estimate
    __version__: str
"""
    assert homes(source) == {"best_of_n": ("bon.estimators", "best_of_n"), "estimate": ("ppo.kl", "kl_estimate")}
