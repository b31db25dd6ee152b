"""Saving checkpoints to resume from: the exported model, and the engine's state, of which every process writes its share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from core.disk import atomic_folder
from core.engines.engine import Engine
from core.engines.resume import make_way
from core.process.world import World
from core.runs.checkpoints import STATE, step_folder

Weights: TypeAlias = Iterator[tuple[str, Tensor]]
Export: TypeAlias = Callable[[Path, Weights], None]
"""Writes an exported model into a folder, from its weights."""


class Saver:
    """Saves the checkpoints of a run, one at a time, in `checkpoints/step-NNNNNN/`; all processes call it.

    A checkpoint has been written when `save` returns, but not to the disk: flushing and hashing its files, which takes as long, goes on
    in a thread of the main process, and ends with the marker and the name that make the checkpoint whole. Nothing that training changes
    is read meanwhile. Until then the checkpoint before it is the one to resume from. The weights that are exported are those whose names
    in the engine begin with `prefix`.
    """

    def __init__(self, world: World, engine: Engine, run_dir: Path, *, planned: Sequence[int], prefix: str = "") -> None:
        self._world, self._engine, self._run_dir = world, engine, run_dir
        self._planned, self._prefix = planned, prefix
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def save(
        self,
        step: int,
        write: Export,
        *,
        formats: Mapping[str, torch.dtype] = MappingProxyType({}),
        write_state: Callable[[Path], None] = lambda folder: None,
    ) -> Path:
        """Writes the checkpoint of a step: what `write` puts there (see `export`), and under `state/`, which is kept only as long as it may
        be resumed from, the engine's state and what `write_state` puts there.

        Of the earlier checkpoints, only the newest keeps its state, in case the new one gets lost; older ones whose steps are not
        `planned` are removed altogether. Raises what kept the last one from the disk.
        """
        self.wait()
        world, target = self._world, step_folder(self._run_dir, step)
        if world.is_main:
            make_way(self._run_dir, step, planned=self._planned)
        with ExitStack() as stack:
            own = stack.enter_context(atomic_folder(target)) if world.is_main else Path()
            folder = Path(world.from_main(lambda: str(own)))
            export(world, self._engine, folder, write, prefix=self._prefix, formats=formats)
            if world.is_main:
                (folder / STATE).mkdir()
                write_state(folder / STATE)
            world.barrier()
            self._engine.save(folder / STATE)
            world.barrier()
            if world.is_main:
                self._thread = Thread(target=self._complete, args=(stack.pop_all(),), name=f"saving {target.name}")
                self._thread.start()
        return target

    def wait(self) -> None:
        """Returns once the last checkpoint is complete on the disk; raises what kept it from that, on all processes."""
        self._world.from_main(self.close)

    def close(self) -> None:
        """`wait` by this process alone."""
        if self._thread is not None:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error is not None:
            raise error

    def _complete(self, folder: ExitStack) -> None:
        """Leaves the context in which the folder is written, which makes it whole."""
        try:
            folder.close()
        except Exception as error:  # of any kind: it is raised where training waits for this
            self._error = error


def export(world: World, engine: Engine, folder: Path, write: Export, *, prefix: str, formats: Mapping[str, torch.dtype]) -> None:
    """Has `write` put an exported model into a folder, on the main process: it is given folder and weights.

    Those are the engine's whose names begin with `prefix`, under the rest of the name, in the `formats` asked for. They come one at a
    time, gathered from all processes; these must all call it. What `write` raises is raised on all of them.
    """

    def exported() -> None:
        weights = iter(engine.iter_weights(prefix, formats=formats) if engine.sharded or world.is_main else ())
        try:
            if world.is_main:
                write(folder, weights)
        finally:
            for _ in weights:  # all processes take part in gathering each of them, to the last
                pass

    world.all_gather(exported)
