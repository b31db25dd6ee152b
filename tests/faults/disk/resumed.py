"""A killed run, damaged, and run again: it ends as if nothing had happened, or says which file is wrong; never otherwise."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.runs.checkpoints import complete_steps, step_folder
from tests.faults.case import Case, Problems
from tests.faults.child import rewardloop
from tests.faults.disk.damage import (
    Damage,
    array,
    as_folder,
    cut,
    empty,
    flip,
    garbage,
    garbage_line,
    half_line,
    moved_behind_a_link,
    remove,
)
from tests.faults.disk.torn import Torn, torn_runs
from tests.faults.kills.compare import differences
from tests.faults.kills.processes import fork_instead
from tests.faults.stage import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Damaged:
    """A file of a run, found by `file` in its folder, and what is done to it.

    With `recovers` the run must go on to the same end; else it may also be refused by the name of the file. `told` says that
    a line must name the damage.
    """

    file: Callable[[Path], Path]
    damage: Damage
    recovers: bool = False
    told: bool = False


def _in_newest(name: str) -> Callable[[Path], Path]:
    return lambda run: step_folder(run, max(complete_steps(run))) / name


def _in_spare(name: str) -> Callable[[Path], Path]:
    return lambda run: step_folder(run, sorted(complete_steps(run))[-2]) / name


def _at(name: str) -> Callable[[Path], Path]:
    return lambda run: run / name


def _first_eval(run: Path) -> Path:
    return min((run / "evals").glob("step-*.json"))


FOREIGN = ("mine", "notes.txt", "elsewhere-")
"""What a user has put among the checkpoints, and may stay."""

STATES: Mapping[str, str] = {"rm": "state/state.pt", "ppo": "state/state.pt", "rloo": "state/optimizer.pt"}

ANY: Mapping[str, Damaged] = {
    "newest state, flipped bit": Damaged(file=_in_newest("@state"), damage=flip, told=True),
    "newest state, cut": Damaged(file=_in_newest("@state"), damage=cut, told=True),
    "newest state, empty": Damaged(file=_in_newest("@state"), damage=empty, told=True),
    "newest state, missing": Damaged(file=_in_newest("@state"), damage=remove, told=True),
    "newest weights, flipped bit": Damaged(file=_in_newest("model.safetensors"), damage=flip, told=True),
    "newest weights, cut": Damaged(file=_in_newest("model.safetensors"), damage=cut, told=True),
    "newest weights, missing": Damaged(file=_in_newest("model.safetensors"), damage=remove, told=True),
    "newest config.json, empty": Damaged(file=_in_newest("config.json"), damage=empty, told=True),
    "newest marker, missing": Damaged(file=_in_newest("COMPLETE"), damage=remove, told=True),
    "newest marker, empty": Damaged(file=_in_newest("COMPLETE"), damage=empty),
    "newest tokenizer, cut": Damaged(file=_in_newest("tokenizer.json"), damage=cut, told=True),
    "newest checkpoint, a link": Damaged(file=_in_newest(""), damage=moved_behind_a_link),
    "record.json, empty": Damaged(file=_at("record.json"), damage=empty),
    "record.json, cut": Damaged(file=_at("record.json"), damage=cut),
    "record.json, an array": Damaged(file=_at("record.json"), damage=array),
    "record.json, missing": Damaged(file=_at("record.json"), damage=remove),
    "record.json, a folder": Damaged(file=_at("record.json"), damage=as_folder),
    "config.yaml, garbage": Damaged(file=_at("config.yaml"), damage=garbage, recovers=True),
    "run.lock, missing": Damaged(file=_at("run.lock"), damage=remove, recovers=True),
    "run.lock, a folder": Damaged(file=_at("run.lock"), damage=as_folder),
    "metrics.jsonl, half a last line": Damaged(file=_at("metrics.jsonl"), damage=half_line),
    "metrics.jsonl, a garbage line": Damaged(file=_at("metrics.jsonl"), damage=garbage_line),
    "first evaluation, cut": Damaged(file=_first_eval, damage=cut),
    "first evaluation, empty": Damaged(file=_first_eval, damage=empty),
    "first evaluation, an array": Damaged(file=_first_eval, damage=array),
    "first evaluation, missing": Damaged(file=_first_eval, damage=remove),
    "a link to nothing among the checkpoints": Damaged(file=_at("checkpoints/mine"), damage=lambda file: file.symlink_to("nowhere")),
    "a link among the checkpoints": Damaged(file=_at("checkpoints/mine"), damage=lambda file: file.symlink_to("../..")),
    "a file among the checkpoints": Damaged(file=_at("checkpoints/notes.txt"), damage=lambda file: file.write_text("mine")),
    "a leftover of a save": Damaged(file=_at("checkpoints/.tmp-step-000009-x-1"), damage=lambda file: file.mkdir(), recovers=True),
    "a leftover that is a link": Damaged(file=_at("checkpoints/.tmp-mine"), damage=lambda file: file.symlink_to("../..")),
}

PPO: Mapping[str, Damaged] = {
    "progress.json, empty": Damaged(file=_in_newest("progress.json"), damage=empty, told=True),
    "progress.json, cut": Damaged(file=_in_newest("progress.json"), damage=cut, told=True),
    "progress.json, an array": Damaged(file=_in_newest("progress.json"), damage=array, told=True),
    "static.json, empty": Damaged(file=_at("static.json"), damage=empty),
    "static.json, an array": Damaged(file=_at("static.json"), damage=array),
}

SPARED: Mapping[str, Damaged] = {
    "spare state too, flipped bit": Damaged(file=_in_spare("@state"), damage=flip),
    "best, a folder": Damaged(file=_at("best"), damage=lambda file: file.mkdir()),
    "best, a link to nothing": Damaged(file=_at("best"), damage=lambda file: file.symlink_to("nowhere"), recovers=True),
}

HAVE_SPARE = ("newest state", "newest weights", "newest marker, missing", "newest config", "newest tokenizer", "progress.json")
"""Damages after which a run with a spare state goes on from that."""


def resumed_cases(stage: Stage) -> list[Case]:
    """Each damage to each kind of run; of the files that all kinds have, RLOO's are tried where it reads them itself."""
    torn = torn_runs(stage)
    own = {"rm": {**ANY, **SPARED}, "ppo": {**ANY, **PPO}, "rloo": {**_some(ANY, "newest", "evaluation"), **PPO}}
    return [
        Case(name=f"disk/resumed {kind}/{what}", what="", run=_tried(torn[kind], kind, what, damaged))
        for kind, damages in own.items()
        for what, damaged in damages.items()
    ]


def _some(damages: Mapping[str, Damaged], *words: str) -> dict[str, Damaged]:
    return {what: damaged for what, damaged in damages.items() if any(word in what for word in words)}


def _tried(torn: Torn, kind: str, what: str, damaged: Damaged) -> Callable[[Path], Problems]:
    def run(folder: Path) -> Problems:
        own = torn.copied_to(folder)
        file = damaged.file(own)
        if file.name == "@state":
            file = file.parent / STATES[kind]
        damaged.damage(file)
        if what.startswith("spare state too"):
            flip(_in_newest(STATES[kind])(own))
        ended = rewardloop(torn.reference.job.arguments(torn.reference.stage), folder, before=lambda: fork_instead(lambda: None))
        problems = [f"printed a traceback: {ended.tail(500)}"] if "Traceback" in ended.said else []
        if ended.code == 0:
            found = differences(folder / "runs", torn.reference.folder / "runs")
            problems += [line for line in found if not any(name in line for name in FOREIGN)]
            if damaged.told and not {file.name, *(parent.name for parent in file.parents[:2])} & set(re.split(r"[\s/:,;()]+", ended.said)):
                problems.append(f"went on without a word on {file.name}: {ended.tail()}")
        elif damaged.recovers or what.startswith(HAVE_SPARE):
            problems.append(f"did not recover: {ended.tail(500)}")
        elif ended.code not in (1, 2) or (file.name not in ended.said and file.parent.name not in ended.said):
            problems.append(f"ended with {ended.code} and without the name of {file.name}: {ended.tail(500)}")
        return problems

    return run
