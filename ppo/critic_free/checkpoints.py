"""Converts checkpoints of transformers' trainers to checkpoints of a run, and back."""

import shutil
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from core.disk import atomic_folder
from core.engines.resume import STATE, make_way
from core.runs.checkpoints import step_folder
from ppo.state import PPOState, write_state

RESUME_FILES = ("optimizer.pt", "scheduler.pt", "rng_state", "trainer_state.json")
"""How the files of a transformers checkpoint begin that only resuming needs; each of several processes has its `rng_state_N.pth`."""


def keep_checkpoint(
    saved: Path, run_dir: Path, state: PPOState, *, planned: Iterable[int], generation: GenerationConfig | None = None
) -> None:
    """Moves what transformers saved to `checkpoints/step-NNNNNN/`: a plain model, and under `state/` what resuming needs.

    A model's generation config is replaced by `generation`: in training it held what the trainer needs.
    Older checkpoints go as `core.engines.resume.make_way` has it.
    """
    target = step_folder(run_dir, state.step)
    make_way(run_dir, state.step, planned=planned)
    with atomic_folder(target) as folder:
        (folder / STATE).mkdir()
        for file in saved.iterdir():
            if file.name != "training_args.bin":  # a pickle that nothing reads
                shutil.move(file, folder / STATE / file.name if file.name.startswith(RESUME_FILES) else folder / file.name)
        if generation is not None and (folder / GENERATION_CONFIG_NAME).exists():  # an adapter has none
            generation.save_pretrained(folder)
        write_state(folder, state)
    shutil.rmtree(saved)


@contextmanager
def as_saved(checkpoint: Path) -> Generator[str]:
    """A temporary folder of links in which one of our checkpoints is laid out as transformers expects."""
    with tempfile.TemporaryDirectory() as folder:
        for file in (*checkpoint.iterdir(), *(checkpoint / STATE).iterdir()):
            if file.is_file():
                Path(folder, file.name).symlink_to(file.resolve())
        yield folder
