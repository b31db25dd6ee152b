"""`rewardloop report wandb=...`: a study's panels, saved as a workspace of Weights & Biases or written as its specification."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.disk import write_json
from core.records import AXIS
from core.runs.record import read_records
from core.runs.trackers.wandb_tracker import has_api_key, silence
from core.runs.tracking import METRICS, read_metrics
from evalhooks.report.workspace import specification, workspace
from launch.schema import ReportJob


def build(job: ReportJob) -> str:
    """Writes or saves what `job.wandb` asks for; returns a line that says where it is.

    Raises `ValueError` for a study without metrics, without a login or an entity, and if W&B does not take the workspace.
    """
    folder = Path(job.runs_dir) / job.study
    found = _metrics(list(read_records(folder, "*", print)))
    if not any(found.values()):
        raise ValueError(f"no run in {folder} has logged metrics, so there are no panels to make; start some, or name another study.")
    names = {"checkpoint_metrics": found[AXIS], "training_metrics": found["train/step"]}
    project = job.wandb_project or os.environ.get("WANDB_PROJECT") or "rewardloop"
    entity = job.wandb_entity or os.environ.get("WANDB_ENTITY", "")
    if job.wandb != "workspace":
        file = Path(job.wandb).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, specification(workspace(entity=entity, project=project, study=job.study, **names)))
        return f"the specification of the workspace is in {file}; nothing was sent"
    silence()
    if not has_api_key():
        raise ValueError(
            "wandb=workspace needs a login to Weights & Biases, and there is no API key; run `wandb login`, set WANDB_API_KEY, or write "
            "the specification alone (wandb=FILE.json)."
        )
    return _saved(entity, project, job.study, names)


def _saved(entity: str, project: str, study: str, names: Mapping[str, Sequence[str]]) -> str:
    import wandb
    from wandb.errors import Error

    try:
        owner = entity or wandb.Api().default_entity
        if not owner:
            raise ValueError("the login has no default entity; name the user or team that owns the project by wandb_entity=NAME.")
        made = workspace(
            entity=owner,
            project=project,
            study=study,
            checkpoint_metrics=names["checkpoint_metrics"],
            training_metrics=names["training_metrics"],
        )
        return f"the workspace is at {made.save().url}"
    except (Error, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"W&B did not take the workspace of {entity or 'the default entity'}/{project} ({reason}); check that wandb_entity and "
            "wandb_project exist and the host answers, or write the specification alone (wandb=FILE.json)."
        ) from error


def _metrics(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """By axis the names of the metrics that runs logged; of training those of one run of each kind, which log the same."""
    on_checkpoints: set[str] = set()
    in_training: dict[str, set[str]] = {}
    for record in records:
        folder, kind = Path(record["dir"]), str(record["job"])
        for row in read_metrics(folder / METRICS, axis=AXIS, say=print).values():  # runs of bon and bench have nothing else
            on_checkpoints |= row.keys()
        if not in_training.get(kind):
            rows = read_metrics(folder / METRICS, axis="train/step", say=print)
            in_training[kind] = {name for row in rows.values() for name in row}
    return {AXIS: sorted(on_checkpoints), "train/step": sorted(set[str]().union(*in_training.values()))}
