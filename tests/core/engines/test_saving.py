"""What waits for the disk happens while training goes on: whole or not there, and never lost in silence."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import core.disk
from core.config import EngineKind
from core.disk import is_complete
from core.engines.engine import Engine
from core.engines.resume import STATE
from core.engines.saving import Saver
from core.process.world import World
from core.runs.checkpoints import complete_steps, step_folder
from tests.core.spread import INPUTS, fill_disk, opened, update, weights_of, write_model

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def engine() -> Engine:
    return opened(EngineKind.single, ALONE)


@pytest.fixture
def saver(engine: Engine, tmp_path: Path) -> Saver:
    return Saver(ALONE, engine, tmp_path, planned=[2, 4, 6])


@pytest.fixture
def flush(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The disk takes nothing until this is called."""
    may_go_on, mark_complete = threading.Event(), core.disk.mark_complete

    def slow(path: Path) -> None:
        assert may_go_on.wait(20)
        mark_complete(path)

    monkeypatch.setattr(core.disk, "mark_complete", slow)
    return may_go_on.set


def test_training_goes_on_while_the_disk_is_waited_for_and_changes_nothing_that_is_saved(
    engine: Engine, saver: Saver, tmp_path: Path, flush: Callable[[], None]
) -> None:
    saved = weights_of(engine)
    folder = saver.save(2, write_model)
    assert not folder.exists()
    update(engine, [*INPUTS])
    assert weights_of(engine) != saved
    flush()
    saver.wait()
    assert is_complete(folder)
    engine.load(folder / STATE)
    assert weights_of(engine) == saved


def test_until_a_checkpoint_is_whole_the_one_before_it_is_there_with_its_state(
    saver: Saver, tmp_path: Path, flush: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as at_once:
        at_once.setattr(core.disk, "mark_complete", lambda path: (path / "COMPLETE").touch())
        for step in (2, 4):
            saver.save(step, write_model)
        saver.wait()
    saver.save(6, write_model)
    assert complete_steps(tmp_path) == [2, 4]
    assert (step_folder(tmp_path, 4) / STATE).is_dir()
    flush()
    saver.close()
    assert complete_steps(tmp_path) == [2, 4, 6]


def test_the_next_save_waits_for_the_last(saver: Saver, tmp_path: Path, flush: Callable[[], None]) -> None:
    saver.save(2, write_model)
    threading.Timer(0.2, flush).start()
    saver.save(4, write_model)
    assert is_complete(step_folder(tmp_path, 2))
    saver.wait()


@pytest.mark.parametrize("at", ["the next save", "the end"])
def test_a_disk_that_fills_up_meanwhile_is_told_once_and_leaves_no_checkpoint(
    saver: Saver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def full(path: Path) -> None:
        raise OSError("disk full")

    saver.save(2, write_model)
    saver.wait()
    with monkeypatch.context() as patched:
        patched.setattr(core.disk, "mark_complete", full)
        saver.save(4, write_model)
        with pytest.raises(OSError, match="disk full") as error:
            saver.save(6, write_model) if at == "the next save" else saver.wait()
    assert error.value.__notes__ == [f"while writing {step_folder(tmp_path, 4)}"]
    assert complete_steps(tmp_path) == [2]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]
    saver.save(6, write_model)
    saver.wait()
    assert complete_steps(tmp_path) == [2, 6]


def test_what_fails_before_is_raised_at_once(saver: Saver, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"):
        saver.save(2, fill_disk)
    saver.close()
    assert complete_steps(tmp_path) == []
