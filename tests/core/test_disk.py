"""A folder is whole or visibly torn, and a JSON file is never half written, however the writer ends."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from core.disk import atomic_folder, is_complete, jsonable, mark_complete, write_json

WRITES_HALF_THEN_IS_KILLED = """
import os, signal, sys
from pathlib import Path
from core.disk import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "weights.bin").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def leftovers(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".tmp-")]


def test_a_folder_appears_complete_with_all_its_files(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "pools" / "a") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights.bin").write_bytes(b"whole")
        assert not (tmp_path / "pools" / "a").exists()
    assert is_complete(tmp_path / "pools" / "a")
    assert (tmp_path / "pools" / "a" / "deep" / "weights.bin").read_bytes() == b"whole"
    assert leftovers(tmp_path / "pools") == []


def test_an_error_in_the_block_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "weights.bin").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_a_torn_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "torn.bin").write_bytes(b"half")
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "weights.bin").write_bytes(b"whole")
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["COMPLETE", "weights.bin"]


def test_a_complete_folder_is_not_written_again(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a"):
        pass
    with pytest.raises(FileExistsError, match="already complete"), atomic_folder(tmp_path / "a"):
        pass


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "who").write_text("second")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "who").write_text("first")
        mark_complete(tmp_path / "a")
    assert (tmp_path / "a" / "who").read_text() == "first"
    assert leftovers(tmp_path) == []


def test_a_writer_killed_in_the_middle_shows_no_folder_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "a"
    killed = subprocess.run([sys.executable, "-c", WRITES_HALF_THEN_IS_KILLED, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(leftovers(tmp_path)) == 1
    with atomic_folder(target) as folder:
        assert leftovers(tmp_path) == [folder.name]
        (folder / "weights.bin").write_bytes(b"whole")
    assert is_complete(target)


def test_the_temporary_folder_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as folder:
        others = folder.with_name(folder.name.replace(f"-{os.getpid()}", f"-{os.getppid()}"))
    others.mkdir()
    (tmp_path / "a" / "COMPLETE").unlink()
    with atomic_folder(tmp_path / "a"):
        pass
    assert others.is_dir()


def test_json_is_replaced_in_one_step_and_holds_non_finite_numbers_as_text(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "record.json", {"kl": float("nan"), "best": [float("inf"), float("-inf"), 0.5]})
    text = (tmp_path / "new" / "record.json").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(text, parse_constant=refuse) == {"kl": "NaN", "best": ["Infinity", "-Infinity", 0.5]}
    assert leftovers(tmp_path / "new") == []


def test_a_value_that_is_no_data_leaves_the_old_json_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError, match="Cannot write a object"):
        write_json(tmp_path / "a.json", {"x": object()})
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert leftovers(tmp_path) == []


def test_dataclasses_enums_paths_and_tuples_become_plain_data() -> None:
    class Color(StrEnum):
        red = "red"

    @dataclass
    class Paint:
        color: Color
        where: Path
        layers: tuple[int, ...]

    data = jsonable({Color.red: Paint(color=Color.red, where=Path("a") / "b", layers=(1, 2))})
    assert data == {"red": {"color": "red", "where": "a/b", "layers": [1, 2]}}
    color = jsonable(Color.red)
    assert (color, type(color)) == ("red", str)
