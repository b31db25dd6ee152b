"""`rewardloop show RUN`: what one run was, what came of it, and what to do with it next."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from core.disk import is_complete
from core.hooks.hook import best_step
from core.runs.checkpoints import saved_steps, step_folder
from core.runs.record import CONFIG, RunStatus
from core.runs.warnings import texts_of
from core.shares import in_points
from core.text import duration, shown
from evalhooks.measured_rows import rows_texts
from evalhooks.rewardbench.v2 import DOMAINS
from launch.history.arguments import parse, said
from launch.history.find import KILLED, Record, one_run, status_of, study_of
from launch.history.listing import age_of, bytes_text, size_of
from launch.history.saved_config import changed_settings
from launch.history.scores import MAIN, evaluations_of, scores_of
from launch.terminal.closing import bench_scores, bon_findings

HELP = """usage: rewardloop show RUN [runs_dir=runs]

Says of one run (its folder, id or name) what it was, what came of it, its checkpoints, and what to do with it next."""

_COLUMNS = ("train/loss", *MAIN, *(f"rewardbench2/{domain}" for domain in DOMAINS), "kl", "on_policy/rm_accuracy")
_COUNTS = ("num_pairs", "num_dropped_pairs", "num_cut_pairs", "num_equal_pairs", "num_broken_pairs", "num_dropped_prompts")


def main() -> None:
    """Entry point."""
    with said("show", HELP):
        arguments = parse(sys.argv[1:], keys=("runs_dir",))
        if len(arguments.places) != 1:
            raise ValueError(f"give one run, not {len(arguments.places)}.\n\n{HELP}")
        record = one_run(arguments.places[0], Path(arguments.settings.get("runs_dir", "runs")).expanduser())
        for line in filter(None, described(record)):
            print(shown(line))
        _print_checkpoints(record)
        for line in what_next(record):
            print(shown(line))


def described(record: Record) -> Iterator[str]:
    """The lines before the table of checkpoints."""
    folder, status = Path(record["dir"]), status_of(record)
    yield str(folder)
    yield f"  {record['job']} {record['id']} of study {study_of(record)}: {status}"
    if record.get("error") and status != RunStatus.finished:
        yield f"  {record['error']}"
    if record.get("stopped_because"):
        yield f"  stopped early: {record['stopped_because']}"
    took = f"took {duration(record.get('wall_s', 0.0))}"
    hooks = f", {duration(record['hooks_s'])} of it waiting for hooks" if record.get("hooks_s") else ""
    yield f"  started {str(record.get('started', ''))[:16].replace('T', ' ')} UTC ({duration(age_of(record))} ago), {took}{hooks}"
    yield f"  {bytes_text(size_of(folder))} on disk"
    versions, git = record.get("versions", {}), record.get("git") or {}
    dirty = " with changes" if git.get("dirty") else ""
    made = [f"{name} {version}" for name, version in versions.items()] + ([f"git {git['revision'][:10]}{dirty}"] if git else [])
    yield f"  made with {', '.join(made)}" if made else ""
    for name, value in _flat(record.get("lineage", {})):
        yield f"  {name}: {value}" if value not in ("", [], None) else ""
    counts = [f"{name.removeprefix('num_').replace('_', ' ')} {record[name]}" for name in _COUNTS if record.get(name)]
    yield f"  {', '.join(counts)}" if counts else ""
    if parts := rows_texts(record):
        yield f"  measured on {', '.join(parts)} (hooks.budget)"
    for warning in texts_of(record):
        yield f"  warning: {warning}"
    yield from _settings(folder)
    if status == RunStatus.finished:
        found = {"bench": bench_scores, "bon": bon_findings}.get(record["job"])
        yield from found(record) if found else []
    if (scores := scores_of(record)) is not None and scores.best is not None and scores.best_step is not None:
        last = "" if scores.last is None else f" (last {_value(scores.metric, scores.last)})"
        yield f"best checkpoint: step {scores.best_step}, {scores.metric} {_value(scores.metric, scores.best)}{last}"


def what_next(record: Record) -> list[str]:
    """The commands that make sense for a run."""
    status, folder = status_of(record), record["dir"]
    if status != RunStatus.finished:
        mend = f"rewardloop rerun {record['id']}"
        return [f"go on with it: {mend}"] if status in (RunStatus.failed, RunStatus.stopped, KILLED) else []
    match record["job"]:
        case "rm":
            return [f"next: rewardloop bench reward.path={folder}, or rewardloop ppo reward.path={folder}"]
        case "ppo":
            return [f"next: rewardloop report 'runs=[{record['id']}]'"]
        case "bon":
            return [f"next: rewardloop bon generators {record['id']} OTHER, to compare its pools with those of another policy"]
        case "bench":
            return [f"next: rewardloop bench compare {record['id']} OTHER, where OTHER is another result or a run"]
        case _:
            return []


def _settings(folder: Path) -> Iterator[str]:
    """The settings that are not the defaults."""
    try:
        settings = changed_settings(folder)
    except ValueError as error:
        yield f"  {folder / CONFIG} cannot be shown: {error}"
        return
    yield "settings that are not the defaults:" if settings else "all settings are the defaults"
    for key, value in settings.items():
        yield f"  {key}={value}"


def _flat(lineage: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in lineage.items():
        yield name.replace("_", " "), _in_words(value)


def _in_words(value: Any) -> Any:
    """Nested facts on one line, without those that say nothing."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        told = {str(name).replace("_", " "): _in_words(own) for name, own in value.items()}
        return "; ".join(f"{name} {own}" for name, own in told.items() if own not in ("", None))
    return value


def _print_checkpoints(record: Record) -> None:
    """The checkpoints with their main metrics; of which there are weights is said by a mark."""
    folder = Path(record["dir"])
    course = evaluations_of(folder)
    kept = [step for step in saved_steps(folder) if is_complete(step_folder(folder, step))]
    steps = sorted({*course, *kept})
    if not steps:
        return
    columns = [name for name in _COLUMNS if any(name in metrics for metrics in course.values())]
    scores = scores_of(record)
    best = best_step(course, scores.metric) if scores else None
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("step", justify="right")
    for name in columns:
        heading = name.replace("rewardbench2/", "RB2 ").replace("rewardbench1/", "RB1 ").replace("_", " ")
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("weights")
    for step in steps:
        values = [_value(name, course[step][name]) if name in course.get(step, {}) else "" for name in columns]
        table.add_row(f"{step}{' *' if step == best else ''}", *values, "kept" if step in kept else "")
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
    print(f"{'* best; ' if best is not None else ''}accuracies in points of 100")


def _value(metric: str, value: float) -> str:
    return in_points(metric, value, ".3f").replace("-0.000", "0.000")  # the mean of standardised scores misses 0 by rounding
