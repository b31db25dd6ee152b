"""From command-line overrides to configurations: those of one job, or of every job of a sweep."""

import difflib
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from core.runs.identity import require_no_path, study_name
from evalhooks.config import require_task_names
from launch.overrides.command_line import CONFIG_NAME, SEARCHPATH
from launch.overrides.grammar import quoted
from launch.overrides.text_keys import as_typed
from launch.overrides.wrong_names import explain_name
from launch.schema import AnyJob, BoNJob, PPOJob, RMJob, command_of, register
from launch.settings import Launch, RunSettings

GROUPS = files("conf")
"""Each of its folders is a group: the files that an override such as `model=coast` chooses from."""


@cache
def register_schemas() -> None:
    """Makes the schemas, and the resolver that quotes a value inside an override, known to Hydra."""
    register()
    OmegaConf.register_new_resolver("quoted", quoted, replace=True)


JobT = TypeVar("JobT", bound=AnyJob)
JobT_co = TypeVar("JobT_co", covariant=True)
MadeT = TypeVar("MadeT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Composed(Generic[JobT_co]):
    """A job's configuration, and the YAML of it that the run keeps: unresolved, so that no secret is written to disk."""

    job: JobT_co
    yaml: str


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command(Generic[JobT_co]):
    """The jobs of a command line in the order in which they run, with the overrides of each, and whether they form a sweep."""

    jobs: tuple[JobT_co, ...]
    sweeping: bool
    overrides: tuple[tuple[str, ...], ...] = ()


def composed(schema: type[JobT], overrides: Sequence[str]) -> Composed[JobT]:
    """The configuration of one job under `overrides`. Raises `ConfigError`."""
    return _composed(schema, overrides, validated)


def _composed(schema: type[JobT], overrides: Sequence[str], make: Callable[[type[JobT], DictConfig], MadeT]) -> MadeT:
    typed = as_typed(schema, overrides)
    _require_known(schema, _parsed(typed))
    with _hydra(schema, typed):
        return make(schema, compose(primary(schema, typed), overrides=typed))


def command(schema: type[JobT], overrides: Sequence[str], *, multirun: bool) -> Command[JobT]:
    """Every job that Hydra would run under `overrides`, each validated. Raises `ConfigError` for the first that cannot run.

    With `multirun` they are the product of all values in the overrides and in `hydra.sweeper.params` of the chosen files; where
    both set a key, the override wins.
    """
    lists = _lists(schema, overrides, multirun=multirun)
    if lists is None:
        return Command(jobs=(composed(schema, overrides).job,), sweeping=False)
    return Command(jobs=tuple(_jobs(schema, lists, _job)), sweeping=True, overrides=tuple(map(tuple, lists)))


def sweep(schema: type[JobT], overrides: Sequence[str]) -> list[tuple[tuple[str, ...], Composed[JobT]]]:
    """The jobs of `command` under multirun as a study runs them: the overrides of each, and its configuration."""
    lists = _lists(schema, overrides, multirun=True) or []
    return list(zip(map(tuple, lists), _jobs(schema, lists, validated), strict=True))


def _lists(schema: type[AnyJob], overrides: Sequence[str], *, multirun: bool) -> list[list[str]] | None:
    """The overrides of every job of a sweep; None where `overrides` are one job."""
    overrides = as_typed(schema, overrides)
    parsed = _parsed(overrides)
    _require_known(schema, parsed)
    fixed = [override.input_line or "" for override in parsed if not override.is_sweep_override()]
    with _hydra(schema, overrides):
        hydra = compose(primary(schema, overrides), overrides=fixed, return_hydra_config=True).hydra
        if not multirun and hydra.mode != RunMode.MULTIRUN:
            return None
        params = [f"{key}={value}" for key, value in _params(hydra).items()]
    lists = combinations([*params, *overrides])
    _require_one_sweep(schema, overrides, lists)
    return lists


def primary(schema: type[AnyJob], overrides: Sequence[str]) -> str:
    """The file that a job's configuration begins with: the job's own, or the user's by `--config-name`.

    A user's file that lists no defaults is laid over the job's own. Raises `ConfigError` for one that cannot be read.
    """
    found = {text.partition("=")[0]: text.partition("=")[2] for text in overrides if text.startswith((CONFIG_NAME, SEARCHPATH))}
    if CONFIG_NAME not in found:
        return command_of(schema)
    name = found[CONFIG_NAME].strip("'").replace("\\'", "'")
    file = Path(found[SEARCHPATH].strip("[]'").replace("\\'", "'").removeprefix("file://")) / f"{name}.yaml"
    try:
        settings = OmegaConf.load(file)
    except (YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config-name {name}: {file} cannot be read: {error}") from error
    if not isinstance(settings, DictConfig):
        raise ConfigError(f"--config-name {name}: {file} holds no settings; write some, such as epochs: 2.")
    own = command_of(schema)
    if own not in settings.get("defaults", [own]):
        raise ConfigError(f"--config-name {name}: the defaults in {file} lack the job's own; begin them with - {own}.")
    # Hydra looks for the first file only in places that are known before the overrides are read.
    stored = f"{name}-of-{own}"
    ConfigStore.instance().store(
        name=stored, node=OmegaConf.create({"defaults": [own, "_self_"]} | {str(k): v for k, v in settings.items()})
    )
    return stored


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The override lists of a sweep: the product of all values. Of a key given twice the last counts. Raises `ConfigError`."""
    choices: dict[str, list[str]] = {}
    for override in _parsed(overrides):
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [str(override.input_line)]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(f"{override.input_line} sweeps over an interval, which never ends; list the values, as in {key}=1e-6,3e-6.")
    return [list(chosen) for chosen in product(*choices.values())]


def validated(schema: type[JobT], cfg: DictConfig) -> Composed[JobT]:
    """A composed configuration as dataclasses. Raises `ValueError` where it cannot run."""
    return Composed(job=_job(schema, cfg), yaml=OmegaConf.to_yaml(cfg, resolve=False))


def changed(schema: type[JobT], composed: Composed[JobT], values: Mapping[str, object]) -> Composed[JobT]:
    """A configuration with other values for some of its keys; what is derived from them changes too. Raises `ValueError`."""
    cfg = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(composed.yaml))
    assert isinstance(cfg, DictConfig)
    for key, value in values.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    return validated(schema, cfg)


def _job(schema: type[JobT], cfg: DictConfig) -> JobT:
    missing = sorted(map(str, OmegaConf.missing_keys(cfg)))
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given, for instance {missing[0]}=...")
    _clean_study(cfg)
    job = OmegaConf.to_object(cfg)
    assert isinstance(job, schema)
    if isinstance(job, RunSettings):
        _ = job.resumes  # raises for an unknown choice
        require_no_path("name", job.name)
    if isinstance(job, Launch):
        require_task_names(job.tasks)
    if isinstance(job, RMJob | PPOJob | BoNJob):
        _require_own_sizes(job)
    return job


def _clean_study(cfg: DictConfig) -> None:
    """Cleans the name of the study before anything refers to it, so that all that its jobs write lies in one folder."""
    if isinstance(name := OmegaConf.select(cfg, "study"), str):
        cfg["study"] = study_name(name)


def _require_own_sizes(job: RMJob | PPOJob | BoNJob) -> None:
    """Refuses another model under the embedded world's: it would get their sizes, data and hooks, however its path was given."""
    if job.embedded_model and job.model.path != job.embedded_model:
        embedded = job.embedded_model.rpartition("/")[2]
        raise ConfigError(
            f"model.path={job.model.path} with model={embedded}, whose sizes, data and hooks are those of the embedded world; choose "
            "model=custom, which has the defaults for real models (add preset=microworld to keep the embedded world's)."
        )


@contextmanager
def _hydra(schema: type[AnyJob], overrides: Sequence[str]) -> Generator[None]:
    """Initialises Hydra on conf/; whatever it or the dataclasses reject becomes a `ConfigError`."""
    register_schemas()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("conf", version_base="1.3"):
            yield
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(schema, overrides, error)) from error
    except YAMLError as error:
        raise ConfigError(f"a file that {' '.join(overrides)} chooses is no YAML: {error}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    finally:
        GlobalHydra.instance().clear()


def _parsed(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra parses them. Raises `ConfigError` for one that it cannot parse."""
    register_schemas()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("conf", version_base="1.3"):
            # glob(...) needs the loader to list the choices.
            return OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(_explain_grammar(error) or f"{' '.join(overrides)}: {error}") from error
    finally:
        GlobalHydra.instance().clear()


def _require_known(schema: type[AnyJob], overrides: Sequence[Override]) -> None:
    """Rejects what Hydra takes and nobody reads: keys that are added (`+key=value`) and no keys of the job, and values of a group that
    choose none of its files (Hydra fails on numbers and merges the files of a list), and empty mappings."""
    for override in overrides:
        key = override.key_or_group
        if (override.is_add() or override.is_force_add()) and not _is_open(schema, key):
            near = _near(key, _keys(schema))
            hint = f"did you mean {' or '.join(near)}?" if near else f"see `rewardloop {command_of(schema)} --help` for the keys there are."
            raise ConfigError(f"{override.input_line} adds a key that nothing reads; {hint}")
        if override.is_sweep_override() or override.is_delete():
            continue
        if override.value() == {} and key in _keys(schema):
            raise ConfigError(f"{key}={{}} would change nothing, since a mapping is merged with that of the files; ~{key} leaves it out.")
        if not (GROUPS / key).is_dir():
            continue
        if key in ("tasks", "tracker") and isinstance(override.value(), list):
            continue  # several groups of tasks, or several trackers, each with keys of its own
        if not isinstance(override.value(), str | QuotedString | dict):
            raise ConfigError(f"{override.input_line} chooses none of the files for {key}; choose one of {', '.join(_choices(key))}.")


NAMES_ELSEWHERE = {
    "learning_rate": "optim.lr",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "max_seq_length": "max_length",
    "output_dir": "runs_dir",
    "model_name_or_path": "model.path",
    "dataset_name": "data.paths",
    "kl_coef": "kl.beta",
    "beta": "kl.beta",
}
"""What transformers and TRL call a key of ours."""


def _near(key: str, known: Sequence[str]) -> list[str]:
    """Keys that may be meant by one that is none: by the name of another trainer, the end of a longer one, or letters alike."""
    if (own := NAMES_ELSEWHERE.get(key, "")) in known:
        return [own]
    longer = [name for name in known if name.endswith(f".{key}")]  # optim.lr for lr
    return longer[:3] or difflib.get_close_matches(key, known, n=3, cutoff=0.5)


def _choices(group: str) -> list[str]:
    """The names of a group's files."""
    return sorted(file.name.removesuffix(".yaml") for file in (GROUPS / group).iterdir() if file.name.endswith(".yaml"))


def _jobs(schema: type[JobT], lists: Sequence[Sequence[str]], make: Callable[[type[JobT], DictConfig], MadeT]) -> list[MadeT]:
    """What `make` makes of the configurations of one sweep: those of `composed` for every list, five times faster.

    Hydra reads and merges all files again for every job, although most jobs of a sweep choose the same files. Here each choice of
    files is composed once, and the plain values of every job are then set on it.
    """
    distinct = list(dict.fromkeys(text for texts in lists for text in texts))
    parsed = dict(zip(distinct, _parsed(distinct), strict=True))
    jobs: list[MadeT | None] = []
    plain = {text for text, override in parsed.items() if _is_plain(override)}
    with _hydra(schema, ()):
        configs: dict[tuple[str, ...], DictConfig] = {}
        for texts in lists:
            chosen = tuple(text for text in texts if text not in plain)
            try:
                if chosen not in configs:
                    configs[chosen] = compose(primary(schema, chosen), overrides=list(chosen))
                # Every job of a sweep sets the same keys, so no value of the previous job survives.
                for text in texts:
                    if text in plain:
                        OmegaConf.update(configs[chosen], parsed[text].key_or_group, parsed[text].value())
                jobs.append(make(schema, configs[chosen]))
            except (HydraException, OmegaConfBaseException, ValueError):
                jobs.append(None)  # composed again below the slow way, which explains what is wrong
    return [job or _composed(schema, texts, make) for job, texts in zip(jobs, lists, strict=True)]


def _is_plain(override: Override) -> bool:
    """Whether an override only sets the value of an existing key: it chooses no file, and adds, removes and merges nothing."""
    if override.get_key_element() != override.key_or_group or override.is_hydra_override():
        return False
    return isinstance(override.value(), str | int | float | bool | None) and not (GROUPS / override.key_or_group).is_dir()


def _params(hydra: DictConfig) -> Mapping[str, object]:
    """What the chosen files themselves sweep over, by key."""
    return OmegaConf.select(hydra, "sweeper.params") or {}


def _require_one_sweep(schema: type[AnyJob], overrides: Sequence[str], lists: Sequence[Sequence[str]]) -> None:
    """Rejects a sweep over files that sweep themselves: Hydra would run only one job of each."""
    chosen = dict.fromkeys(text for texts in lists for text in texts if re.match(r"\+?experiment=", text))
    if len(chosen) < 2:
        return
    for text in chosen:
        with _hydra(schema, overrides):
            hydra = compose(primary(schema, overrides), overrides=[text], return_hydra_config=True).hydra
        if _params(hydra):
            raise ConfigError(f"{text} is itself a sweep, and a sweep over sweeps would run only one job of each; run one at a time.")


def _explain(schema: type[AnyJob], overrides: Sequence[str], error: Exception) -> str:
    """Hydra's own message, and for an unknown key the nearest existing ones."""
    if unreadable := _explain_grammar(error):
        return unreadable
    known = _keys(schema)
    if wrong := explain_name(error, command_of(schema), overrides, known, lambda name: _near(name, known)):
        return wrong
    said = str(error).partition("\nConfig search path")[0].strip()
    if error.__cause__ is not None:
        said = f"{said}: {str(error.__cause__).splitlines()[0]}"
    if missing := re.fullmatch(r".*Could not load '(\w+)/[^']*'\.?", said):  # one of several files; of a single one Hydra lists the choices
        return f"{said} Choose among {', '.join(_choices(missing[1]))}."
    for override in overrides:
        key = override.lstrip("+~").split("=")[0]
        if key and key in said and key not in known and not (GROUPS / key).is_dir():
            near = _near(key, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"see `rewardloop {command_of(schema)} --help` for the keys there are."
            return f"the override {override!r} does not fit: {said.splitlines()[0].rstrip('.')}; {hint}"
    return said


def _explain_grammar(error: Exception) -> str | None:
    """What to do about an override that Hydra cannot parse; None for other errors."""
    if not isinstance(error, OverrideParseException):
        return None
    return (
        f"the override {error.override} cannot be parsed ({str(error).splitlines()[0]}); a value with spaces, =, commas, brackets or ~ "
        "needs its own quotes inside the shell's, as in \"rows='a b=c.jsonl'\"."
    )


def _is_open(schema: type[AnyJob], key: str) -> bool:
    """Whether a key may be added: one of the job's, one below a mapping of the user's, a group, or Hydra's own."""
    hints: Any = get_type_hints(schema)
    first, *rest = key.split(".")
    for part in (first, *rest):
        if isinstance(hints, dict) and part in hints:
            hint = hints[part]
            hints = get_type_hints(hint) if isinstance(hint, type) and is_dataclass(hint) else None
        elif hints is not None:
            return first == "hydra" or (GROUPS / key.partition("@")[0]).is_dir()
    return True


def _keys(schema: type, prefix: str = "") -> list[str]:
    """All keys of a schema, nested ones with dots."""
    keys: list[str] = []
    hints = get_type_hints(schema)
    for item in fields(schema):
        keys.append(prefix + item.name)
        if isinstance(hints[item.name], type) and is_dataclass(hints[item.name]):
            keys += _keys(hints[item.name], f"{prefix}{item.name}.")
    return keys
