"""What training leaves on disk to go on from: the newest checkpoint with its state, one to spare, and nothing half written."""

from pathlib import Path

import pytest
import torch

from core.config import EngineKind
from core.disk import MARKER, is_complete
from core.engines.engine import Engine
from core.engines.resume import STATE, forget_states, make_way, newest_step, resumable_steps
from core.process.world import World
from core.runs.checkpoints import complete_steps, step_folder
from tests.core.spread import INPUTS, fill_disk, opened, save_step, update, weights_of, write_model

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def engine() -> Engine:
    return opened(EngineKind.single, ALONE)


def save(engine: Engine, run_dir: Path, *steps: int, planned: tuple[int, ...] = (2, 4, 6)) -> None:
    for step in steps:
        save_step(ALONE, engine, run_dir, step, planned=planned, write=write_model)


def found(run_dir: Path) -> tuple[int, list[str]]:
    """The newest step, and what is said about it."""
    said: list[str] = []
    return newest_step(ALONE, run_dir, said.append), said


def test_a_saved_step_holds_the_model_and_the_state_of_the_engine(engine: Engine, tmp_path: Path) -> None:
    folder = save_step(ALONE, engine, tmp_path, 2, planned=[2], write=write_model)
    assert folder == step_folder(tmp_path, 2)
    assert is_complete(folder)
    assert (folder / "model.txt").read_text() == "whole"
    saved = weights_of(engine)
    update(engine, [*INPUTS])
    assert weights_of(engine) != saved
    engine.load(folder / STATE)
    assert weights_of(engine) == saved


def test_of_the_earlier_checkpoints_the_newest_keeps_its_state(engine: Engine, tmp_path: Path) -> None:
    save(engine, tmp_path, 2, 4)
    assert resumable_steps(tmp_path) == [2, 4]
    save(engine, tmp_path, 6)
    assert complete_steps(tmp_path) == [2, 4, 6]
    assert resumable_steps(tmp_path) == [4, 6]


def test_what_was_saved_between_the_planned_steps_goes_as_a_whole(engine: Engine, tmp_path: Path) -> None:
    save(engine, tmp_path, 2, 3)
    assert complete_steps(tmp_path) == [2, 3]
    save(engine, tmp_path, 4)  # 3 is the spare one; 2 is planned, so its model stays
    assert (complete_steps(tmp_path), resumable_steps(tmp_path)) == ([2, 3, 4], [3, 4])
    save(engine, tmp_path, 5)
    assert (complete_steps(tmp_path), resumable_steps(tmp_path)) == ([2, 4, 5], [4, 5])


def test_a_step_that_is_saved_again_takes_the_place_of_the_torn_one(engine: Engine, tmp_path: Path) -> None:
    save(engine, tmp_path, 2)
    (step_folder(tmp_path, 2) / MARKER).unlink()
    (step_folder(tmp_path, 2) / "leftover").touch()
    save(engine, tmp_path, 2)
    assert complete_steps(tmp_path) == [2]
    assert not (step_folder(tmp_path, 2) / "leftover").exists()


def test_a_save_that_fails_leaves_no_checkpoint(engine: Engine, tmp_path: Path) -> None:
    save(engine, tmp_path, 2)
    with pytest.raises(OSError, match="disk full"):
        save_step(ALONE, engine, tmp_path, 4, planned=[2, 4], write=fill_disk)
    assert complete_steps(tmp_path) == [2]
    assert found(tmp_path)[0] == 2


def test_a_run_without_checkpoints_begins_at_0_and_says_nothing(tmp_path: Path) -> None:
    assert found(tmp_path) == (0, [])


def test_the_newest_whole_step_is_gone_on_from_and_torn_ones_after_it_are_told(engine: Engine, tmp_path: Path) -> None:
    save(engine, tmp_path, 2, 4, 6)
    assert found(tmp_path) == (6, [f"resuming {tmp_path.name} from step-000006"])
    (step_folder(tmp_path, 6) / MARKER).unlink()
    step, said = found(tmp_path)
    assert step == 4
    assert said[0].startswith(f"Skipping the torn checkpoint {step_folder(tmp_path, 6)}: it has no {MARKER} marker")
    assert said[1:] == [f"resuming {tmp_path.name} from step-000004"]
    (step_folder(tmp_path, 2) / MARKER).unlink()  # torn, but before the one that is gone on from
    assert found(tmp_path) == (4, said)


def test_a_whole_checkpoint_without_its_state_is_no_step_to_go_on_from(engine: Engine, tmp_path: Path) -> None:
    save(engine, tmp_path, 2, 4)
    forget_states(tmp_path, keep=[2])
    assert (complete_steps(tmp_path), resumable_steps(tmp_path)) == ([2, 4], [2])
    assert found(tmp_path) == (2, [f"resuming {tmp_path.name} from step-000002"])


def test_what_killed_processes_left_half_written_or_half_removed_is_cleared_away(engine: Engine, tmp_path: Path) -> None:
    save(engine, tmp_path, 2)
    for name in (".tmp-step-000004-elsewhere-1", ".tmp-old-step-000001"):
        (tmp_path / "checkpoints" / name / STATE).mkdir(parents=True)
    assert found(tmp_path)[0] == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]


def test_a_finished_run_forgets_its_states_and_what_was_not_planned(engine: Engine, tmp_path: Path) -> None:
    save(engine, tmp_path, 2, 4, 5)
    forget_states(tmp_path, planned=[2, 4])
    assert (complete_steps(tmp_path), resumable_steps(tmp_path)) == ([2, 4], [])


@pytest.mark.parametrize("file", ["state/state.pt", "state/engine.json", "model.txt"])
@pytest.mark.parametrize("how", ["a flipped bit", "a cut", "a loss"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(engine: Engine, tmp_path: Path, file: str, how: str) -> None:
    save(engine, tmp_path, 2, 4, 5)
    damaged = step_folder(tmp_path, 5) / file
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content if how == "a flipped bit" else content[:-1])
    if how == "a loss":
        damaged.unlink()
    step, said = found(tmp_path)
    assert step == 4
    told = {"a flipped bit": f"the content of {file} has changed", "a cut": f"{file} has ", "a loss": f"{file} is missing"}[how]
    assert said[0].startswith(f"Skipping the damaged checkpoint {step_folder(tmp_path, 5)}: {told}")
    assert said[1:] == [f"resuming {tmp_path.name} from step-000004"]
    # It is not taken for the one to spare, and goes when the run ends.
    save(engine, tmp_path, 6)
    assert resumable_steps(tmp_path) == [4, 6]
    forget_states(tmp_path, keep=[6], planned=[2, 4, 6])
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-000002", "step-000004", "step-000006"]


def test_training_starts_over_with_a_line_if_no_checkpoint_is_left(engine: Engine, tmp_path: Path) -> None:
    save(engine, tmp_path, 2)
    (step_folder(tmp_path, 2) / STATE / "state.pt").write_bytes(b"")
    step, said = found(tmp_path)
    assert (step, len(said)) == (0, 2)
    assert said[1] == f"{tmp_path.name} has no checkpoint to resume from, so training starts over"


def test_a_checkpoint_of_an_earlier_version_whose_marker_lists_nothing_is_resumed_from(engine: Engine, tmp_path: Path) -> None:
    save(engine, tmp_path, 2)
    (step_folder(tmp_path, 2) / MARKER).write_text("")
    assert found(tmp_path)[0] == 2


def test_the_last_checkpoint_of_a_run_that_had_ended_needs_no_state(engine: Engine, tmp_path: Path) -> None:
    save(engine, tmp_path, 2, 4)
    forget_states(tmp_path)
    assert found(tmp_path)[0] == 0
    assert newest_step(ALONE, tmp_path, lambda _: None, ended_at=4) == 4


def test_checkpoints_that_are_links_to_another_place_stop_nothing_and_lose_nothing_there(engine: Engine, tmp_path: Path) -> None:
    run_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    save(engine, run_dir, 2, 3)
    for step in (2, 3):
        step_folder(run_dir, step).rename(elsewhere / f"{step}")
        step_folder(run_dir, step).symlink_to(elsewhere / f"{step}")
    step_folder(run_dir, 9).symlink_to(tmp_path / "nowhere")
    (run_dir / "checkpoints" / ".tmp-latest").symlink_to(elsewhere)
    (run_dir / "checkpoints" / "latest").symlink_to(elsewhere / "3")
    assert found(run_dir)[0] == 3
    save(engine, run_dir, 4, 5)  # 2 is planned and loses its state; 3 is not, and goes
    assert (complete_steps(run_dir), resumable_steps(run_dir)) == ([2, 4, 5], [4, 5])
    assert is_complete(elsewhere / "3")
    assert not (elsewhere / "2" / STATE).exists()
    make_way(run_dir, 9, planned=[])
    assert not step_folder(run_dir, 9).is_symlink()
