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
import xxhash

from core.disk import (
    MARKER,
    BrokenFileError,
    atomic_folder,
    damage,
    is_complete,
    jsonable,
    mark_complete,
    read_json,
    read_lines,
    remove,
    require_undamaged,
    write_json,
)

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete folder of two files."""
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "state").mkdir()
        (folder / "state" / "state.pt").write_bytes(b"123456789")
        (folder / "config.json").write_text("{}")
    return tmp_path / "a"


def test_a_complete_folder_knows_its_files_and_is_whole_whatever_was_added(folder: Path) -> None:
    assert damage(folder) is None
    (folder / "notes.txt").write_text("mine")
    require_undamaged(folder, "it")
    listed = json.loads((folder / MARKER).read_text())["files"]
    assert {name: file["size"] for name, file in listed.items()} == {"state/state.pt": 9, "config.json": 2}
    assert listed["state/state.pt"]["xxh3_128"] == xxhash.xxh3_128_hexdigest(b"123456789")


def test_a_file_that_was_cut_altered_or_lost_is_named(folder: Path) -> None:
    file = folder / "state" / "state.pt"
    file.write_bytes(b"123")
    assert damage(folder) == damage(folder, hashes=False) == "state/state.pt has 3 bytes instead of 9"
    file.write_bytes(b"123456788")  # the last bit
    assert damage(folder) == "the content of state/state.pt has changed"
    assert damage(folder, hashes=False) is None
    file.unlink()
    assert damage(folder) == "state/state.pt is missing"
    assert damage(folder, without=["state"]) is None
    with pytest.raises(BrokenFileError, match=rf"^reward\.path=a is damaged: state/state\.pt is missing\. .* empty {folder}/COMPLETE\.$"):
        require_undamaged(folder, "reward.path=a")


def test_nothing_is_known_of_a_folder_whose_marker_is_empty_as_those_of_earlier_versions_are(folder: Path) -> None:
    (folder / MARKER).write_text("")
    (folder / "config.json").unlink()
    assert damage(folder) is None


@pytest.mark.parametrize("marker", ["half", "[]", "{}", '{"files": [1]}', '{"files": {"config.json": 2}}'])
def test_a_marker_that_cannot_be_read_is_damage(folder: Path, marker: str) -> None:
    (folder / MARKER).write_text(marker)
    assert (damage(folder) or "").startswith((f"{folder / MARKER} ", "COMPLETE does not list the files"))


def test_removing_takes_a_link_and_not_what_it_leads_to(folder: Path, tmp_path: Path) -> None:
    for name, target in (("link", folder), ("dangling", tmp_path / "nowhere")):
        (tmp_path / name).symlink_to(target)
        remove(tmp_path / name)
    assert damage(folder) is None
    remove(folder / "config.json")
    remove(folder)
    remove(folder)  # it is gone already
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty; say it again."),
        (b" \n", "is empty"),
        (b'{"a": 1', r"is no JSON \(.* line 1 column 8"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b"[1]", "holds no JSON object but a list"),
        (b"7", "holds no JSON object but a number"),
        (b'{"a": ' + b"[" * 100_000, "is no JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is no JSON"),
    ],
)
def test_a_file_that_is_no_json_object_is_named_with_what_to_do(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "record.json"
    file.write_bytes(content)
    with pytest.raises(BrokenFileError, match=rf"^{file} {why}") as raised:
        read_json(file, remedy="say it again")
    assert str(raised.value).endswith("; say it again.")


def test_lines_end_at_line_feeds_alone_and_one_that_was_not_finished_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"a": "\u2028"}\n\n{"b": 1}\n{"c"')
    assert list(read_lines(tmp_path / "a")) == [(1, '{"a": "\u2028"}'), (3, '{"b": 1}')]
    (tmp_path / "a").write_text("")
    assert list(read_lines(tmp_path / "a")) == []


def test_json_is_replaced_in_one_step_and_holds_non_finite_numbers_as_text(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "record.json", {"kl": float("nan"), "best": [float("inf"), float("-inf"), 0.5]})
    text = (tmp_path / "new" / "record.json").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

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
