"""What every command does around its jobs, from the command line to the end."""

import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from core.process.exit import ending_with_a_closed_pipe, exit_without_teardown
from core.process.memory import keep_freed_memory
from core.process.quiet import quieten_libraries
from core.process.signals import INTERRUPTED, STOPPED, Preempted, raise_on_signal, stopping_at_once
from core.text import redacted, shown
from launch.compose import Command, Composed, ConfigError, JobT, combinations, command, composed, primary, register_schemas, validated
from launch.obstacles import obstacle, reason
from launch.overrides.command_line import CommandLine, parse
from launch.schema import AnyJob, BenchJob, StudyJob, command_of
from launch.settings import Launch, RunSettings
from launch.sweep import WIDTH, JobOutcome, JobStatus, outcome_of, print_outcomes, print_plan, rows_warnings, write_outcomes

__all__ = ["Composed", "ConfigError", "combinations", "composed", "refuse", "start"]

Tell: TypeAlias = Callable[[Sequence[JobT], Sequence[JobOutcome]], None]
"""What prints the end of a sweep, given the jobs that have ended and what became of each."""


def start(
    schema: type[JobT],
    run: Callable[[Composed[JobT]], Mapping[str, Any] | None],
    argv: Sequence[str] | None = None,
    *,
    tell: Tell[JobT] | None = None,
) -> None:
    """Runs the jobs that the command line asks for; all jobs of a sweep are validated before the first one runs.

    `run` does one job and returns the record of its run, with the folder as `dir`, or None if it leaves no run. A sweep ends with a
    table of what became of its jobs, which is also written as CSV beside the runs, or with what `tell` does instead. With
    `dry_run=true` the jobs are only listed.

    Every process that torchrun started runs the same jobs; the first one prints and writes. Exits with 2 and one message if the
    configuration is wrong, with 1 if a run failed, and with the code of `Preempted` if a run was told to stop, which also stops
    the sweep.
    """
    name = command_of(schema)
    register_schemas()
    line, asked = _checked(schema, sys.argv[1:] if argv is None else argv)
    if _is_dry(asked.jobs):
        _print_dry_run(name, asked, line)
        return
    keep_freed_memory()
    quieten_libraries()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises what goes wrong in itself, to be told by us, and prints no traceback
    outcomes: list[JobOutcome] = []

    @hydra.main(version_base="1.3", config_path="pkg://conf", config_name=primary(schema, line.overrides))
    def main(cfg: DictConfig) -> None:
        if asked.sweeping:
            _redact(Path(HydraConfig.get().sweep.dir) / "multirun.yaml")
        begun = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            record = run(validated(schema, cfg))
        except Preempted as stopped:
            _print_error(str(stopped))
            raise
        except Exception as error:
            # Whatever a job of a sweep fails with, the others still run; the table at the end says which failed.
            if os.environ.get("REWARDLOOP_TRACE"):
                raise
            outcomes.append(_failed(error, asked, outcomes))
        else:
            outcomes.append(outcome_of(record, begun=begun))

    sys.argv = [f"rewardloop {name}", *line.arguments]
    with exit_without_teardown(), _told_when_interrupted():
        with _ending_in_a_table(name, asked, outcomes, tell), raise_on_signal(), _told_outside_jobs():
            if _is_parallel(asked):
                outcomes += _run_together(name, asked)
            else:
                main()
        if failed := sum(outcome.status == JobStatus.failed for outcome in outcomes):
            if asked.sweeping:
                _print_error(f"{failed} of {len(asked.jobs)} jobs failed; their errors stand above")
            raise SystemExit(1)


def _failed(error: Exception, asked: Command[Any], before: Sequence[JobOutcome]) -> JobOutcome:
    """The outcome of a job that ended with an error, which is told; what a job `before` it failed with too is not told again."""
    said = reason(error, Path.cwd())
    is_known = said in [outcome.message for outcome in before]
    told = f"{' '.join(HydraConfig.get().overrides.task)}: {'the same' if is_known else said}" if asked.sweeping else said
    # Some failures, such as running out of memory, hit one process alone.
    _print_error(f"failed: {told}", every_process=not isinstance(error, ValueError))
    if asked.sweeping and num_processes() > 1:
        _end_unless_together(error, said)
    return JobOutcome(status=JobStatus.failed, message=said)


@contextmanager
def _ending_in_a_table(name: str, asked: Command[JobT], outcomes: Sequence[JobOutcome], tell: Tell[JobT] | None) -> Generator[None]:
    """Context of a sweep that ends in the table of its jobs, whose outcomes are added in it. With `tell`, it does so after Ctrl-C too."""
    try:
        yield
    finally:
        if tell is not None and asked.sweeping and rank() == 0:
            tell(asked.jobs[: len(outcomes)], outcomes)
    # A Hydra launcher that submits the jobs elsewhere leaves no outcomes here.
    if tell is None and asked.sweeping and len(outcomes) == len(asked.jobs):
        _print_sweep(name, asked.jobs, outcomes)


def _is_parallel(asked: Command[Any]) -> bool:
    """Whether several jobs of a sweep are to run at a time. Raises `SystemExit` where that cannot be."""
    together = [job for job in asked.jobs if isinstance(job, RunSettings) and job.parallel != 1]
    if not asked.sweeping or not together:
        return False
    parallel = f"parallel={together[0].parallel}"
    if num_processes() > 1:
        refuse(f"{parallel} starts a process for each job, and torchrun several; leave one of them out.")
    if any(override.startswith("hydra/launcher=") for override in asked.overrides[0]):
        refuse(f"{parallel} runs the jobs on this machine, and hydra/launcher=... hands them to another scheduler; leave one of them out.")
    return True


def _run_together(name: str, asked: Command[Any]) -> list[JobOutcome]:
    """What became of the jobs of a sweep that ran several at a time."""
    with stopping_at_once():
        from launch.parallel.sweep_jobs import run_together

    return run_together(name, asked.jobs, asked.overrides)


def _end_unless_together(error: Exception, said: str) -> None:
    """Ends this process, and with it the others, unless they fail too: they wait for it, and must not meet it in the next job."""
    from core.process.together import failed_together  # imports torch

    if not failed_together(error):
        line = f"process {rank()} failed without the others, which ends the sweep; the same command goes on from there: {said}"
        print(shown(line), file=sys.stderr)
        raise SystemExit(1) from error


@contextmanager
def _told_when_interrupted() -> Generator[None]:
    """Context out of which Ctrl-C leads with one line and its exit code."""
    try:
        yield
    except KeyboardInterrupt:
        _print_error(STOPPED)
        raise SystemExit(INTERRUPTED) from None


@contextmanager
def _told_outside_jobs() -> Generator[None]:
    """Context out of which an error in Hydra's own files, such as those of a sweep on a full disk, leads with one line."""
    try:
        yield
    except OSError as error:
        if os.environ.get("REWARDLOOP_TRACE"):
            raise
        _print_error(f"failed: {reason(error, Path.cwd())}", every_process=True)
        raise SystemExit(1) from None


def _checked(schema: type[JobT], arguments: Sequence[str]) -> tuple[CommandLine, Command[JobT]]:
    """The command line and its jobs, none if Hydra only prints. Ends the command with a message for what cannot run."""
    try:
        line = parse(schema, arguments)
        if line.help:
            from launch.terminal.help import help_of  # it reads the source of all configurations

            with ending_with_a_closed_pipe():
                if rank() == 0:
                    print(help_of(command_of(schema)))
                raise SystemExit(0)
        if line.informative:
            return line, Command(jobs=(), sweeping=False)
        asked = command(schema, line.overrides, multirun=line.multirun)
        if not _is_dry(asked.jobs):  # a dry run may be for another machine
            for job in asked.jobs:
                if found := obstacle(job):
                    raise ConfigError(found)
            _require_own_out(asked.jobs)
    except ValueError as error:
        refuse(str(error))
    return line, asked


def _redact(file: Path) -> None:
    """Takes secrets out of the file in which Hydra keeps the overrides of a sweep as they were typed."""
    if rank() == 0 and file.is_file():
        file.write_text(redacted(file.read_text(encoding="utf-8")), encoding="utf-8")


def refuse(message: str) -> NoReturn:
    """Ends the command with a message for the user."""
    _print_error(f"rewardloop: {message}")
    raise SystemExit(2)


def rank() -> int:
    """The number of this process among those that torchrun started."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    """How many processes torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def print_on_main(line: str) -> None:
    """Prints on the first process only."""
    if rank() == 0:
        print(shown(line))


def _print_error(message: str, *, every_process: bool = False) -> None:
    """Prints a line on stderr: from the first process, or with `every_process` from each."""
    if rank() == 0:
        print(shown(message), file=sys.stderr)
    elif every_process:
        print(f"process {rank()}: {shown(message)}", file=sys.stderr)


def _is_dry(jobs: Sequence[AnyJob]) -> bool:
    return any(isinstance(job, RunSettings | StudyJob) and job.dry_run for job in jobs)


def _print_dry_run(name: str, asked: Command[AnyJob], line: CommandLine) -> None:
    """Lists the jobs with the settings under the keys of the command line, what each will do, and as notes whatever would stop it on
    this machine: the command may be meant for another one."""
    from launch.terminal import preview  # it reads the jobs' inputs, and the jobs import this module

    if rank() > 0:
        return
    found = [job for job in asked.jobs if isinstance(job, RunSettings)]
    if found:
        print_plan(name, found, _console(), line.keys)
        told = preview.of_jobs(found)
    else:
        studies = [composed(StudyJob, overrides) for overrides in asked.overrides or (line.overrides,)]
        told = [text for study in studies for text in preview.of_study(study)]
    obstacles = dict.fromkeys(filter(None, map(obstacle, asked.jobs)))
    told = [text for text in told if not any(found in text for found in obstacles)]
    for text in [*told, *(f"note: {found}" for found in obstacles)]:
        print(shown(text))


def _print_sweep(name: str, jobs: Sequence[AnyJob], outcomes: Sequence[JobOutcome]) -> None:
    """Prints the table of a finished sweep and writes it to its files; nothing for jobs that leave no runs."""
    found = _with_runs(jobs)
    if rank() > 0 or not found:
        return
    print_outcomes(name, found, outcomes, _console())
    for line in rows_warnings(name, outcomes):
        print(shown(line))
    for path in write_outcomes(name, found, outcomes):
        print(path)


def _with_runs(jobs: Sequence[AnyJob]) -> list[Launch]:
    """The jobs of a command, which are all of one kind, if it is one of the trainers' or best-of-N; else none."""
    return [job for job in jobs if isinstance(job, Launch)]


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def _require_own_out(jobs: Sequence[AnyJob]) -> None:
    """Rejects a sweep whose jobs would overwrite each other's result."""
    outs = [job.out for job in jobs if isinstance(job, BenchJob) and job.out]
    if len(set(outs)) < len(outs):
        raise ConfigError(f"every job of the sweep would write out={outs[0]}; leave it out, the results are in the folders of the runs.")
