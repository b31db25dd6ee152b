"""The weights that a run keeps are those that `keep` asks for, and always those that it goes on from."""

from pathlib import Path
from typing import Any

import pytest

from core.disk import atomic_folder
from core.runs.checkpoints import STATE, complete_steps, step_folder
from core.runs.retention import Keep, prune


def run_with(folder: Path, steps: range, *, with_state: tuple[int, ...] = ()) -> Path:
    for step in steps:
        with atomic_folder(step_folder(folder, step)) as checkpoint:
            (checkpoint / "model.safetensors").write_bytes(b"weights")
            if step in with_state:
                (checkpoint / STATE).mkdir()
    return folder


@pytest.mark.parametrize(
    ("keep", "left"),
    [(["best", "last"], [2, 5]), (["last"], [5]), ("last", [5]), (3, [2, 3, 4, 5]), ("2", [2, 4, 5]), ("all", [1, 2, 3, 4, 5])],
)
def test_what_is_kept_of_five_checkpoints_of_which_the_second_is_the_best(tmp_path: Path, keep: Any, left: list[int]) -> None:
    run_with(tmp_path, range(1, 6))
    prune(tmp_path, Keep.of(keep), measured=range(1, 6), best=2)
    assert complete_steps(tmp_path) == left


def test_what_can_be_resumed_from_and_what_hooks_have_yet_to_read_stays(tmp_path: Path) -> None:
    run_with(tmp_path, range(1, 6), with_state=(4, 5))
    prune(tmp_path, Keep.of(["last"]), measured=[1, 2, 4], best=None)
    assert complete_steps(tmp_path) == [3, 4, 5]


@pytest.mark.parametrize("value", [["best"], [], 0, -1, True, "none", ["best", "last", "first"], None, 1.5])
def test_anything_else_is_refused_with_what_there_is(value: Any) -> None:
    with pytest.raises(ValueError, match=r"keep=.* is unknown; choose all, \[best,last\], last, or how many"):
        Keep.of(value)
