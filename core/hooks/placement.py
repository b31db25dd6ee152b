"""Where the hooks of a checkpoint run: in the training process while it waits, or in a process of their own beside it."""

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
from typing import Any, Protocol

from core.config import LoraConfig, ModelConfig
from core.hooks.hook import Hook, eval_file, read_evaluation, run_hooks
from core.records import AXIS, CheckpointSaved, Tracker
from core.runs.checkpoints import step_folder
from core.runs.tracking import Trackers

TASK, LOG = "task.pickle", "output.log"
SECONDS = "train/hook_seconds"
"""How long the hooks of a checkpoint took, logged beside training: it says nothing of the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A complete checkpoint on disk whose hooks are to run.

    `base` is the model that training began from, whose dtype is the format of the matrix products in evaluation too; `lora`
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

    def event(self, model: Any, tokenizer: Any) -> CheckpointSaved:
        """What the hooks are told."""
        return CheckpointSaved(
            step=self.step, num_steps=self.num_steps, path=self.path, run_dir=self.run_dir, model=model, tokenizer=tokenizer
        )


class Evaluations(Protocol):
    """Runs the hooks of checkpoints; the metrics of each land on its own step, whenever they come.

    What a hook raised is raised by `submit` and `finish`.
    """

    waited: float
    """Seconds that training stood still for the hooks."""

    def submit(self, saved: Saved, model: Any = None, tokenizer: Any = None) -> None:
        """Has the hooks run on a checkpoint, whose model may be in memory."""
        ...

    def collect(self) -> None:
        """Takes in what has finished meanwhile. Never raises: other processes are not here to hear of it."""
        ...

    def finish(self) -> None:
        """Returns once all hooks have run."""
        ...

    def close(self) -> None:
        """Ends what still runs; whatever has not run to its end runs again when the run goes on."""
        ...


class InlineEvaluations:
    """The hooks in this process, on the model in memory where there is one."""

    def __init__(self, hooks: Sequence[Hook], tracker: Tracker, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self.hooks, self.tracker, self.autocast = hooks, tracker, autocast
        self.waited = 0.0

    def submit(self, saved: Saved, model: Any = None, tokenizer: Any = None) -> None:
        started = time.monotonic()
        if model is None:
            model, tokenizer = _loaded(saved)
        with self.autocast():
            run_hooks(self.hooks, saved.event(model, tokenizer), self.tracker)
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
    """The hooks in a process that reads the checkpoint from disk, one checkpoint after another, while training goes on.

    The process dies with this one. Its output lies in `evals/step-NNNNNN.process/` until it ends well. `device` is what it
    sees as CUDA_VISIBLE_DEVICES; empty: the devices of this process.
    """

    def __init__(self, hooks: Sequence[Hook], tracker: Tracker, *, device: str = "", say: Callable[[str], None] = print) -> None:
        self.hooks, self.tracker, self.device, self.say = hooks, tracker, device, say
        self.waited = 0.0
        self._waiting: deque[Saved] = deque()
        self._failure: RuntimeError | None = None
        self._running: tuple[Saved, subprocess.Popen[bytes], float] | None = None

    def submit(self, saved: Saved, model: Any = None, tokenizer: Any = None) -> None:
        self._waiting.append(saved)
        self.collect()
        self._raise_failure()

    def collect(self) -> None:
        if self._running is not None and self._running[1].poll() is not None:
            self._take_in()
        if self._running is None and self._waiting and self._failure is None:
            self._start(self._waiting.popleft())

    def finish(self) -> None:
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
        (folder / TASK).write_bytes(pickle.dumps((self.hooks, saved)))
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": self.device} if self.device else {})}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):  # it is none of the training processes
            environment.pop(name, None)
        with (folder / LOG).open("wb") as log:
            # The pipe stays open as long as this process lives, which is how the other one knows.
            process = subprocess.Popen(
                [sys.executable, "-m", "core.hooks.placement", str(folder / TASK)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
            )
        self._running = (saved, process, time.monotonic())

    def _take_in(self) -> None:
        assert self._running is not None
        saved, process, started = self._running
        self._running = None
        assert process.stdin is not None
        process.stdin.close()
        folder = _process_folder(saved)
        if process.returncode:
            last = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
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
    """The steps whose hooks have not run to their end."""
    return [step for step in steps if not eval_file(run_dir, step).exists()]


def _process_folder(saved: Saved) -> Path:
    return eval_file(saved.run_dir, saved.step).with_suffix(".process")


def _loaded(saved: Saved) -> tuple[Any, Any]:
    """Model and tokenizer as training has them in memory: an adapter beside its base, not merged, which would round otherwise."""
    from core.models.export import read_weights
    from core.models.load import load_reward_model, new_reward_model

    if not saved.lora.rank:
        return load_reward_model(ModelConfig(path=str(saved.path)))
    model, tokenizer = new_reward_model(saved.base, seed=0, lora=saved.lora)
    _, unexpected = model.load_state_dict(read_weights(saved.path), strict=False)
    assert not unexpected, unexpected
    return model.eval(), tokenizer


def run_task(task: Path) -> None:
    """The life of the other process."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.nice(5)  # on a CPU, training comes first
    from core.process.precision import autocast

    hooks, saved = pickle.loads(task.read_bytes())
    model, tokenizer = _loaded(saved)
    with autocast(model.device, saved.base.dtype):
        run_hooks(hooks, saved.event(model, tokenizer), Trackers([]))  # the metrics are logged by the process that waits for them


def _die_with_parent() -> None:
    """Standard input ends when the process at its other end does."""
    while os.read(0, 1024):  # not through `sys.stdin`, whose lock the end of the process would wait for
        pass
    os._exit(1)


if __name__ == "__main__":
    # Run as a script, this module is `__main__`, and what was pickled knows it by its name.
    from core.hooks import placement as evaluation

    evaluation.run_task(Path(sys.argv[1]))
