"""What a reward-model run keeps on disk: checkpoints that any tool loads, and what resuming needs (see core.engines.resume)."""

from collections.abc import Callable, Iterable
from pathlib import Path

from core.engines.resume import STATE, newest_step, save_step
from core.models.export import export_model
from core.runs.checkpoints import step_folder
from rmtrain.session import RMSession


def save(session: RMSession, run_dir: Path, step: int, *, planned: Iterable[int]) -> None:
    """Writes the checkpoint of a step: the model, and weights and optimiser as training has them.

    The order of the pairs and all draws are functions of seed and step, so the step alone stands for them.
    """
    weights = session.engine.weights("model.") if session.engine.sharded else None

    def write(folder: Path) -> None:
        export_model(session.model, session.tokenizer, folder, weights=weights)

    save_step(session.world, session.engine, run_dir, step, planned=planned, write=write)


def restore(session: RMSession, run_dir: Path, say: Callable[[str], None]) -> int:
    """Loads the newest checkpoint that can be resumed from and returns its step, 0 where there is none; `say` hears of torn ones."""
    step = newest_step(session.world, run_dir, say)
    if step:
        session.engine.load(step_folder(run_dir, step) / STATE)
    return step
