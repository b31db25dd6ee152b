"""Which engine wrote a training state, and on how many processes: beside the state, to be compared before it is read."""

import json
from pathlib import Path

from core.config import EngineKind
from core.process.world import World

ENGINE = "engine.json"


def write_engine(folder: Path, kind: EngineKind, world: World) -> None:
    if world.is_main:
        (folder / ENGINE).write_text(json.dumps({"kind": str(kind), "processes": world.size}), encoding="utf-8")


def require_same_engine(folder: Path, kind: EngineKind, world: World, *, any_size: bool) -> None:
    """Raises `ValueError` where the state in the folder is another engine's."""
    found = json.loads((folder / ENGINE).read_text(encoding="utf-8"))
    plain = {EngineKind.single, EngineKind.ddp}
    same = found["kind"] == kind or {found["kind"], str(kind)} <= plain
    if not same or (found["processes"] != world.size and not any_size):
        raise ValueError(
            f"{folder} was saved by engine={found['kind']} on {found['processes']} process(es), not engine={kind} on {world.size}; "
            "start it that way again, or give resume=false to start anew."
        )
