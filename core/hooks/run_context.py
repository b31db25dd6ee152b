"""What every training run is given besides its configuration: a folder, the processes, the hooks, and where to report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.hooks.hook import Hook
from core.process.world import World, join_world
from core.progress import NoProgress, Progress
from core.records import RunEnded, Tracker
from core.runs.record import add_warning
from core.runs.tracking import Trackers
from core.runs.warnings import RunWarning


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContext:
    """A run's folder, processes and hooks, and whom it reports to.

    Every process builds one from the same arguments. Only the main process reports: on the others `tracker`, `progress` and
    `say` are replaced by ones that do nothing. The hooks are the same everywhere, and the main process alone calls them.

    >>> RunContext(dir=Path("runs/demo/rm-a")).hooks
    ()
    """

    dir: Path
    world: World = field(default_factory=join_world)
    hooks: Sequence[Hook] = ()
    tracker: Tracker = field(default_factory=lambda: Trackers([]))
    progress: Progress = field(default_factory=NoProgress)
    say: Callable[[str], None] = print
    _told: dict[tuple[str, str], RunWarning] = field(default_factory=dict[tuple[str, str], RunWarning], repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.world.is_main:
            for name, silent in (("tracker", Trackers([])), ("progress", NoProgress()), ("say", _say_nothing)):
                object.__setattr__(self, name, silent)

    def show_hooks(self) -> None:
        """Has the hooks report their progress as parts of the run's, which needs them to run in this process."""
        for hook in self.hooks:
            hook.progress = self.progress

    def log_training(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs `metrics` as `train/NAME` at `step` of the axis `train/step`."""
        self.tracker.log({f"train/{name}": value for name, value in metrics.items()}, axis="train/step", step=step)

    def warn(self, *found: RunWarning | None) -> None:
        """Tells those of the warnings that there are, each once per run, and keeps them in the run's record if it has one."""
        for warning in filter(None, found):
            if self.world.is_main and warning.identity not in self._told:
                self._told[warning.identity] = warning
                if add_warning(self.dir, warning):
                    self.say(warning.line)

    @property
    def told(self) -> list[RunWarning]:
        """The warnings that were told since this process began; none on processes that do not report."""
        return [*self._told.values()]

    def end(self, step: int) -> None:
        """Tells the hooks that the run ended after `step`."""
        if self.world.is_main:
            for hook in self.hooks:
                hook.on_end(RunEnded(run_dir=self.dir, step=step))


def _say_nothing(line: str) -> None:
    pass
