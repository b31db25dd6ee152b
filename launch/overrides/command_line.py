"""A command line of Hydra's taken apart: the overrides, and the flags that matter before Hydra sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.utils import get_args_parser

from launch.overrides.grammar import quoted
from launch.overrides.text_keys import as_typed

_SEARCHPATH = "hydra.searchpath"


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


def parse(schema: type, arguments: Sequence[str]) -> CommandLine:
    """Takes the arguments of a job's command apart. Raises `ValueError` for a flag that does not work here.

    `--config-dir DIR` becomes an override, so that whatever composes the configuration finds the files there.
    """
    found, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    if unknown:
        raise ValueError(f"{unknown[0]} is no flag; settings are given as key=value, as in epochs=2.")
    if found.config_name or found.config_path:
        raise ValueError(
            "--config-name and --config-path would leave out the job's own file; put your settings into DIR/experiment/NAME.yaml "
            "and choose them by --config-dir DIR experiment=NAME."
        )
    informative = any((found.help, found.hydra_help, found.cfg, found.shell_completion, found.info))
    if found.multirun and informative:
        raise ValueError("--multirun runs jobs, and what stands beside it only prints; leave out one of them.")
    overrides = as_typed(schema, found.overrides)
    if found.config_dir:
        overrides.insert(0, _searchpath(found.config_dir, overrides))
    given = {name: value for name, value in vars(found).items() if value and name not in ("overrides", "config_dir")}
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in given.items()]
    return CommandLine(arguments=(*flags, *overrides), overrides=tuple(overrides), multirun=found.multirun, informative=informative)


def _searchpath(config_dir: str, overrides: Sequence[str]) -> str:
    """The override that stands for `--config-dir`. Raises `ValueError` for a folder that is not there."""
    folder = Path(config_dir).expanduser().absolute()
    if not folder.is_dir():
        raise ValueError(f"--config-dir {config_dir} does not exist; name a folder with files such as experiment/NAME.yaml.")
    if any(override.lstrip("+").startswith(f"{_SEARCHPATH}=") for override in overrides):
        raise ValueError(f"--config-dir and {_SEARCHPATH} say the same; give one of them, {_SEARCHPATH} for several folders.")
    return f"{_SEARCHPATH}=[{quoted(f'file://{folder}')}]"
