"""Where a checkpoint's hooks run: in the training process, which waits, or in a separate process beside it."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from core.config import Dtype, LoraConfig, ModelConfig
from core.data.dates import pin_date, pinned_date
from core.hooks.hook import Hook, RunParts, eval_file, read_evaluation, run_hooks
from core.process.quiet import quieten_libraries
from core.process.shortage import killed
from core.process.signals import ignoring_interrupts
from core.records import AXIS, CheckpointSaved, Tracker
from core.runs.checkpoints import step_folder
from core.runs.tracking import Trackers

if TYPE_CHECKING:  # both take seconds to import
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from core.models.head import RewardPass
    from core.process.world import World

TASK, LOG = "task.pickle", "output.log"
SECONDS = "train/hook_seconds"
"""Duration of a checkpoint's hooks, logged with training metrics since it says nothing about the model."""

# With -P no file of the current folder hides a package. This process's own places of modules come last, for hooks of the user's.
_PROGRAM = """
import sys
sys.path += [place for place in sys.argv[2:] if place not in sys.path]
from core.hooks.placement import run_task
run_task(sys.argv[1])
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A complete checkpoint on disk whose hooks are to be run.

    `base` is the model that training started from; its dtype is also used for matrix products during evaluation. `lora` is
    the adapter on it.

    >>> Saved(step=4, num_steps=8, run_dir=Path("runs/demo/rm-a"), base=ModelConfig(path="org/name"), lora=LoraConfig()).path.name
    'step-000004'
    """

    step: int
    num_steps: int
    run_dir: Path
    base: ModelConfig
    lora: LoraConfig

    @property
    def path(self) -> Path:
        """The folder of the checkpoint."""
        return step_folder(self.run_dir, self.step)

    def event(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> CheckpointSaved:
        """The event that hooks receive."""
        return CheckpointSaved(
            step=self.step, num_steps=self.num_steps, path=self.path, run_dir=self.run_dir, model=model, tokenizer=tokenizer
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class InMemory:
    """The model of a checkpoint as training holds it; with `reward_pass` its weights are split over the processes."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    reward_pass: "RewardPass | None" = None


class Evaluations(Protocol):
    """Runs the hooks of checkpoints; metrics are logged at their checkpoint's step, whenever they arrive.

    All processes of a run call all methods but `collect`. Failures of hooks are raised by `submit` and `finish`, on all processes.
    """

    waited: float
    """Seconds that training has waited for hooks."""

    def submit(self, saved: Saved, held: InMemory | None = None) -> None:
        """Has the hooks run on a checkpoint, which may be in memory."""
        ...

    def collect(self) -> None:
        """Logs what has finished in the meantime. For the main process, without the others; never raises."""
        ...

    def finish(self) -> None:
        """Waits until all hooks have run."""
        ...

    def close(self) -> None:
        """Stops running hooks; unfinished ones run again when the run is resumed."""
        ...


class InlineEvaluations:
    """Runs the hooks in the processes that train, on the model in memory, or else on the main one, on the model on disk."""

    def __init__(
        self, hooks: Sequence[Hook], tracker: Tracker, autocast: Callable[[], AbstractContextManager[Any]], *, world: "World"
    ) -> None:
        self.hooks, self.tracker, self.autocast, self.world = hooks, tracker, autocast, world
        self.waited = 0.0

    def submit(self, saved: Saved, held: InMemory | None = None) -> None:
        started = time.monotonic()
        if held is None:
            self.world.from_main(lambda: _run_on_saved(self.hooks, saved, self.tracker))
        else:
            parts = RunParts(world=self.world, reward_pass=held.reward_pass)
            whole = (lambda: _loaded(saved)[0]) if held.reward_pass else None
            with self.autocast():
                run_hooks(self.hooks, saved.event(held.model, held.tokenizer), self.tracker, parts=parts, whole=whole)
        seconds = time.monotonic() - started
        self.waited += seconds
        self.tracker.log({SECONDS: seconds}, axis="train/step", step=saved.step)

    def collect(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class SeparateEvaluations:
    """Runs the hooks in a process that reads checkpoints from disk, one after another, while training continues.

    The main process starts it, and it dies with that one. Its output is in `evals/step-NNNNNN.process/` until it succeeds. `device` is its
    CUDA_VISIBLE_DEVICES; empty: the same devices as this process.
    """

    def __init__(
        self, hooks: Sequence[Hook], tracker: Tracker, *, world: "World", device: str = "", say: Callable[[str], None] = print
    ) -> None:
        self.hooks, self.tracker, self.world, self.device, self.say = hooks, tracker, world, device, say
        self.waited = 0.0
        self._waiting: deque[Saved] = deque()
        self._failure: RuntimeError | None = None
        self._running: tuple[Saved, subprocess.Popen[bytes], float] | None = None

    def submit(self, saved: Saved, held: InMemory | None = None) -> None:
        def start() -> None:
            self._waiting.append(saved)
            self.collect()
            self._raise_failure()

        self.world.from_main(start)

    def collect(self) -> None:
        if self._running is not None and self._running[1].poll() is not None:
            self._log_finished()
        if self._running is None and self._waiting and self._failure is None:
            self._start(self._waiting.popleft())

    def finish(self) -> None:
        self.world.from_main(self._wait)

    def _wait(self) -> None:
        started = time.monotonic()
        if self._running is not None or self._waiting:
            self.say(f"waiting for the hooks of {len(self._waiting) + 1} checkpoint(s)")
        while self._running is not None or self._waiting:
            if self._running is not None:
                self._running[1].wait()
            self.collect()
            self._raise_failure()
        self.waited += time.monotonic() - started

    def close(self) -> None:
        if self._running is not None:
            _, process, _ = self._running
            process.kill()
            process.communicate()  # waits, and closes the pipe
            self._running = None

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _start(self, saved: Saved) -> None:
        folder = _process_folder(saved)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TASK).write_bytes(pickle.dumps((self.hooks, saved, pinned_date())))
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": self.device} if self.device else {})}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):  # it is not one of the training processes
            environment.pop(name, None)
        with (folder / LOG).open("wb") as log, ignoring_interrupts():  # Ctrl-C is for this process, which ends the other one
            # The pipe closes when this process dies, which the other one notices.
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(folder / TASK), *map(os.path.abspath, sys.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
            )
        self._running = (saved, process, time.monotonic())

    def _log_finished(self) -> None:
        assert self._running is not None
        saved, process, started = self._running
        self._running = None
        assert process.stdin is not None
        process.stdin.close()
        folder = _process_folder(saved)
        if process.returncode:
            lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = lines[-2:] if lines[-1:] and lines[-1].startswith("while writing ") else lines[-1:]  # a note and what it is about
            if process.returncode < 0:
                last = [killed(process.returncode, "lower hooks.batch_tokens, or free memory for a second model")]
            self._failure = RuntimeError(
                f"the hooks of step {saved.step} failed in their process ({' '.join(last)}); see {folder / LOG}. The checkpoint is "
                "complete: the same command runs them again."
            )
            return
        metrics = {name: value for name, value in read_evaluation(saved.run_dir, saved.step).items() if name != AXIS}
        self.tracker.log(metrics, axis=AXIS, step=saved.step)
        self.tracker.log({SECONDS: time.monotonic() - started}, axis="train/step", step=saved.step)
        for file in folder.iterdir():
            if file.name == LOG and (said := file.read_text(encoding="utf-8", errors="replace").strip()):
                self.say(said)
            file.unlink()
        folder.rmdir()


def missing_evaluations(run_dir: Path, steps: Sequence[int]) -> list[int]:
    """The steps whose hooks have not finished."""
    return [step for step in steps if not eval_file(run_dir, step).exists()]


def _process_folder(saved: Saved) -> Path:
    return eval_file(saved.run_dir, saved.step).with_suffix(".process")


def _loaded(saved: Saved) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Model and tokenizer in the dtype of training: an adapter stays unmerged, since merging rounds differently."""
    from core.models.export import read_weights
    from core.models.load import load_reward_model, new_reward_model

    if not saved.lora.rank:
        return load_reward_model(ModelConfig(path=str(saved.path), dtype=saved.base.dtype))
    model, tokenizer = new_reward_model(saved.base, seed=0, lora=saved.lora, say=lambda _: None)  # the trainer has said it
    _, unexpected = model.load_state_dict(read_weights(saved.path), strict=False)
    assert not unexpected, unexpected
    return model.eval(), tokenizer


def _run_on_saved(hooks: Sequence[Hook], saved: Saved, tracker: Tracker) -> None:
    """Runs the hooks on a checkpoint on disk, in this process alone."""
    from core.process.precision import autocast

    model, tokenizer = _loaded(saved)
    # Frozen weights of the dtype under an adapter in fp32, as in training; other models are of the dtype throughout.
    with autocast(model.device, saved.base.dtype if saved.lora.rank else Dtype.fp32):
        run_hooks(hooks, saved.event(model, tokenizer), tracker)


def run_task(task: str) -> None:
    """What the separate process does: load the checkpoint and run the hooks."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.nice(5)  # on a CPU, training comes first
    quieten_libraries()

    hooks, saved, day = pickle.loads(Path(task).read_bytes())
    if day is not None:
        pin_date(day)
    _run_on_saved(hooks, saved, Trackers([]))  # the training process logs the metrics


def _die_with_parent() -> None:
    """Ends this process when the parent dies, which closes standard input."""
    while os.read(0, 1024):  # not through `sys.stdin`, whose lock would block the exit of this process
        pass
    os._exit(1)
