"""Finished runs and pools whose files are damaged, and the commands that read them."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.runs.checkpoints import complete_steps, step_folder
from tests.faults.case import Case, Problems
from tests.faults.child import rewardloop
from tests.faults.disk.damage import Damage, array, cut, empty, flip, garbage, garbage_line, remove
from tests.faults.disk.torn import run_of
from tests.faults.inputs.trial import Expected, problems_of
from tests.faults.jobs import BON, JOBS, PPO, RM, world_of
from tests.faults.kills.cases import Reference
from tests.faults.kills.processes import fork_instead
from tests.faults.stage import Stage

R, A, C = Expected.refused, Expected.accepted, Expected.clean


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """A file below a case's folder that is damaged, the command that then reads it, and what must come of it."""

    file: Callable[[Path], Path]
    damage: Damage
    expected: Expected = R
    words: tuple[str, ...] = ()


def _last(name: str) -> Callable[[Path], Path]:
    def found(folder: Path) -> Path:
        run = run_of(folder)
        return step_folder(run, max(complete_steps(run))) / name

    return found


def _in_run(name: str) -> Callable[[Path], Path]:
    return lambda folder: run_of(folder) / name


def _last_eval(folder: Path) -> Path:
    return max((run_of(folder) / "evals").glob("step-*.json"))


SERVED: Mapping[str, Read] = {
    "whole": Read(file=_in_run("record.json"), damage=lambda file: None, expected=A),
    "its last checkpoint gone": Read(file=_last(""), damage=remove, words=("step-",)),
    "its last marker gone": Read(file=_last("COMPLETE"), damage=remove, words=("step-",)),
    "its weights cut": Read(file=_last("model.safetensors"), damage=cut, words=("model.safetensors",)),
    "its weights gone": Read(file=_last("model.safetensors"), damage=remove, words=("model.safetensors",)),
    "its tokenizer cut": Read(file=_last("tokenizer.json"), damage=cut, words=("tokenizer.json",)),
    "its config empty": Read(file=_last("config.json"), damage=empty, words=("config.json",)),
    "its record empty": Read(file=_in_run("record.json"), damage=empty, words=("record.json",)),
    "its record an array": Read(file=_in_run("record.json"), damage=array, words=("record.json",)),
    "all checkpoints gone": Read(file=_in_run("checkpoints"), damage=remove, words=("rm-coast",)),
}
"""A finished reward model as the reward of `bench`."""

AGAIN: Mapping[str, Read] = {
    "its record empty": Read(file=_in_run("record.json"), damage=empty, expected=C, words=("record.json",)),
    "its record cut": Read(file=_in_run("record.json"), damage=cut, expected=C, words=("record.json",)),
    "its record an array": Read(file=_in_run("record.json"), damage=array, expected=C, words=("record.json",)),
    "its record gone": Read(file=_in_run("record.json"), damage=remove, expected=C),
    "its evaluations cut": Read(file=_last_eval, damage=cut, expected=C),
    "its log garbage": Read(file=_in_run("metrics.jsonl"), damage=garbage, expected=C),
    "a link to nothing among its checkpoints": Read(
        file=_in_run("checkpoints/mine"), damage=lambda file: file.symlink_to("nowhere"), expected=A
    ),
}
"""A finished reward model that is asked for again."""

LISTED: Mapping[str, Read] = {
    "a record empty": Read(file=_in_run("record.json"), damage=empty, expected=A, words=("record.json",)),
    "a record cut": Read(file=_in_run("record.json"), damage=cut, expected=A, words=("record.json",)),
    "a record an array": Read(file=_in_run("record.json"), damage=array, expected=A, words=("record.json",)),
    "a config garbage": Read(file=_in_run("config.yaml"), damage=garbage, expected=A),
    "a log with a garbage line": Read(file=_in_run("metrics.jsonl"), damage=garbage_line, expected=A),
}
"""A finished reward model that a dry run looks at."""

DRAWN, VERIFIED = "drawn/gsm8k/part-00000.parquet", "verified/gsm8k/part-00000.parquet"
POOLED: Mapping[str, Read] = {
    "rows cut": Read(file=lambda folder: folder / "pools" / DRAWN, damage=cut, words=("part-00000.parquet",)),
    "a row's bit flipped": Read(file=lambda folder: folder / "pools" / DRAWN, damage=flip, words=("part-00000.parquet",)),
    "a verdict's bit flipped": Read(file=lambda folder: folder / "pools" / VERIFIED, damage=flip, words=("part-00000.parquet",)),
    "manifest empty": Read(file=lambda folder: folder / "pools" / "pool.json", damage=empty, words=("pool.json",)),
    "marker gone": Read(file=lambda folder: folder / "pools" / "COMPLETE", damage=remove, words=("pools",)),
}
"""Pools that are reranked."""


def finished_cases(stage: Stage) -> list[Case]:
    """All of this page."""
    reference = Reference(job=JOBS["rm"], stage=stage)
    commands: dict[str, tuple[Mapping[str, Read], Callable[[Path], Sequence[str]]]] = {
        "served": (SERVED, lambda folder: ["bench", "runs_dir=bench", f"rows={stage.rows2}", f"reward.path={run_of(folder)}"]),
        "rewarding": (
            {what: SERVED[what] for what in ("whole", "its last checkpoint gone", "its weights cut", "its record empty")},
            lambda folder: ["ppo", *world_of(stage), *PPO, "runs_dir=ppo", f"reward.path={run_of(folder)}"],
        ),
        "again": (AGAIN, lambda folder: ["rm", *world_of(stage), *RM]),
        "listed": (LISTED, lambda folder: ["rm", "-m", *world_of(stage), *RM, "optim.lr=1e-3,1e-4", "dry_run=true"]),
    }
    cases = [
        Case(name=f"disk/{name}/{what}", what=read.expected.name, run=_tried(reference, read, arguments))
        for name, (reads, arguments) in commands.items()
        for what, read in reads.items()
    ]
    return cases + [
        Case(name=f"disk/pools of {job}/{what}", what=read.expected.name, run=_pooled(stage, read, arguments))
        for job, arguments in (
            ("rm", ["rm", *world_of(stage), *RM, "hooks.pools=pools"]),
            ("bon", ["bon", *world_of(stage), *BON, "pools=pools", f"rewards=[{stage.reward_model}]"]),
        )
        for what, read in POOLED.items()
        if not (job == "bon" and what == "marker gone")  # which draws them again
    ]


def _tried(reference: Reference, read: Read, arguments: Callable[[Path], Sequence[str]]) -> Callable[[Path], Problems]:
    def run(folder: Path) -> Problems:
        shutil.copytree(reference.made().folder / "runs", folder / "runs", symlinks=True)
        line = arguments(folder)
        read.damage(read.file(folder))
        return _problems(line, folder, read)

    return run


def _pooled(stage: Stage, read: Read, arguments: Sequence[str]) -> Callable[[Path], Problems]:
    def run(folder: Path) -> Problems:
        shutil.copytree(stage.pools, folder / "pools")
        read.damage(read.file(folder))
        return _problems(arguments, folder, read)

    return run


def _problems(line: Sequence[str], folder: Path, read: Read) -> Problems:
    ended = rewardloop(line, folder, before=lambda: fork_instead(lambda: None))
    problems = problems_of(ended, read.expected, read.words)
    if ended.code == 0 and read.expected is A and (missing := [word for word in read.words if word not in ended.said]):
        problems.append(f"did not say {', '.join(missing)}: {ended.tail(400)}")
    return problems
