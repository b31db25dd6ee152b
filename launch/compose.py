"""From overrides to configurations: of one job, or of all jobs of a sweep."""

import difflib
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any, get_type_hints

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.schema import SCHEMAS, BoNJob, PPOJob, RMJob, RunSettings, register

GROUPS = files("conf")
"""The folder whose folders are the groups of files to choose from."""

register_schemas = cache(register)


@dataclass(frozen=True, kw_only=True, slots=True)
class Composed:
    """A job's configuration as dataclasses, and as YAML with its interpolations unresolved, fit to be kept."""

    job: Any
    yaml: str


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The jobs of a command line as dataclasses, in the order in which they run, and whether it is a sweep."""

    jobs: tuple[Any, ...]
    sweeping: bool


def composed(name: str, overrides: Sequence[str]) -> Composed:
    """The configuration of job `name` under `overrides`; raises `ConfigError`."""
    with _hydra(name, overrides):
        return validated(name, compose(name, overrides=list(overrides)))


def command(name: str, overrides: Sequence[str], *, multirun: bool) -> Command:
    """All jobs that Hydra runs for job `name` under `overrides`, each checked; raises `ConfigError` for the first that cannot run.

    With `multirun` they are the product of all values of the overrides and of the `hydra.sweeper.params` of the chosen files;
    where both name a key, the override counts.
    """
    fixed = [override.input_line or "" for override in _parsed(overrides) if not override.is_sweep_override()]
    with _hydra(name, overrides):
        hydra = compose(name, overrides=fixed, return_hydra_config=True).hydra
        sweeping = multirun or hydra.mode == RunMode.MULTIRUN
        params = [f"{key}={value}" for key, value in _params(hydra).items()]
    if not sweeping:
        return Command(jobs=(composed(name, overrides).job,), sweeping=False)
    lists = combinations([*params, *overrides])
    _require_one_sweep(name, overrides, lists)
    return Command(jobs=tuple(_jobs(name, lists)), sweeping=True)


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The override lists of a sweep: the product of all values, of a key that is given twice the last ones; raises `ConfigError`."""
    choices: dict[str, list[str]] = {}
    for override in _parsed(overrides):
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [str(override.input_line)]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(f"{override.input_line} sweeps over an interval, which has no end; list its values, as in {key}=1e-6,3e-6.")
    return [list(chosen) for chosen in product(*choices.values())]


def validated(name: str, cfg: DictConfig) -> Composed:
    """A composed configuration as dataclasses; raises `ValueError` where it cannot run."""
    return Composed(job=_job(name, cfg), yaml=OmegaConf.to_yaml(cfg, resolve=False))


def _job(name: str, cfg: DictConfig) -> Any:
    missing = sorted(map(str, OmegaConf.missing_keys(cfg)))
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given, for instance {missing[0]}=...")
    job = OmegaConf.to_object(cfg)
    assert isinstance(job, SCHEMAS[name])
    if isinstance(job, RunSettings):
        _ = job.resumes  # raises for a word that says neither
    if isinstance(job, RMJob | PPOJob | BoNJob):
        _require_own_sizes(job)
    return job


def _require_own_sizes(job: RMJob | PPOJob | BoNJob) -> None:
    """Refuses another model under the embedded world's: it would get their sizes, data and hooks, however its path was given."""
    if job.embedded_model and job.model.path != job.embedded_model:
        embedded = job.embedded_model.rpartition("/")[2]
        raise ConfigError(
            f"model.path={job.model.path} with model={embedded}, whose sizes, data and hooks are those of the embedded world; choose "
            "model=custom, which has the defaults for real models (add preset=microworld to keep the embedded world's)."
        )


@contextmanager
def _hydra(name: str, overrides: Sequence[str]) -> Generator[None]:
    """Hydra on conf/ for a while; what it and the dataclasses refuse becomes a `ConfigError`."""
    register_schemas()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("conf", version_base="1.3"):
            yield
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(name, overrides, error)) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    finally:
        GlobalHydra.instance().clear()


def _parsed(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them; raises `ConfigError` for one that it cannot read."""
    register_schemas()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("conf", version_base="1.3"):
            # The loader tells glob(...) which choices there are.
            return OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(_explain_grammar(error) or f"{' '.join(overrides)}: {error}") from error
    finally:
        GlobalHydra.instance().clear()


def _jobs(name: str, lists: Sequence[Sequence[str]]) -> list[Any]:
    """The jobs of one sweep: what `composed` gives for every list, in a fifth of the time.

    Hydra reads and merges all files anew for every job, although most jobs of a sweep choose the same ones. So each choice
    of files is composed once, and the plain values of a job are set on it.
    """
    distinct = list(dict.fromkeys(text for texts in lists for text in texts))
    parsed = dict(zip(distinct, _parsed(distinct), strict=True))
    jobs: list[Any] = []
    plain = {text for text, override in parsed.items() if _is_plain(override)}
    with _hydra(name, ()):
        configs: dict[tuple[str, ...], DictConfig] = {}
        for texts in lists:
            chosen = tuple(text for text in texts if text not in plain)
            try:
                if chosen not in configs:
                    configs[chosen] = compose(name, overrides=list(chosen))
                # Every job of a sweep sets the same keys, so nothing of the job before stays behind.
                for text in texts:
                    if text in plain:
                        OmegaConf.update(configs[chosen], parsed[text].key_or_group, parsed[text].value())
                jobs.append(_job(name, configs[chosen]))
            except (HydraException, OmegaConfBaseException, ValueError):
                jobs.append(None)  # composed below as Hydra does it, which finds words for what is wrong
    return [job or composed(name, texts).job for job, texts in zip(jobs, lists, strict=True)]


def _is_plain(override: Override) -> bool:
    """Whether an override sets one value of an existing key: it chooses no file, and adds, removes and merges nothing."""
    if override.get_key_element() != override.key_or_group or override.is_hydra_override():
        return False
    return isinstance(override.value(), str | int | float | bool | None) and not (GROUPS / override.key_or_group).is_dir()


def _params(hydra: DictConfig) -> Mapping[str, Any]:
    """What the files sweep, by key."""
    return OmegaConf.select(hydra, "sweeper.params") or {}


def _require_one_sweep(name: str, overrides: Sequence[str], lists: Sequence[Sequence[str]]) -> None:
    """Refuses a sweep over files that sweep themselves, of which Hydra would run one job each."""
    chosen = dict.fromkeys(text for texts in lists for text in texts if re.match(r"\+?experiment=", text))
    if len(chosen) < 2:
        return
    for text in chosen:
        with _hydra(name, overrides):
            hydra = compose(name, overrides=[text], return_hydra_config=True).hydra
        if _params(hydra):
            raise ConfigError(f"{text} is a sweep itself, and a sweep over sweeps runs only one job of each; run one at a time.")


def _explain(name: str, overrides: Sequence[str], error: Exception) -> str:
    """Hydra's own words, and for an unknown key the nearest that exists."""
    if unreadable := _explain_grammar(error):
        return unreadable
    said = str(error).partition("\nConfig search path")[0].strip()
    if error.__cause__ is not None:
        said = f"{said}: {str(error.__cause__).splitlines()[0]}"
    known = _keys(SCHEMAS[name])
    for override in overrides:
        key = override.lstrip("+~").split("=")[0]
        if key and key in said and key not in known and not (GROUPS / key).is_dir():
            longer = [name for name in known if name.endswith(f".{key}")]  # optim.lr for lr
            near = longer[:3] or difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"see `rewardloop {name} --help` for the keys there are."
            return f"the override {override!r} does not fit: {said.splitlines()[0]} {hint}"
    return said


def _explain_grammar(error: Exception) -> str:
    """What to do about an override that Hydra's grammar does not read; empty for other errors."""
    if not isinstance(error, OverrideParseException):
        return ""
    return (
        f"the override {error.override} cannot be read ({str(error).splitlines()[0]}); a value with blanks, =, commas, brackets or ~ "
        "needs quotes of its own inside those of the shell, as in \"rows='a b=c.jsonl'\"."
    )


def _keys(schema: type, prefix: str = "") -> list[str]:
    """All keys of a schema, nested ones with dots."""
    keys: list[str] = []
    hints = get_type_hints(schema)
    for item in fields(schema):
        keys.append(prefix + item.name)
        if isinstance(hints[item.name], type) and is_dataclass(hints[item.name]):
            keys += _keys(hints[item.name], f"{prefix}{item.name}.")
    return keys
