"""Saving for resumption: checkpoints, of which the newest two also hold the engine's state."""

import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from core.disk import atomic_folder, is_complete
from core.runs.checkpoints import complete_steps, saved_steps, step_folder, torn_line

if TYPE_CHECKING:  # imports torch, which `forget_states` does not need
    from core.engines.engine import Engine
    from core.process.world import World

STATE = "state"


def save_step(world: "World", engine: "Engine", run_dir: Path, step: int, *, planned: Iterable[int], write: Callable[[Path], None]) -> Path:
    """Writes `checkpoints/step-NNNNNN/`: what `write` puts there, on the main process, and the engine's state under `state/`.

    All processes must call it. Of the earlier checkpoints, only the newest keeps its state, in case the new one gets lost;
    older ones whose steps are not `planned` are removed altogether.
    """
    target = step_folder(run_dir, step)
    if world.is_main:
        if target.exists():  # torn, or its state is missing, so that the run resumed from an earlier one
            shutil.rmtree(target)
        older = [earlier for earlier in resumable_steps(run_dir) if earlier < step][:-1]
        _forget(run_dir, older, set(planned))
    with atomic_folder(target) if world.is_main else nullcontext(Path()) as own:
        folder = Path(world.from_main(lambda: str(own)))
        if world.is_main:
            write(folder)
            (folder / STATE).mkdir()
        world.barrier()
        engine.save(folder / STATE)
        world.barrier()
    world.barrier()
    return target


def newest_step(world: "World", run_dir: Path, say: Callable[[str], None]) -> int:
    """The newest step to resume from, 0 if there is none; reports torn checkpoints to `say`. Removes leftovers of killed saves."""

    def newest() -> int:
        # This process holds the run's lock, so nobody is still writing or removing what lies here unfinished.
        for leftover in (run_dir / "checkpoints").glob(".tmp-*"):
            shutil.rmtree(leftover)
        steps = resumable_steps(run_dir)
        for torn in saved_steps(run_dir):
            if torn > (steps[-1] if steps else 0) and not is_complete(step_folder(run_dir, torn)):
                say(torn_line(step_folder(run_dir, torn)))
        if steps:
            say(f"resuming {run_dir.name} from {step_folder(run_dir, steps[-1]).name}")
        return steps[-1] if steps else 0

    return world.from_main(newest)


def forget_states(run_dir: Path, *, keep: Iterable[int] = (), planned: Iterable[int] | None = None) -> None:
    """Removes what only resuming needs from a finished run, except at the steps in `keep`.

    With `planned`, checkpoints at other steps are removed altogether.
    """
    steps = [step for step in resumable_steps(run_dir) if step not in set(keep)]
    _forget(run_dir, steps, set(steps if planned is None else planned))


def resumable_steps(run_dir: Path) -> list[int]:
    """The steps of complete checkpoints that still have their training state, ascending."""
    return [step for step in complete_steps(run_dir) if (step_folder(run_dir, step) / STATE).is_dir()]


def _forget(run_dir: Path, steps: Iterable[int], planned: set[int]) -> None:
    """Removes the training state of checkpoints, and unplanned checkpoints altogether."""
    for step in steps:
        folder = step_folder(run_dir, step)
        doomed = folder / STATE if step in planned else folder
        # Renamed first, so that a partly removed state cannot be mistaken for a complete one.
        aside = folder.parent / f".tmp-old-{folder.name}"
        doomed.rename(aside)
        shutil.rmtree(aside)
