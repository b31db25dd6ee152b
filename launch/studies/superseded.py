"""PPO runs of a study that a rerun replaces, because another reward model is chosen now."""

import sys
from pathlib import Path

from core.runs.identity import clean_name
from core.runs.lock import BusyError, locked
from core.runs.record import LOCK, read_records, value_at

SUPERSEDED = "superseded"
"""The folder of a study for runs that a rerun replaced by others."""


def supersede(folder: Path, name: str, reward_run: str) -> None:
    """Leaves one PPO run of this name in a study: those against other reward models than `reward_run` go to `superseded/`.

    There are some if that reward model had failed when the study ran before. One against it comes back from there.
    """
    aside = folder / SUPERSEDED
    for run, reward in _runs_of(folder, name):
        if reward != reward_run and _moved(run, aside):
            print(f"{run} was trained against another reward model than {reward_run}, chosen now; it moved to {aside}", file=sys.stderr)
    for run, reward in _runs_of(aside, name):
        if reward == reward_run:
            _moved(run, folder)


def _runs_of(folder: Path, name: str) -> list[tuple[Path, str]]:
    """The PPO runs of this name, each with the reward model that it was trained against; without those whose record does not say it."""
    records = read_records(folder, f"ppo-{name}-*", lambda line: None)
    own = ((Path(record["dir"]), value_at(record, "lineage.reward_run"), record.get("name")) for record in records)
    return [(run, str(reward)) for run, reward, called in own if reward and called and clean_name(str(called)) == name]


def _moved(run: Path, folder: Path) -> bool:
    """Moves a run to another folder, unless one of its name is there or somebody is working on it; returns whether it did."""
    folder.mkdir(exist_ok=True)
    if (folder / run.name).exists():
        return False
    try:
        with locked(run / LOCK):
            run.rename(folder / run.name)
    except BusyError:
        return False
    return True
