"""`rewardloop rerun RUN key=value`: a run's job once more, from its own configuration."""

import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from core.runs.record import CONFIG
from launch.compose import GROUPS
from launch.history.arguments import said
from launch.history.find import Record, one_run
from launch.history.saved_config import saved_config, schema_of
from launch.overrides.grammar import quoted
from launch.schema import command_of

HELP = """usage: rewardloop rerun RUN [key=value ...]

Starts the job of a run (its folder, id or name) from the configuration that the run keeps, with other settings where they are given;
-m sweeps over them. Without any it goes on with the run, or finds it finished. runs_dir=FOLDER says where RUN lies, if not in runs;
the new run lies there too."""

_BASE = {"rm": ("model=custom", "data=custom"), "ppo": ("model=custom", "tasks=none"), "bon": ("model=custom", "tasks=none"), "bench": ()}
"""The choices of files that leave nothing behind under a run's own settings, by job."""


def main() -> None:
    """Entry point."""
    with said("rerun", HELP):
        flags = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        if not given or "=" in given[0]:
            raise ValueError(f"name the run first.\n\n{HELP}")
        runs_dir = next((text.partition("=")[2] for text in given if text.startswith("runs_dir=")), "runs")
        record = one_run(given[0], Path(runs_dir).expanduser())
        name = command_of(schema_of(Path(record["dir"])))
        _require_plain(given[1:], record)
    with tempfile.TemporaryDirectory(prefix="rewardloop-rerun-") as folder:
        sys.argv = [f"rewardloop {name}", *flags, *arguments_of(record, name, given[1:], Path(folder))]
        importlib.import_module(f"launch.{name}").main()


def arguments_of(record: Record, name: str, overrides: Sequence[str], folder: Path) -> list[str]:
    """The arguments of the job, whose own file of settings is put into `folder`."""
    config = saved_config(Path(record["dir"]))
    (folder / "experiment").mkdir()
    (folder / "experiment" / "rerun.yaml").write_text("# @package _global_\n" + OmegaConf.to_yaml(config), encoding="utf-8")
    chosen = "+experiment=rerun" if name == "bench" else "experiment=rerun"
    place = f"runs_dir={quoted(str(Path(record['dir']).parent.parent))}"
    return ["--config-dir", str(folder), *_BASE[name], chosen, place, *overrides]


def _require_plain(overrides: Sequence[str], record: Record) -> None:
    """Raises `ValueError` for choices of files: the run's own settings, which are all there, would hide them."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if "=" in override and (GROUPS / key).is_dir():
            raise ValueError(
                f"{override} chooses a file of settings, which those of the run would hide; give its keys, as in {key}.KEY=VALUE, or "
                f"start anew with `rewardloop {record['job']}` ({Path(record['dir']) / CONFIG} has all settings)."
            )
