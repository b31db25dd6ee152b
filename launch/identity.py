"""What identifies a run: the settings that can change its result, and the content of its inputs.

The role of a setting is declared on its field (`core.config.Hashed`, `ContentHashed`, `Unhashed`) and nowhere else.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from core.config import IdentityRole, ModelConfig
from core.data.fingerprint import fingerprint, program_fingerprint
from core.models.adapters import model_fingerprint
from core.models.locate import template_of
from core.runs.identity import INPUTS
from evalhooks.config import TaskConfig
from evalhooks.tasks.lm_evals import definition_files
from launch.rewards.config import RewardConfig
from launch.rewards.locate import locate_reward
from launch.schema import MAIN_REWARD, BenchJob, PPOJob
from launch.settings import RunSettings
from rmtrain.config import PreferenceDataConfig
from rmtrain.data import named_sources


def identity_of(job: RunSettings) -> dict[str, Any]:
    """The identity of a job's run: its hashed settings, nested as in the configuration, and under `inputs` a hash of each input.

    Reads the inputs to hash them, but loads no model. Raises `ValueError` or `FileNotFoundError` for a missing input.
    """
    settings = hashed_settings(job)
    assert INPUTS not in settings
    return settings | {INPUTS: dict(_contents(job, "", job.unread, job.runs_dir))}


def identity_of_part(value: object, key: str, runs_dir: str) -> dict[str, Any]:
    """The identity of a part of a configuration that stands under `key`, as `identity_of` has that of the whole; raises alike."""
    return {"settings": _hashed(value, key, frozenset()), INPUTS: dict(_contents(value, key, frozenset(), runs_dir))}


def hashed_settings(job: RunSettings) -> dict[str, Any]:
    """The settings of a job that identify its run, nested as in the configuration and in the run's record; no input is read."""
    settings = _hashed(job, "", job.unread)
    assert isinstance(settings, dict)
    return settings


def unhashed_keys(job: RunSettings) -> frozenset[str]:
    """The keys that are no part of the identity, each with everything under it."""
    roles = (IdentityRole.unhashed, IdentityRole.rounding)
    return frozenset(key for role in roles for key, _ in _of_role(job, "", role)) | job.unread


def rounding_settings(job: RunSettings) -> dict[str, object]:
    """The settings that bound memory and change results by rounding alone, by key."""
    found = _of_role(job, "", IdentityRole.rounding)
    return {key: value for key, value in found if not any(key.startswith(f"{unread}.") for unread in job.unread)}


@cache
def roles_of(config: type) -> Mapping[str, IdentityRole]:
    """The role of each field of a configuration. Raises `TypeError` for a field that declares none."""
    hints = get_type_hints(config, include_extras=True)
    roles: dict[str, IdentityRole] = {}
    for item in fields(config):
        hint = hints[item.name]
        declared = [arg for arg in get_args(hint)[1:] if isinstance(arg, IdentityRole)] if get_origin(hint) is Annotated else []
        if len(declared) != 1:
            raise TypeError(f"{config.__name__}.{item.name} must be declared as Hashed[...], ContentHashed[...] or Unhashed[...].")
        roles[item.name] = declared[0]
    return roles


def _hashed(value: object, key: str, unread: frozenset[str]) -> object:
    """The hashed settings of a configuration as nested dicts; any other value unchanged."""
    if isinstance(value, Mapping):
        return {name: _hashed(item, f"{key}.{name}", unread) for name, item in value.items()}
    if isinstance(value, list):
        return [_hashed(item, f"{key}.{number}", unread) for number, item in enumerate(value)]
    if not is_dataclass(value):
        return value
    return {
        name: _hashed(_value(value, name), own, unread)
        for name, role in roles_of(type(value)).items()
        if role == IdentityRole.hashed and (own := _join(key, name)) not in unread
    }


def _contents(value: object, key: str, unread: frozenset[str], runs_dir: str) -> Iterator[tuple[str, object]]:
    """What lies at the places that a configuration names, by key."""
    together, covered = _read_together(value, key, runs_dir)
    yield from together.items()
    match value:
        case Mapping():
            for name, item in value.items():
                yield from _contents(item, f"{key}.{name}", unread, runs_dir)
        case list():
            for number, item in enumerate(value):
                yield from _contents(item, f"{key}.{number}", unread, runs_dir)
        case _ if is_dataclass(value):
            for name, role in roles_of(type(value)).items():
                own = _join(key, name)
                if own in unread or own in covered:
                    continue
                if role == IdentityRole.content_hashed:
                    yield from _files(_value(value, name), own)
                elif role == IdentityRole.hashed:
                    yield from _contents(_value(value, name), own, unread | covered, runs_dir)
        case _:
            pass  # a plain value, which stands among the settings


def _read_together(value: object, key: str, runs_dir: str) -> tuple[dict[str, object], frozenset[str]]:
    """The contents of settings that only make sense together, by key, and the keys of the settings that they cover."""
    match value:
        case ModelConfig():
            found: dict[str, object] = {f"{key}.path": model_fingerprint(value, f"{key}.path")}
            if (template := template_of(value, f"{key}.path")) is not None:
                found[f"{key}.chat_template"] = hashlib.sha256(template.encode()).hexdigest()
            return found, frozenset(f"{key}.{name}" for name in ("path", "revision", "chat_template"))
        case RewardConfig():
            located = locate_reward(value, runs_dir, key, say=lambda line: None)  # whoever builds the reward says it
            covered = {f"{key}.{name}" for name in ("path", "revision", "reference", "members", "judge.path")}
            return {f"{key}.{own}": content for own, content in located.contents().items()}, frozenset(covered)
        case PreferenceDataConfig():
            # Numbered, since their order decides which of two equal pairs stays, and what a seed draws.
            sources = enumerate(named_sources(value).items())
            contents: dict[str, object] = {f"{key}.{number}.{name}": fingerprint(source.path) for number, (name, source) in sources}
            return contents, frozenset({f"{key}.paths", *(f"{key}.sources.{name}.path" for name in value.sources)})
        case TaskConfig() if value.lm_eval:
            files: dict[str, object] = {
                f"{key}.lm_eval.{place}": fingerprint(file) for place, file in enumerate(definition_files(value.lm_eval))
            }
            return files or {f"{key}.lm_eval": value.lm_eval}, frozenset({f"{key}.lm_eval"})
        case TaskConfig():
            return {f"{key}.verifier": program_fingerprint(value.verifier)}, frozenset()
        case _:
            return {}, frozenset()


def _files(place: object, key: str) -> Iterator[tuple[str, str]]:
    """The hash of a file, or of each file in a list; nothing for an empty setting. Raises `FileNotFoundError` that names the key."""
    places = {f"{key}.{number}": item for number, item in enumerate(place)} if isinstance(place, list) else {key: place} if place else {}
    for own, item in places.items():
        try:
            yield own, fingerprint(str(item))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{own}={item}: {error}") from error


def _value(config: object, name: str) -> object:
    """The value of a field, in the form that all spellings of it share."""
    match config, name:
        case PPOJob(), "reward":
            return config.terms.get(MAIN_REWARD)
        case PPOJob(), "rewards":
            return {own: reward for own, reward in config.terms.items() if own != MAIN_REWARD}
        case BenchJob(), "rows":
            return config.source
        case _:
            return getattr(config, name)


def _of_role(value: object, key: str, role: IdentityRole) -> Iterator[tuple[str, object]]:
    """The outermost settings of one role, by key; nothing under an unhashed setting counts."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _of_role(item, f"{key}.{name}", role)
    elif is_dataclass(value):
        for name, own in roles_of(type(value)).items():
            if own == role:
                yield _join(key, name), getattr(value, name)
            elif own != IdentityRole.unhashed:
                yield from _of_role(getattr(value, name), _join(key, name), role)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
