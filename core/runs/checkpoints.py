"""Checkpoints of a run: `checkpoints/step-NNNNNN/`, and `best`, a link to one of them. `core.disk` makes torn ones recognisable."""

import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from core.disk import MARKER, is_complete

STATE = "state"
"""The subfolder of a checkpoint that holds what only resuming needs."""
STEP_FOLDER = re.compile(r"step-(\d{6,})")
"""The name of a checkpoint's folder, and of the files that belong to it."""


def step_folder(run_dir: Path, step: int) -> Path:
    """The folder of the checkpoint at `step` of a run.

    >>> step_folder(Path("runs/demo/rm-a"), 123).as_posix()
    'runs/demo/rm-a/checkpoints/step-000123'
    """
    if step < 0:
        raise ValueError(f"The step of a checkpoint is {step}; steps start at 0.")
    return run_dir / "checkpoints" / f"step-{step:06d}"


def checkpoint_steps(num_steps: int, *, num_checkpoints: int, every: float = 0.0, to_step: Callable[[float], int] = math.ceil) -> list[int]:
    """The steps after which a run saves a checkpoint and calls its hooks, ascending, always including the last step.

    By default `num_checkpoints` evenly spaced ones, rounded by `to_step` where they fall between two steps; with `every`, the
    multiples of that many steps, rounded up.

    >>> checkpoint_steps(10, num_checkpoints=3), checkpoint_steps(10, num_checkpoints=3, every=2.5)
    ([4, 7, 10], [3, 5, 8, 10])
    """
    if every:
        # Step s is planned if a multiple of `every` lies in (s - 1, s].
        planned = [s for s in range(1, num_steps) if math.floor(s / every + 1e-9) > math.floor((s - 1) / every + 1e-9)]
    else:
        planned = [to_step(num_steps * (i + 1) / num_checkpoints) for i in range(num_checkpoints)]
    return sorted({*planned, num_steps} - {0})


class SaveTimer:
    """Decides when to save between two checkpoints, so that a killed run loses at most `minutes` and one step."""

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._saved_at = time.monotonic()

    @property
    def overdue(self) -> bool:
        """Whether the last save was more than `minutes` ago."""
        return time.monotonic() - self._saved_at > self._seconds

    def restart(self) -> None:
        """Starts counting again, right after a save."""
        self._saved_at = time.monotonic()


def complete_steps(run_dir: Path) -> list[int]:
    """The steps of a run's complete checkpoints, ascending."""
    return [step for step in saved_steps(run_dir) if is_complete(step_folder(run_dir, step))]


def latest_complete(run_dir: Path, warn: Callable[[str], None]) -> Path | None:
    """A run's latest complete checkpoint, None if it has none; `warn` gets a line for each newer torn one."""
    for step in reversed(saved_steps(run_dir)):
        folder = step_folder(run_dir, step)
        if is_complete(folder):
            return folder
        warn(torn_line(folder))
    return None


def torn_line(folder: Path) -> str:
    """The message for a checkpoint that was not written completely."""
    return f"Skipping the torn checkpoint {folder}: it has no {MARKER} marker, so writing it was interrupted."


def point_best(run_dir: Path, step: int) -> None:
    """Points the link `best` of a run at the checkpoint of `step`, atomically.

    Raises `ValueError` if something else bears that name, which is not ours to remove.
    """
    if (run_dir / "best").exists() and not (run_dir / "best").is_symlink():
        raise ValueError(f"{run_dir / 'best'} is no link; rename it, since the link to the best checkpoint has that name.")
    link = run_dir / ".tmp-best"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("checkpoints") / step_folder(run_dir, step).name)
    os.replace(link, run_dir / "best")


def saved_steps(run_dir: Path) -> list[int]:
    """The steps of all checkpoint folders, including torn ones, ascending."""
    folders = (run_dir / "checkpoints").glob("step-*")
    return sorted(int(match[1]) for folder in folders if (match := STEP_FOLDER.fullmatch(folder.name)))
