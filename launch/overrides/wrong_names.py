"""Names in the files of a configuration that mean nothing: a variable that refers to no key, and a key that nothing reads."""

import re
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from omegaconf.errors import InterpolationKeyError, UnsupportedInterpolationType

MOST_LISTED = 30
"""So many keys are listed; a job with more has its help for that."""


def explain_name(
    error: Exception, job: str, overrides: Sequence[str], known: Sequence[str], near: Callable[[str], Sequence[str]]
) -> str | None:
    """What is wrong with a name, in which file, and what there is instead; None for other errors.

    `known` are the keys of `job`, nested ones with dots, and `near` gives those that may be meant by another name.
    """
    if isinstance(error, InterpolationKeyError) and (found := re.match(r"Interpolation key '(.+)' not found", str(error))):
        place = f"{error.full_key}{_at(found[1], overrides)}"
        return f"{place} refers to ${{{found[1]}}}, which is no key of rewardloop {job}; {_instead(found[1], job, known, near)}"
    if isinstance(error, UnsupportedInterpolationType) and (found := re.match(r"Unsupported interpolation type (\S+)", str(error))):
        place = f"{error.full_key}{_at(found[1], overrides)}"
        there = "${quoted:...}, which quotes a value inside an override, and ${oc.env:NAME}"
        return f"{place} refers to ${{{found[1]}:...}}, and there is only {there}."
    if found := re.match(r"In '(.+?)': ConfigKeyError .*\nKey '.+' not in '\w+'\n\s*full_key: (\S+)", str(error)):
        file = next((path for name, path in _chosen(overrides) if name == found[1]), found[1])
        return f"{file} sets {found[2]}, which is no key of rewardloop {job}; {_instead(found[2], job, known, near)}"
    return None


def _instead(name: str, job: str, known: Sequence[str], near: Callable[[str], Sequence[str]]) -> str:
    """What may be meant, and what there is."""
    top = [key for key in known if "." not in key]
    meant = f"did you mean {' or '.join(found)}? " if (found := near(name)) else ""
    if len(top) > MOST_LISTED:
        return f"{meant}`rewardloop {job} --help` lists those there are."
    return f"{meant}{'There' if meant else 'there'} are {', '.join(top)}."


def _at(name: str, overrides: Sequence[str]) -> str:
    """Where a variable is written: in one of the files that the overrides choose, or in an override."""
    pattern = re.compile(r"\$\{[^}]*\b" + re.escape(name) + r"\b")
    for _, file in _chosen(overrides):
        if pattern.search(Path(file).read_text(encoding="utf-8")):
            return f" in {file}"
    return next((f" in the override {text}" for text in overrides if pattern.search(text)), "")


def _chosen(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The name, such as `experiment/demo`, and the path of every file that the overrides choose."""
    folders = [Path(str(files("conf")))]
    for text in overrides:
        if text.startswith("hydra.searchpath="):
            folders += [Path(folder.replace("\\'", "'")) for folder in re.findall(r"file://((?:\\'|[^'\",\]])+)", text)]
    for text in overrides:
        group, _, value = text.lstrip("+").partition("=")
        for folder in folders:
            if (file := folder / group / f"{value}.yaml").is_file():
                yield f"{group}/{value}", str(file)
