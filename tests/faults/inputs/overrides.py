"""Wrong values for every key of every job's schema, by the key's type."""

import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from launch.schema import SCHEMAS
from tests.faults.inputs.trial import Expected, Trial
from tests.faults.jobs import BON, JOBS, study_arguments
from tests.faults.stage import Stage

WRONG: dict[str, tuple[str, ...]] = {
    "int": ("abc", "1.5", "nan", "[1]", "{a:1}", "null", "-1"),
    "float": ("abc", "nan", "-1", "inf", "[1.0]", "null"),
    "bool": ("maybe", "[true]", "null"),
    "enum": ("nonsense", "[1]", "null"),
    "str": ("[a]", "{a:b}", "null"),
    "list": ("abc", "5", "{a:1}", "null"),
    "numbers": ("abc", "[x]", "[nan]", "[[1]]", "{a:1}", "null"),
    "dict": ("abc", "5", "[1]"),
    "group": ("abc", "5", "[1]"),
    "keep": ("abc", "0", "-1", "1.5", "[best]", "{a:1}", "null"),
}
"""By the kind of a key, values that it cannot have."""

BELOW_ZERO = {
    *("shaping.missing_eos.value", "reward.coefficient", "reward.weight"),
    *("seed", "pool.seed", "hooks.downstream.seed", "reward.judge.seed", "world.seed", "policy.seed"),
}
"""Keys that may be below zero."""

WITHOUT_BOUND = {
    *("optim.max_grad_norm", "save_minutes", "kl.stop", "shaping.clip", "clip", "value_clip", "dual_clip", "importance_cap"),
    "rollout.timeout_s",
}
"""Keys for which infinity means: none."""

OPEN = {"rewards", "reward.scales", "embedded_model"}
"""Keys whose values are tried by cases of their own, or that a user is told to leave alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key of a schema and its kind, one of `WRONG`; `optional` ones may be null.

    >>> Key(name="optim.lr", kind="float", optional=False).name
    'optim.lr'
    """

    name: str
    kind: str
    optional: bool


def keys_of(schema: type, prefix: str = "") -> Iterator[Key]:
    """All keys of a schema, nested ones with dots."""
    hints = get_type_hints(schema)
    for item in fields(schema):
        kind, optional = _kind(hints[item.name])
        name = prefix + item.name
        yield Key(name=name, kind=kind, optional=optional)
        if isinstance(hints[item.name], type) and is_dataclass(hints[item.name]):
            yield from keys_of(hints[item.name], f"{name}.")


def _kind(hint: Any) -> tuple[str, bool]:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = (part for part in get_args(hint) if part is not type(None))
        return _kind(inner)[0], True
    if get_origin(hint) is list:
        return ("numbers" if get_args(hint)[0] in (int, float) else "list"), False
    if get_origin(hint) is dict:
        return "dict", False
    if is_dataclass(hint):
        return "group", False
    if issubclass(hint, Enum):
        return "enum", False
    return {bool: "bool", int: "int", float: "float", str: "str", Any: "keep"}[hint], False


def bases(stage: Stage) -> dict[str, list[str]]:
    """By job, a command that is accepted."""
    commands = {name: JOBS[name].arguments(stage) for name in ("rm", "ppo", "bench")}
    commands["bon"] = ["bon", f"world={stage.world}", "runs_dir=runs", *BON, "pools=runs/pools"]
    commands["study"] = [*study_arguments(), "parallel=1"]
    commands["report"] = ["report", "study=tiny", "runs_dir=runs"]
    return commands


def override_trials(stage: Stage) -> list[Trial]:
    """A key that several jobs have is tried with all wrong values in the first, and with one in each of the others."""
    trials: list[Trial] = []
    seen: dict[str, int] = {}
    commands = bases(stage)
    for job, schema in SCHEMAS.items():
        if job != "report":  # it has no study to report on
            trials.append(Trial(name=f"overrides {job}/base", arguments=_arguments(stage, commands[job]), expected=Expected.accepted))
        for key in keys_of(schema):
            if key.name in OPEN or (job == "study" and key.kind == "group"):
                continue
            values = wrong_values(key)
            if job == "report" and key.kind == "list":  # any text may name a column or a run, and is looked for after the study
                values = tuple(value for value in values if value not in ("abc", "5"))
            if key.name in seen and len(values) > 1:
                values = values[seen[key.name] % len(values) :][:1]
            seen[key.name] = seen.get(key.name, 0) + 1
            for value in values:
                override = f"{key.name}={value}"
                arguments = _arguments(stage, commands[job], override)
                trials.append(Trial(name=f"overrides {job}/{override}", arguments=arguments, words=(key.name,)))
    return trials


def wrong_values(key: Key) -> tuple[str, ...]:
    """What a key cannot have."""
    may = {"null"} if key.optional else set()
    may |= {"-1"} if key.name in BELOW_ZERO else set()
    may |= {"inf"} if key.name in WITHOUT_BOUND else set()
    return tuple(value for value in WRONG[key.kind] if value not in may)


def _arguments(stage: Stage, command: Sequence[str], override: str = "") -> Callable[[Path], list[str]]:
    def arguments(folder: Path) -> list[str]:
        if command[0] == "study":
            JOBS["study"].prepare(stage, folder)
        return [*command, *filter(None, [override])]

    return arguments
