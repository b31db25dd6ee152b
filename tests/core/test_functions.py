"""A function is found by module:function, in installed packages and in the current folder, or it is said what is wrong."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.functions import load_function

LOADS = "import sys; from core.functions import load_function; print(load_function(sys.argv[1], 'the reward')())"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty; what a test adds to the module search path is gone after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
    return tmp_path


def test_a_function_of_an_installed_module_is_found() -> None:
    assert load_function("math:sqrt", "the reward") is math.sqrt
    assert load_function("os.path:join", "the reward") is os.path.join


def test_the_current_folder_is_looked_in_also_where_a_console_script_started_python(tmp_path: Path) -> None:
    # Started from a script, Python has the script's folder on its path and not the current one.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "script.py").write_text(LOADS)
    (tmp_path / "work" / "rewards").mkdir(parents=True)
    (tmp_path / "work" / "neighbour.py").write_text("VALUE = 7\n")
    # The neighbour is imported when the function runs, not when its module is loaded.
    (tmp_path / "work" / "rewards" / "short.py").write_text("def brevity():\n    import neighbour\n    return neighbour.VALUE\n")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "bin" / "script.py"), "rewards.short:brevity"],
        cwd=tmp_path / "work", env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "7\n"


def test_the_current_folder_hides_no_installed_package(here: Path) -> None:
    (here / "colorsys.py").write_text("def rgb_to_hls():\n    return 'mine'\n")
    sys.modules.pop("colorsys", None)
    assert load_function("colorsys:rgb_to_hls", "the reward")(0.0, 0.0, 0.0) == (0.0, 0.0, 0.0)
    load_function("math:sqrt", "the reward")
    assert sys.path.count(str(here)) == 1


@pytest.mark.parametrize("name", ["", "brevity", "rewards.brevity", "rewards:", ":brevity", "rewards.py:brevity()", "a:b:c", "my-file:f"])
def test_another_form_than_module_function_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^the reward '.*' must read module:function, as in my_package\.rewards:brevity"):
        load_function(name, "the reward")


def test_a_module_that_does_not_exist_is_refused_with_where_it_was_looked_for(here: Path) -> None:
    with pytest.raises(ValueError, match=rf"the reward absent_rewards:f: the module absent_rewards cannot .* current folder, {here}"):
        load_function("absent_rewards:f", "the reward")


def test_a_module_that_lacks_one_of_its_own_is_refused_with_that_name(here: Path) -> None:
    (here / "needy_rewards.py").write_text("import absent_library\n")
    with pytest.raises(ValueError, match=r"the module needy_rewards cannot be imported .*'absent_library'"):
        load_function("needy_rewards:f", "the reward")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(:\n", "SyntaxError: "),
        ("raise KeyError('key')\n", "KeyError: 'key'"),
        ("raise SystemExit(0)\n", "SystemExit: 0"),  # which would end the command with the code of success
    ],
)
def test_a_module_that_fails_as_it_is_imported_is_refused_by_its_name(here: Path, code: str, said: str) -> None:
    (here / "failing_rewards.py").write_text(code)
    with pytest.raises(ValueError, match=r"the reward failing_rewards:f: the module failing_rewards cannot be imported") as error:
        load_function("failing_rewards:f", "the reward")
    assert said in str(error.value)


def test_a_name_that_the_module_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="the reward math:square: module 'math' has no attribute 'square'; check the spelling"):
        load_function("math:square", "the reward")


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ValueError, match="the reward math:pi: pi is a float, which is not callable; name a function"):
        load_function("math:pi", "the reward")
