"""A note beside a training state of the engine and number of processes that wrote it, checked before loading."""

from pathlib import Path

from core.config import EngineKind
from core.disk import read_json, write_json
from core.process.world import World

ENGINE = "engine.json"


def write_engine(folder: Path, kind: EngineKind, world: World) -> None:
    if world.is_main:
        write_json(folder / ENGINE, {"kind": kind, "processes": world.size})


def require_same_engine(folder: Path, kind: EngineKind, world: World, *, any_size: bool) -> None:
    """Raises `ValueError` if another engine, or unless `any_size` another number of processes, wrote the state in the folder."""
    found = read_json(folder / ENGINE, remedy=f"remove {folder.parent}; the same command then goes on from the checkpoint before it")
    plain = {EngineKind.single, EngineKind.ddp}
    same = found["kind"] == kind or {found["kind"], str(kind)} <= plain
    if not same or (found["processes"] != world.size and not any_size):
        raise ValueError(
            f"{folder} was saved by engine={found['kind']} on {found['processes']} process(es), not engine={kind} on {world.size}; "
            "start it the same way again, or set resume=false to start anew."
        )
