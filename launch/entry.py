"""From the command line to a validated configuration: what all jobs do before their work begins."""

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import hydra
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.allocator import keep_freed_memory
from launch.schema import SCHEMAS, BenchJob, Launch, register

INFORMATIVE = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "--shell-completion", "-sc"}
"""Flags with which Hydra only prints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Composed:
    """A job's configuration as dataclasses, and as YAML with its interpolations unresolved, fit to be kept."""

    job: Any
    yaml: str


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key and the remedy."""


def start(name: str, run: Callable[[Composed], None], argv: Sequence[str] | None = None) -> None:
    """Runs job `name` with the overrides of the command line; every combination of a sweep is checked before the first runs.

    Exits with 2 and one message where the configuration is wrong, with 1 where a run failed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    register()
    sweeping = bool({"-m", "--multirun"} & set(arguments))
    if not INFORMATIVE & {argument.split("=")[0] for argument in arguments}:
        overrides = [a for a in arguments if not a.startswith("-")]
        try:
            jobs = [composed(name, chosen) for chosen in (combinations(overrides) if sweeping else [overrides])]
            for found in jobs:
                _require_world(found)
            _require_own_out([found.job for found in jobs])
        except ConfigError as error:
            refuse(str(error))

    keep_freed_memory()
    # Reports of loading say that a new head is new; what matters of it is in our own messages.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    failures: list[str] = []

    @hydra.main(version_base="1.3", config_path="pkg://conf", config_name=name)
    def main(cfg: DictConfig) -> None:
        try:
            run(_validated(name, cfg))
        except KeyboardInterrupt:
            print("stopped; what is complete is kept, and the same command goes on from there", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            # Whatever a job of a sweep dies of, the others go on; what failed is told at the end.
            if os.environ.get("REWARDLOOP_TRACE"):
                raise
            said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            failures.append(f"{' '.join(HydraConfig.get().overrides.task)}: {said}" if sweeping else said)
            print(f"failed: {failures[-1]}", file=sys.stderr)

    sys.argv = [f"rewardloop {name}", *arguments]
    main()
    if failures:
        if sweeping:
            print(f"{len(failures)} job(s) failed:", *failures, sep="\n  ", file=sys.stderr)
        raise SystemExit(1)


def composed(name: str, overrides: Sequence[str]) -> Composed:
    """The configuration of job `name` under `overrides`; raises `ConfigError`."""
    register()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("conf", version_base="1.3"):
            cfg = compose(name, overrides=list(overrides))
        return _validated(name, cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(name, overrides, error)) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    finally:
        GlobalHydra.instance().clear()


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The override lists of a sweep: the product of all comma-separated values."""
    lists: list[list[str]] = [[]]
    try:
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            if override.is_sweep_override():
                key = override.get_key_element()
                choices = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                choices = [str(override.input_line)]
            lists = [[*chosen, choice] for chosen in lists for choice in choices]
    except HydraException as error:
        raise ConfigError(_explain_grammar(error) or f"{' '.join(overrides)}: {error}") from error
    return lists


def refuse(message: str) -> NoReturn:
    """Ends the command with a message for the user."""
    print(f"rewardloop: {message}", file=sys.stderr)
    raise SystemExit(2)


def _require_world(found: Composed) -> None:
    """Refuses a job that reads from a microworld which is not there, with the command that makes it."""
    if isinstance(found.job, Launch) and "${world}" in found.yaml and not Path(found.job.world).is_dir():
        raise ConfigError(
            f"world={found.job.world} does not exist; make it with `rewardloop study experiment=demo`, name another folder, or give "
            "models and data of your own (model=custom data=custom hooks=none)."
        )


def _require_own_out(jobs: Sequence[Any]) -> None:
    """Refuses a sweep whose jobs would write one result over another."""
    outs = [job.out for job in jobs if isinstance(job, BenchJob) and job.out]
    if len(set(outs)) < len(outs):
        raise ConfigError(f"all jobs of the sweep would write out={outs[0]}; leave it out, the results lie in the runs' folders.")


def _validated(name: str, cfg: DictConfig) -> Composed:
    missing = sorted(map(str, OmegaConf.missing_keys(cfg)))
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given, for instance {missing[0]}=...")
    job = OmegaConf.to_object(cfg)
    assert isinstance(job, SCHEMAS[name])
    return Composed(job=job, yaml=OmegaConf.to_yaml(cfg, resolve=False))


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
        if key and key in said and key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
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
