"""A command line of Hydra's taken apart: the overrides, and the flags that matter before Hydra sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.utils import get_args_parser

from launch.overrides.grammar import quoted
from launch.overrides.text_keys import as_typed

SEARCHPATH = "hydra.searchpath"
CONFIG_NAME = "hydra.job.config_name"
"""The override that names the user's own file in place of the job's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandLine:
    """`arguments` go to Hydra and lead with its flags; `informative` says that Hydra only prints.

    >>> CommandLine(arguments=("-m", "epochs=1,2"), overrides=("epochs=1,2",), multirun=True, informative=False).multirun
    True
    """

    arguments: tuple[str, ...]
    overrides: tuple[str, ...]
    multirun: bool
    informative: bool
    help: bool = False
    """Whether the help of the job is asked for."""

    @property
    def keys(self) -> frozenset[str]:
        """The keys and groups that the overrides set."""
        return frozenset(override.lstrip("+~").partition("=")[0].partition("@")[0] for override in self.overrides)


def parse(schema: type, arguments: Sequence[str]) -> CommandLine:
    """Takes the arguments of a job's command apart. Raises `ValueError` for a flag that does not work here.

    `--config-dir DIR` and `--config-name NAME` become overrides, so that whatever composes the configuration finds the files there.
    """
    found, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    if unknown:
        raise ValueError(f"{unknown[0]} is no flag; settings are given as key=value, as in epochs=2.")
    if found.config_path:
        raise ValueError(
            "--config-path is relative to this package; name your folder by --config-dir DIR, and its file by --config-name NAME."
        )
    if found.shell_completion:
        raise ValueError('completion is for the command as a whole: eval "$(rewardloop completion bash)", or zsh in place of bash.')
    if found.config_name and not found.config_dir:
        raise ValueError(
            f"--config-name {found.config_name} needs the folder of that file: --config-dir DIR --config-name {found.config_name}."
        )
    informative = any((found.help, found.hydra_help, found.cfg, found.shell_completion, found.info))
    if found.multirun and informative:
        raise ValueError("--multirun runs jobs, and what stands beside it only prints; leave out one of them.")
    overrides = as_typed(schema, found.overrides)
    if found.config_dir:
        overrides.insert(0, _searchpath(found.config_dir, overrides))
    if found.config_name:
        overrides.insert(0, f"{CONFIG_NAME}={quoted(_primary(Path(found.config_dir).expanduser(), found.config_name))}")
    given = {name: value for name, value in vars(found).items() if value and name not in ("overrides", "config_dir", "config_name")}
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in given.items()]
    return CommandLine(
        arguments=(*flags, *overrides), overrides=tuple(overrides), multirun=found.multirun, informative=informative, help=found.help
    )


def _primary(folder: Path, name: str) -> str:
    """The name of the user's file in its folder. Raises `ValueError` if there is none."""
    name = name.removesuffix(".yaml").removesuffix(".yml")
    if not (folder / f"{name}.yaml").is_file():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise ValueError(f"--config-name {name}: {folder} has no {name}.yaml; the files there: {there}.")
    return name


def _searchpath(config_dir: str, overrides: Sequence[str]) -> str:
    """The override that stands for `--config-dir`. Raises `ValueError` for a folder that is not there."""
    folder = Path(config_dir).expanduser().absolute()
    if not folder.is_dir():
        raise ValueError(f"--config-dir {config_dir} does not exist; name a folder with files such as experiment/NAME.yaml.")
    if any(override.lstrip("+").startswith(f"{SEARCHPATH}=") for override in overrides):
        raise ValueError(f"--config-dir and {SEARCHPATH} say the same; give one of them, {SEARCHPATH} for several folders.")
    return f"{SEARCHPATH}=[{quoted(f'file://{folder}')}]"
