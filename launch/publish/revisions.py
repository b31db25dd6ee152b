"""A run as a revision of a repository: its checkpoint, what was measured of it, and its settings as others may see them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.disk import MARKER, is_complete, jsonable, read_json, require_undamaged
from core.runs.checkpoints import STATE, step_folder
from core.runs.identity import INPUTS
from core.runs.record import CONFIG, RECORD
from core.runs.retention import Keep
from evalhooks.rewardbench.domains import PREFIX, scores_of
from launch.history.find import Record
from launch.history.saved_config import saved_job
from launch.identity import hashed_settings
from launch.publish.places import BENCHMARK, data_places, hub_id, public_job
from launch.schema import RMJob

HELD_OUT = "held_out/accuracy"
REWARDBENCH1 = "rewardbench1/overall"
_RESTORE = "restore it from a copy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """A run as a revision: the branch, its settings with nothing of this machine in them, the checkpoint and that one's metrics.

    `benchmark` is the dataset on the hub that the rows of RewardBench 2's schema were, empty if they were a file of the user's; `rows`
    tells these rows from others, and is empty if none were scored. `datasets` are the training data that are on the hub.
    """

    name: str
    record: Record
    job: RMJob
    step: int
    weights: Path
    metrics: Mapping[str, float]
    base_model: str
    benchmark: str
    rows: str
    datasets: tuple[str, ...]

    @property
    def scores(self) -> dict[str, float]:
        """The scores on RewardBench 2 by key, without the prefix."""
        return scores_of(self.metrics)

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are those of an adapter."""
        return bool(self.job.lora.rank)

    @property
    def best_step(self) -> int:
        """The run's best checkpoint, which is another one if its weights were not kept."""
        return int(self.record.get("best_step") or self.step)

    @property
    def warnings(self) -> list[str]:
        """What the run warned of."""
        return [str(warning.get("text", warning)) for warning in self.record.get("warnings") or []]

    @property
    def files(self) -> list[Path]:
        """The files of the checkpoint but for what resuming needs; what somebody put beside them is not among them."""
        written = read_json(self.weights / MARKER, remedy=_RESTORE).get("files") if (self.weights / MARKER).stat().st_size else None
        there = sorted(file for file in self.weights.iterdir() if file.is_file() and file.name != MARKER and not file.name.startswith("."))
        return [file for file in there if written is None or file.name in written]


def value_of(revision: Revision, metric: str) -> float | None:
    """A metric of the published checkpoint, None if it was not measured or is not finite."""
    values = {**revision.metrics, **{PREFIX + key: value for key, value in revision.scores.items()}}
    found = values.get(metric)
    return found if found is not None and math.isfinite(found) else None


def settings_of_run(record: Record) -> RMJob:
    """The settings of a reward model's run as they were given.

    Raises `ValueError` naming the run if they cannot be read, or are not those that its record has it identified by.
    """
    try:
        job = saved_job(Path(record["dir"]))
    except ValueError as error:
        raise ValueError(f"{record['dir']}: {error}") from error
    assert isinstance(job, RMJob)
    settings = jsonable(hashed_settings(job))
    assert isinstance(settings, dict)
    for key, own, recorded in _differing(settings, record["identity"], ""):
        raise ValueError(
            f"{record['dir']}: {CONFIG} has {key}={own}, and {RECORD}, by which the run is known, {recorded}; restore "
            "the one that was changed."
        )
    return job


def revision_of(record: Record, job: RMJob, *, base: str, benchmark: str) -> Revision:
    """The revision that a run becomes; `benchmark` is what rows from a file are on the hub, empty if they are not.

    Raises `ValueError` if its weights are not there or were damaged, and for a record that does not say what was measured of them.
    """
    folder = Path(record["dir"])
    step = _published_step(record, folder)
    weights = step_folder(folder, step)
    require_undamaged(weights, str(weights), without=[STATE])
    metrics = _measured(record, folder, step)
    rows = str((record["identity"].get(INPUTS) or {}).get(BENCHMARK) or job.hooks.rewardbench2).removesuffix("@main")
    hub = hub_id(record, BENCHMARK, job.hooks.rewardbench2)
    return Revision(
        name=folder.name.removeprefix("rm-"),
        record=record,
        job=public_job(job, record, base=base, benchmark=benchmark),
        step=step,
        weights=weights,
        metrics=metrics,
        base_model=base,
        benchmark=hub.name if hub else benchmark,
        rows=rows if scores_of(metrics) else "",
        datasets=tuple(found.name for found in data_places(job, record).values() if found),
    )


def _differing(own: Mapping[str, Any], recorded: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any, Any]]:
    """The settings that both have, with other values; runs of another version may lack some."""
    for name in own.keys() & recorded.keys():
        ours, theirs = own[name], recorded[name]
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from _differing(ours, theirs, f"{key}{name}.")
        elif ours != theirs:
            yield f"{key}{name}", ours, theirs


def _published_step(record: Record, folder: Path) -> int:
    """The step of the best checkpoint, or of the last one if the run was to keep that alone."""
    last = record.get("step")
    best = record.get("best_step") or last
    if not isinstance(last, int) or not isinstance(best, int):
        raise ValueError(f"{folder / RECORD} names no steps (step={last!r}, best_step={best!r}); {_RESTORE}.")
    if is_complete(step_folder(folder, best)):
        return best
    place = folder / "checkpoints"
    if place.is_symlink() and not place.exists():
        raise ValueError(f"{place} is a link to {place.readlink()}, which is not there; mount or make that folder.")
    keep = (record.get("checkpoints") or {}).get("keep")
    if keep is not None and not Keep.of(keep).best and is_complete(step_folder(folder, last)):
        return last
    raise ValueError(
        f"{step_folder(folder, best)} is gone: the weights of the best checkpoint of {folder.name} were not kept (keep=[best,last])."
    )


def _measured(record: Record, folder: Path, step: int) -> dict[str, float]:
    """The metrics of the checkpoint at `step`. Raises `ValueError` where the record is not what the hooks wrote at that step."""
    found = record.get("best") if step == (record.get("best_step") or step) else None
    found = found or (record.get("final") if step == record.get("step") else None) or {}
    metrics = {name: _number(value, f"{folder / RECORD}: {name}") for name, value in found.items()}
    file = folder / "evals" / f"{step_folder(folder, step).name}.json"
    written = read_json(file, remedy=_RESTORE) if file.is_file() else {}
    for name in metrics.keys() & written.keys():
        own = _number(written[name], f"{file}: {name}")
        if metrics[name] != own and not (math.isnan(metrics[name]) and math.isnan(own)):
            raise ValueError(
                f"{folder / RECORD} has {metrics[name]} as {name} of step {step}, and {file}, where it was measured, has {own}; restore "
                "the one that was changed."
            )
    return metrics


def _number(value: object, where: str) -> float:
    """A number of a record, in which those that are not finite are text. Raises `ValueError` beginning with `where` for anything else."""
    try:
        return float(str(value))
    except ValueError as error:
        raise ValueError(f"{where} is {value!r}, which is no number; {_RESTORE}.") from error
