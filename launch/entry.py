"""From the command line to the end of its jobs: what all commands do around their work."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from core.process.exit import exit_without_teardown
from core.process.memory import keep_freed_memory
from core.process.signals import Preempted, raise_on_signal
from core.runs.record import RunBusyError
from launch.compose import Composed, ConfigError, combinations, command, composed, register_schemas, validated
from launch.schema import BenchJob, Launch
from launch.sweep import WIDTH, JobStatus, Outcome, outcome_of, print_outcomes, print_plan, settings_of, write_outcomes

__all__ = ["Composed", "ConfigError", "combinations", "composed", "refuse", "start"]

INFORMATIVE = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "--shell-completion", "-sc"}
"""Flags with which Hydra only prints."""


def start(name: str, run: Callable[[Composed], Mapping[str, Any] | None], argv: Sequence[str] | None = None) -> None:
    """Runs job `name` with the overrides of the command line; every job of a sweep is checked before the first runs.

    `run` does one job and returns the record of its run, with the folder as `dir`, if it leaves one: a sweep shows in a table
    at its end what became of its jobs, and writes it as CSV beside the runs. With `dry_run=true` the jobs are listed instead.

    Of the processes of a torchrun, which all do the same jobs, the first one speaks and writes. Exits with 2 and one message
    where the configuration is wrong, with 1 where a run failed, and with the code of `Preempted` where a run was told to
    stop: that stops the sweep.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    register_schemas()
    jobs, sweeping = _checked(name, arguments)
    if any(isinstance(job, Launch) and job.dry_run for job in jobs):
        _list(name, jobs)
        return
    keep_freed_memory()
    # Reports of loading say that a new head is new; what matters of it is in our own messages.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers report their use, unasked
    outcomes: list[Outcome] = []
    failures: list[str] = []

    @hydra.main(version_base="1.3", config_path="pkg://conf", config_name=name)
    def main(cfg: DictConfig) -> None:
        begun = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            record = run(validated(name, cfg))
        except KeyboardInterrupt:
            _say("stopped; what is complete is kept, and the same command goes on from there")
            raise SystemExit(130) from None
        except Preempted as stopped:
            _say(str(stopped))
            raise
        except Exception as error:
            # Whatever a job of a sweep dies of, the others go on; what failed is told at the end.
            if os.environ.get("REWARDLOOP_TRACE"):
                raise
            said = str(error) if isinstance(error, (ValueError, RunBusyError)) else f"{type(error).__name__}: {error}"
            outcomes.append(Outcome(status=JobStatus.failed, message=said))
            failures.append(f"{' '.join(HydraConfig.get().overrides.task)}: {said}" if sweeping else said)
            # A process may die of what the others never see, such as its own memory.
            _say(f"failed: {failures[-1]}", always=not isinstance(error, ValueError))
        else:
            outcomes.append(outcome_of(record, begun=begun))

    sys.argv = [f"rewardloop {name}", *arguments]
    with exit_without_teardown():
        with raise_on_signal():
            main()
        # A launcher that hands the jobs to other processes leaves nothing here.
        if sweeping and isinstance(jobs[0], Launch) and len(outcomes) == len(jobs):
            _tell(name, jobs, outcomes)
        if failures:
            if sweeping:
                _say("\n  ".join([f"{len(failures)} job(s) failed:", *failures]))
            raise SystemExit(1)


def _checked(name: str, arguments: Sequence[str]) -> tuple[tuple[Any, ...], bool]:
    """The jobs that the arguments ask for, none where Hydra only prints, and whether they are a sweep; refuses what is wrong."""
    if INFORMATIVE & {argument.split("=")[0] for argument in arguments}:
        return (), False
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    try:
        found = command(name, overrides, multirun=bool({"-m", "--multirun"} & set(arguments)))
        if not any(isinstance(job, Launch) and job.dry_run for job in found.jobs):  # which may be meant for another machine
            for job in found.jobs:
                _require_world(job)
            _require_own_out(found.jobs)
    except ConfigError as error:
        refuse(str(error))
    return tuple(found.jobs), found.sweeping


def refuse(message: str) -> NoReturn:
    """Ends the command with a message for the user."""
    _say(f"rewardloop: {message}")
    raise SystemExit(2)


def rank() -> int:
    """The number of this process among those that torchrun started."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def print_on_main(line: str) -> None:
    """Prints on the first process: what one says, the others need not repeat."""
    if rank() == 0:
        print(line)


def _say(message: str, *, always: bool = False) -> None:
    """A line for the user from the first process, from each where `always`."""
    if rank() == 0:
        print(message, file=sys.stderr)
    elif always:
        print(f"process {rank()}: {message}", file=sys.stderr)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def _list(name: str, jobs: Sequence[Any]) -> None:
    """The dry run of a command; what would refuse it on this machine is told as well, since the sweep may be meant for another."""
    if rank() > 0:
        return
    print_plan(name, jobs, _console())
    for message in dict.fromkeys(filter(None, map(_why_no_world, jobs))):
        print(f"note: {message}")


def _tell(name: str, jobs: Sequence[Any], outcomes: Sequence[Outcome]) -> None:
    """The table at the end of a sweep, and the files that it is written to."""
    if rank() > 0:
        return
    print_outcomes(name, jobs, outcomes, _console())
    for path in write_outcomes(name, jobs, outcomes):
        print(path)


def _why_no_world(job: Any) -> str:
    """What is wrong where a job reads from a microworld which is not there; else empty."""
    if not isinstance(job, Launch) or Path(job.world).is_dir():
        return ""
    read = [text for setting in settings_of(job).values() for text in _texts(setting.value)]
    if not any(text.startswith(f"{job.world}/") for text in read):
        return ""
    return (
        f"world={job.world} does not exist; make it with `rewardloop study experiment=demo`, name another folder, or give "
        "models and data of your own (model=custom data=custom)."
    )


def _texts(value: Any) -> list[str]:
    """The texts of a setting, which may be a list."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def _require_world(job: Any) -> None:
    if message := _why_no_world(job):
        raise ConfigError(message)


def _require_own_out(jobs: Sequence[Any]) -> None:
    """Refuses a sweep whose jobs would write one result over another."""
    outs = [job.out for job in jobs if isinstance(job, BenchJob) and job.out]
    if len(set(outs)) < len(outs):
        raise ConfigError(f"all jobs of the sweep would write out={outs[0]}; leave it out, the results lie in the runs' folders.")
