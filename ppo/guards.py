"""What ends a run with an error: numbers that are not finite, and a policy too far from its reference.

Shapes: B episodes.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from core.runs.checkpoints import complete_steps, step_folder
from ppo.config import Algo, KLConfig


class DivergenceError(ValueError):
    """Training cannot go on; the message says why and what to change."""


def require_finite_scores(scores_B: Tensor, name: str) -> None:
    """Raises `DivergenceError` if a score of the reward `name` is NaN or infinite."""
    if rows := (~scores_B.isfinite()).nonzero().flatten().tolist():
        raise DivergenceError(
            f"{len(rows)} of {len(scores_B)} scores of {name} are not finite (the first is {scores_B[rows[0]].item()}, of episode "
            f"{rows[0]}). Score these prompts with it alone, and load a model in fp32 or bf16 if it is in fp16."
        )


def require_kl_below(kl: float, config: KLConfig) -> None:
    """Raises `DivergenceError` if the mean KL of a batch, in nats per completion, is not finite or above `config.stop`."""
    if not math.isfinite(kl):
        raise DivergenceError(f"the KL to the reference is {kl}. Lower optim.lr or epochs, or load the policy with model.dtype=fp32.")
    if config.stop is not None and kl > config.stop:
        raise DivergenceError(
            f"the KL to the reference is {kl:.4g} nats per completion, above kl.stop={config.stop}. Raise kl.beta or set kl.target, lower "
            "optim.lr or epochs, or raise kl.stop."
        )


def require_finite_step(loss: float, grad_norm: float) -> None:
    """Raises `DivergenceError` if the loss or the gradient norm of an optimiser step is NaN or infinite."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise DivergenceError(
            f"the loss is {loss} and the gradient norm {grad_norm}. Lower optim.lr, epochs or optim.max_grad_norm, set dual_clip=3, "
            "or train with model.dtype=fp32."
        )


@contextmanager
def guarded(run_dir: Path, algo: Algo, batch: int) -> Generator[None]:
    """Adds to a `DivergenceError` raised inside it the algorithm, the batch and the checkpoints that remain."""
    try:
        yield
    except DivergenceError as error:
        raise DivergenceError(ended(run_dir, algo, batch, str(error))) from None


def ended(run_dir: Path, algo: Algo, batch: int, why: str) -> str:
    """The message of a run that ended in `batch`: why, and which checkpoints remain."""
    steps = complete_steps(run_dir)
    left = f"The last complete checkpoint is {step_folder(run_dir, steps[-1])}" if steps else "No checkpoint was written yet"
    if (run_dir / "best").is_symlink():
        left += f", the best {(run_dir / 'best').readlink().name}"
    return f"{algo.upper()} ended in batch {batch}: {why} {left}."
