"""The log of a training: means over the pairs of some steps, and throughput."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from core.disk import read_json, write_json
from core.hooks.run_context import RunContext
from core.process.hardware import peak_flops
from core.progress import short_count
from core.runs.warnings import not_learned
from rmtrain.metrics import PairSums
from rmtrain.session import RMSession, StepResult

MIN_ROWS = 10
"""Rows of the training log at least, as far as there are steps: of one or two nobody sees how the loss fell."""
SUMS = "log.json"


class TrainingLog:
    """Sums over the pairs since the last row, which belong to a checkpoint, so that a resumed run logs the rows of an uninterrupted one."""

    def __init__(self, session: RMSession, context: RunContext) -> None:
        self._session, self._context = session, context
        self._every = max(1, min(session.config.log_every, session.num_steps // MIN_ROWS))
        self._since_last_row, self._lately = PairSums.zeros(), PairSums.zeros()
        self._meter = Meter(session)

    def begin(self) -> None:
        """Counts the time from here on."""
        self._meter = Meter(self._session)

    def add(self, step: int, result: StepResult) -> None:
        """Takes in a step, writes the row that is due after it, and tells the live line."""
        session, context = self._session, self._context
        self._since_last_row, self._lately = self._since_last_row + result.sums, self._lately + result.sums
        context.progress.note(_note(self._lately, self._meter.tokens_per_second(self._since_last_row)))
        context.progress.advance()
        if step % self._every == 0 or step == session.num_steps:
            row = {**self._since_last_row.metrics(), **self._meter.metrics(self._since_last_row), "grad_norm": result.grad_norm}
            context.log_training(row | {"learning_rate": session.learning_rate(step), "epoch": session.epoch(step)}, step)
            self._since_last_row = PairSums.zeros()
        if step == session.num_steps:
            context.warn(not_learned(self._lately.metrics()["accuracy"], num_pairs=self._lately.num_pairs.item()))
        if step % session.config.log_every == 0:
            self._lately = PairSums.zeros()

    def pause(self, since: float) -> None:
        """Excludes the time since `since`, a reading of the monotonic clock, from throughput."""
        self._meter.pause(since)

    def save(self, folder: Path) -> None:
        """Writes the sums so far into the state of a checkpoint."""
        sums = {"since_last_row": self._since_last_row, "lately": self._lately}
        write_json(folder / SUMS, {name: value.stacked().tolist() for name, value in sums.items()})

    def load(self, folder: Path) -> None:
        """Takes over what `save` wrote; a checkpoint of an older version has no sums, and the next row has fewer steps then.

        Raises `BrokenFileError` if it cannot be read.
        """
        if not (folder / SUMS).is_file():
            return
        saved = read_json(folder / SUMS, remedy=f"remove {folder.parent}; the same command then goes on from the checkpoint before it")
        self._since_last_row, self._lately = (
            PairSums.unstacked(torch.tensor(saved[name], dtype=torch.float64)) for name in ("since_last_row", "lately")
        )


def _note(sums: PairSums, tokens_per_second: float) -> str:
    """What the live line says: loss and accuracy over the pairs of the last steps, up to `log_every`, and the throughput."""
    measured = sums.metrics()
    return f"loss {measured['loss']:.3f}, accuracy {measured['accuracy']:.2f}, {short_count(tokens_per_second)} tokens/s"


class Meter:
    """Measures throughput from one row of the training log to the next; `pause` excludes time spent on hooks and saving."""

    def __init__(self, session: RMSession, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # 2 forward, 2 backward for the gradients of the inputs, and 2 for those of the weights unless they are frozen.
        frozen = session.config.lora.rank > 0
        self._flops_per_token = (4 if frozen else 6) * session.num_weights
        self._peak = peak_flops(session.world.device)
        self._processes = session.world.size
        self._started = clock()

    def metrics(self, sums: PairSums) -> dict[str, float]:
        """Rates since the last call; `sums` cover the pairs trained on since then.

        `tokens_per_second` and `pairs_per_second` count all tokens of both sides; `tflops` is the work on the unique ones, 6 per
        weight and token (4 where the weights themselves are frozen), without embeddings and attention (Kaplan et al. 2020,
        section 2.1); `mfu` is its share of the devices' peak, if that is known (Chowdhery et al. 2022, appendix B).
        """
        seconds = max(self._clock() - self._started, 1e-9)
        flops = self._flops_per_token * sums.num_unique_tokens.item() / seconds
        measured = {
            "tokens_per_second": sums.num_tokens.item() / seconds,
            "pairs_per_second": sums.num_pairs.item() / seconds,
            "tflops": flops / 1e12,
        }
        self._started += seconds
        return measured | ({"mfu": flops / (self._peak * self._processes)} if self._peak else {})

    def tokens_per_second(self, sums: PairSums) -> float:
        """The tokens of `sums`, trained on since the last call of `metrics`, per second."""
        return sums.num_tokens.item() / max(self._clock() - self._started, 1e-9)

    def pause(self, since: float) -> None:
        """Excludes the time since `since`, a reading of the clock."""
        self._started += self._clock() - since
