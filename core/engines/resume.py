"""What resuming finds: checkpoints, of which the newest two also hold the engine's state. `core.engines.saving` writes them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from core.disk import MARKER, damage, is_complete, remove
from core.runs.checkpoints import STATE, complete_steps, saved_steps, step_folder, torn_line

if TYPE_CHECKING:  # imports torch, which `forget_states` does not need
    from core.process.world import World


def make_way(run_dir: Path, step: int, *, planned: Iterable[int]) -> None:
    """Removes what a new checkpoint at `step` replaces: a torn or damaged one there, and what older ones hold for resuming.

    The newest of the older ones keeps its state; others at steps that are not `planned` are removed altogether.
    """
    remove(step_folder(run_dir, step))
    older = [earlier for earlier in resumable_steps(run_dir) if earlier < step][:-1]
    _forget(run_dir, older, set(planned))


def newest_step(world: "World", run_dir: Path, say: Callable[[str], None], *, ended_at: int = 0) -> int:
    """The newest step to resume from, 0 if there is none; reports torn and damaged checkpoints to `say`.

    A checkpoint at `ended_at` needs no training state, since nothing is left to train. Removes what killed saves left behind. A
    damaged checkpoint loses its marker, and counts as torn from then on.
    """

    def newest() -> int:
        _clear_leftovers(run_dir)
        known = saved_steps(run_dir)
        for step in reversed(known):
            folder = step_folder(run_dir, step)
            if not is_complete(folder):
                say(torn_line(folder))
            elif found := damage(folder, without=() if (folder / STATE).is_dir() else (STATE,)):
                say(f"Skipping the damaged checkpoint {folder}: {found}.")
                (folder / MARKER).unlink()
            elif (folder / STATE).is_dir() or step == ended_at:
                say(f"resuming {run_dir.name} from {folder.name}")
                return step
        if known:
            say(f"{run_dir.name} has no checkpoint to resume from, so training starts over")
        return 0

    return world.from_main(newest)


def forget_states(run_dir: Path, *, keep: Iterable[int] = (), planned: Iterable[int] | None = None) -> None:
    """Removes what only resuming needs from a finished run, except at the steps in `keep`.

    With `planned`, checkpoints at other steps are removed altogether, torn and damaged ones too.
    """
    _clear_leftovers(run_dir)
    if planned is not None:
        planned = set(planned)
        for step in set(saved_steps(run_dir)) - planned - set(complete_steps(run_dir)):
            remove(step_folder(run_dir, step))
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
        # Renamed first, so that a partly removed state cannot be mistaken for a complete one; in place, since a checkpoint may
        # be a link to another disk.
        aside = doomed.with_name(f".tmp-old-{doomed.name}")
        doomed.rename(aside)
        remove(aside)


def _clear_leftovers(run_dir: Path) -> None:
    """Removes what killed processes left half written or half removed; this one holds the lock, so nobody is still at it."""
    for pattern in (".tmp-*", "step-*/.tmp-*"):
        for leftover in (run_dir / "checkpoints").glob(pattern):
            remove(leftover)
