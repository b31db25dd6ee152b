"""Converts checkpoints of transformers' trainers to checkpoints of a run, and back."""

import shutil
import tempfile
from collections.abc import Container, Generator
from contextlib import contextmanager
from pathlib import Path

from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from core.disk import MARKER, atomic_folder
from core.runs.checkpoints import complete_steps, step_folder
from ppo.state import PPOState, write_state

TRAINER = "trainer"
RESUME_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
"""The files of a transformers checkpoint that only resuming needs."""


def keep_checkpoint(
    saved: Path, run_dir: Path, state: PPOState, *, planned: Container[int], generation: GenerationConfig | None = None
) -> None:
    """Moves what transformers saved to `checkpoints/step-NNNNNN/`: a plain model, and under `trainer/` what resuming needs.

    A model's generation config is replaced by `generation`: in training it held what the trainer needs.
    Earlier checkpoints at `planned` steps lose their optimiser state; others, saved only to resume from, are deleted.
    """
    target = step_folder(run_dir, state.step)
    with atomic_folder(target) as folder:
        (folder / TRAINER).mkdir()
        for file in saved.iterdir():
            if file.name != "training_args.bin":  # a pickle that nothing reads
                shutil.move(file, folder / TRAINER / file.name if file.name in RESUME_FILES else folder / file.name)
        if generation is not None and (folder / GENERATION_CONFIG_NAME).exists():  # an adapter has none
            generation.save_pretrained(folder)
        write_state(folder, state)
    shutil.rmtree(saved)
    for earlier in complete_steps(run_dir):
        if earlier < state.step:  # only the newest is resumed from
            folder = step_folder(run_dir, earlier)
            (folder / TRAINER / "optimizer.pt").unlink(missing_ok=True)
            if earlier not in planned:
                (folder / MARKER).unlink()  # first: half a checkpoint must not be taken for a whole one
                shutil.rmtree(folder)


@contextmanager
def as_saved(checkpoint: Path) -> Generator[str]:
    """A temporary folder of links in which one of our checkpoints is laid out as transformers expects."""
    with tempfile.TemporaryDirectory() as folder:
        for file in (*checkpoint.iterdir(), *(checkpoint / TRAINER).iterdir()):
            if file.is_file():
                Path(folder, file.name).symlink_to(file.resolve())
        yield folder
