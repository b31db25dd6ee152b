"""Which checkpoints of a run keep their weights; the metrics of all of them stay in `evals/` and in the log."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.disk import remove
from core.runs.checkpoints import STATE, complete_steps, saved_steps, step_folder

KEPT = ("best", "last")
"""The value of `keep` where it is not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """Which weights stay: all of them, or the newest so many, and with `best` those of the best checkpoint.

    >>> Keep.of(["best", "last"]), Keep.of("all").everything
    (Keep(everything=False, newest=1, best=True), True)
    """

    everything: bool
    newest: int
    best: bool

    @classmethod
    def of(cls, value: object) -> "Keep":
        """What a user writes: `all`, `[best,last]`, `last`, or the number of the newest ones, to which the best one is added.

        Raises `ValueError` for anything else: the last checkpoint is always kept, since runs go on from it and others read it.
        """
        words = [value] if isinstance(value, str) else value
        if value == "all":
            return cls(everything=True, newest=0, best=True)
        if isinstance(words, list) and "last" in words and not {*map(str, words)} - {"best", "last"}:
            return cls(everything=False, newest=1, best="best" in words)
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(number, int) and not isinstance(number, bool) and number > 0:
            return cls(everything=False, newest=number, best=True)
        raise ValueError(f"keep={value} is unknown; choose all, [best,last], last, or how many of the newest to keep, such as 3.")


def prune(run_dir: Path, keep: Keep, *, measured: Iterable[int], best: int | None) -> None:
    """Removes the checkpoints that `keep` does not ask for, of those whose hooks have run, the steps `measured`.

    What can be resumed from stays, and so does what hooks have yet to read. `best` is the best step so far.
    """
    if keep.everything:
        return
    newest = saved_steps(run_dir)[-keep.newest :]
    for step in set(measured) & set(complete_steps(run_dir)):
        folder = step_folder(run_dir, step)
        if step in newest or (keep.best and step == best) or (folder / STATE).is_dir():
            continue
        aside = folder.with_name(f".tmp-old-{folder.name}")  # so that a partly removed one cannot be mistaken for a complete one
        folder.rename(aside)
        remove(aside)
    link = run_dir / "best"
    if link.is_symlink() and not link.exists():  # the best is not kept
        link.unlink()


def kept(run_dir: Path, value: Any) -> dict[str, Any]:
    """What a record says of it: the setting, and the steps whose weights are there."""
    return {"keep": value, "weights": complete_steps(run_dir)}
