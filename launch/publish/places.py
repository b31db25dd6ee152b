"""The settings of a run as others may see them: ids of the hub stay, and places on this machine become the names of files."""

import copy
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path, PurePath
from typing import Any

from core.config import IdentityRole
from core.data.hub import HubId
from core.runs.identity import INPUTS
from launch.history.find import Record
from launch.identity import roles_of
from launch.schema import RMJob
from rmtrain.data import named_sources

BENCHMARK = "hooks.rewardbench2"
MODEL = "model.path"


def hub_id(record: Record, key: str, place: str) -> HubId | None:
    """The repository of the hub that `place`, the value of a setting, named when the run began.

    The record tells, which has a hash for what lay on this machine: `a/b` may be either. One that says nothing leaves it to the disk.
    """
    inputs: Mapping[str, Any] = record["identity"].get(INPUTS) or {}
    if key in inputs:
        return HubId.parse(inputs[key]) if isinstance(inputs[key], str) else None  # of an adapter it has two hashes
    return None if Path(place).expanduser().exists() else HubId.parse(place)


def data_places(job: RMJob, record: Record) -> dict[str, HubId | None]:
    """Where the training data of a run lie, in order, each with the dataset of the hub that it is, if it is one."""
    keys: Mapping[str, Any] = record["identity"].get(INPUTS) or {}
    found: dict[str, HubId | None] = {}
    for number, source in enumerate(named_sources(job.data).values()):
        key = next((key for key in keys if key.startswith(f"data.{number}.")), "")
        found[source.path] = hub_id(record, key, source.path)
    return found


def public_job(job: RMJob, record: Record, *, base: str, benchmark: str) -> RMJob:
    """A copy of a job with nothing of this machine among its settings that identify a run.

    A base model that is no id of the hub is called `base`, and the rows of RewardBench 2 `benchmark` unless that is empty.
    """
    given = {MODEL: base, BENCHMARK: benchmark}
    data = data_places(job, record)

    def public(key: str, place: str) -> str:
        hub = data.get(place) if key.startswith("data.") and key != "data.validation" else hub_id(record, key, place)
        if hub is not None or place.startswith("pip:") or "{%" in place or "{{" in place:  # or a chat template itself
            return place
        return given.get(key) or PurePath(place).name

    found = copy.deepcopy(job)
    _rename(found, "", public)
    return found


def _rename(config: Any, key: str, public: Any) -> None:
    """Replaces every place in a configuration by what `public` makes of its key and value."""
    for name, role in roles_of(type(config)).items():
        own, value = f"{key}.{name}".lstrip("."), getattr(config, name)
        if role == IdentityRole.content_hashed and name != "revision":
            if isinstance(value, list):
                setattr(config, name, [public(own, place) for place in value])
            elif value:
                setattr(config, name, public(own, value))
        elif role != IdentityRole.hashed:
            continue
        elif is_dataclass(value):
            _rename(value, own, public)
        elif isinstance(value, Mapping):
            for item_name, item in value.items():
                if is_dataclass(item):
                    _rename(item, f"{own}.{item_name}", public)
