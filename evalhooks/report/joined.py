"""What runs of best-of-N and of benchmarks say of reward models, put together by reward model."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.runs.record import RECORD, RunStatus, read_record, value_at
from evalhooks.analysis.paper_tables import PUBLISHED

Record = Mapping[str, Any]


def with_rewards(records: Sequence[Record]) -> list[Record]:
    """The records, and those of the trained reward models that chose from pools among them, each once."""
    known = {str(record["id"]) for record in records}
    found: list[Record] = list(records)
    for model in (model for record in records for model in reward_models_of(record).values()):
        # A reward model is a checkpoint of a run, two folders below it.
        parents = Path(model["path"]).absolute().parents[:2] if model["path"] else ()
        folder = next((place for place in parents if (place / RECORD).is_file()), None)
        if folder is None or model["run"] in known:
            continue
        own = read_record(folder)
        if own["status"] == RunStatus.finished and own["job"] == "rm":
            known.add(model["run"])
            found.append({**own, "dir": str(folder)})
    return found


def reranked(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """What reward models chose in runs of best-of-N, as `bon/<task>@<n>`, by the id of the run that trained them, otherwise their path.

    Of several runs of one reward model the newest counts.
    """
    found: dict[str, dict[str, float]] = {}
    for record in sorted(records, key=lambda record: str(record.get("finished", ""))):
        for name, model in reward_models_of(record).items():
            prefix = f"bon/{name}/"
            final: Mapping[str, Any] = record.get("final", {})
            chosen = {f"bon/{key.removeprefix(prefix)}": float(value) for key, value in final.items() if key.startswith(prefix)}
            found[model["run"]] = {key: value for key, value in chosen.items() if "@" in key}
    return found


def chosen_only(records: Sequence[Record], known: Collection[str]) -> list[dict[str, Any]]:
    """Entries, as a summary has them, for reward models of others that only chose from pools: those that are not `known` by id."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        for name, model in reward_models_of(record).items():
            if model["run"] not in known:
                entry = {"id": model["run"], "name": name, "dir": record["dir"], "base": model["base"], "data": PUBLISHED}
                found[model["run"]] = entry | {"rewardbench2": {}, "bon": {}, "details": {}, "checkpoints": [], "control": False}
    return list(found.values())


def reward_models_of(record: Record) -> Mapping[str, Mapping[str, str]]:
    """The reward models that chose from pools in a run of best-of-N, by name: each with its `run` (its name where the record has none),
    and its `path`, `base` and `data`, empty where it has none."""
    found: Mapping[str, Mapping[str, str]] = (value_at(record, "lineage.reward_models") or {}) if record["job"] == "bon" else {}
    return {name: {"run": name, "path": "", "base": "", "data": "", **model} for name, model in found.items()}
