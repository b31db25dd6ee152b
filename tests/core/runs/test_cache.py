"""What one process has made others find, wait for, or make again if it was damaged; the least recently used makes room."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import core.runs.cache
from core.disk import MARKER, is_complete
from core.runs.cache import Cache, name_of


def cache_in(home: Path, said: list[str] | None = None, max_gb: float = 1.0) -> Cache:
    return Cache(home=home, max_gb=max_gb, setting="data.cache", say=(said if said is not None else []).append)


def writing(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "text").write_text(text)

    return write


def read(folder: Path) -> str:
    return (folder / "text").read_text()


def opened(cache: Cache, name: str, text: str) -> str:
    return cache.open(name, writing(text), read, what="the texts")


def test_a_folder_is_made_once_and_found_afterwards(tmp_path: Path) -> None:
    assert opened(cache_in(tmp_path / "home"), "texts-1", "plum") == "plum"
    assert opened(cache_in(tmp_path / "home"), "texts-1", "lamp") == "plum"
    assert opened(cache_in(tmp_path / "home"), "texts-2", "lamp") == "lamp"


def test_a_name_depends_on_all_that_decides_the_content() -> None:
    names = {name_of("texts", identity) for identity in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": 1})}
    assert len(names) == 4
    assert name_of("texts", {"a": 1, "b": 2}) == name_of("texts", {"b": 2, "a": 1})


def test_one_makes_it_while_the_other_waits_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.runs.cache, "_PATIENCE_S", 0.0)
    begun, may_end = threading.Event(), threading.Event()
    said: list[str] = []
    found: list[str] = []

    def slow(folder: Path) -> None:
        begun.set()
        assert may_end.wait(20)
        writing("plum")(folder)

    def say(line: str) -> None:
        said.append(line)
        may_end.set()

    first = threading.Thread(target=lambda: found.append(cache_in(tmp_path).open("texts-1", slow, read, what="the texts")))
    first.start()
    assert begun.wait(20)
    waiting = Cache(home=tmp_path, max_gb=1.0, setting="data.cache", say=say)
    assert opened(waiting, "texts-1", "lamp") == "plum"
    first.join(20)
    assert found == ["plum"]
    assert said == [f"waiting for the texts, which pid {os.getpid()} on {os.uname().nodename} is making"]


def test_what_was_damaged_is_made_again_and_told(tmp_path: Path) -> None:
    said: list[str] = []
    opened(cache_in(tmp_path), "texts-1", "plum")
    (tmp_path / "texts-1" / "text").write_text("PLUM")
    assert opened(cache_in(tmp_path, said), "texts-1", "plum") == "plum"
    (line,) = said
    assert line == f"the texts in {tmp_path / 'texts-1'} are damaged (the content of text has changed) and are made again"


def test_a_builder_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "text").write_text("half")
        raise ValueError("row 3")

    with pytest.raises(ValueError, match="row 3"):
        cache_in(tmp_path).open("texts-1", fail, read, what="the texts")
    assert [path.name for path in tmp_path.iterdir()] == ["texts-1.lock"]
    assert opened(cache_in(tmp_path), "texts-1", "plum") == "plum"


def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    for number in range(3):
        opened(cache_in(tmp_path), f"texts-{number}", "x" * 1000)
        os.utime(tmp_path / f"texts-{number}" / MARKER, (number, number))
    opened(cache_in(tmp_path), "texts-0", "")  # used again, so 1 is the oldest
    said: list[str] = []
    opened(cache_in(tmp_path, said, max_gb=4e-6), "texts-3", "x" * 1000)  # each has 1000 bytes and a marker of some 100
    assert [number for number in range(4) if is_complete(tmp_path / f"texts-{number}")] == [0, 2, 3]
    assert said == [f"removed 1 folder(s) of {tmp_path} that were not used for longest (0 MB), to stay within data.cache_gb=4e-06"]


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path) -> None:
    for name, age in (("old", 25 * 3600), ("new", 23 * 3600)):
        (tmp_path / f".tmp-{name}-host-1").mkdir(parents=True)
        os.utime(tmp_path / f".tmp-{name}-host-1", (time.time(), time.time() - age))
    opened(cache_in(tmp_path), "texts-1", "plum")
    assert [path.name for path in tmp_path.glob(".tmp-*")] == [".tmp-new-host-1"]


@pytest.mark.parametrize("place", ["file", "file/under"])
def test_where_nothing_can_be_kept_it_is_made_for_this_process_alone(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    assert opened(cache_in(tmp_path / place, said), "texts-1", "plum") == "plum"
    (line,) = said
    assert line.startswith(f"the texts cannot be kept in {tmp_path / place} (")
    assert line.endswith(") and will be made again by every run; set data.cache")


def test_a_large_folder_is_worth_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.runs.cache, "LARGE", 1000)
    said: list[str] = []
    opened(cache_in(tmp_path, said), "texts-1", "x" * 2_000_000)
    assert said == [f"the texts are kept in {tmp_path / 'texts-1'} (2 MB) for other runs; data.cache names another place"]
    opened(cache_in(tmp_path, said), "texts-1", "")
    assert len(said) == 1
