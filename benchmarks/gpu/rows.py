"""The rows of `benchmarks.gpu`, the most valuable first, each with the seconds that it may take."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

from benchmarks.gpu.findings import Finding


@dataclass(frozen=True, slots=True)
class Row:
    """A row, as `module.function` of this package: imported only where it runs, since the process that watches needs no torch."""

    name: str
    place: str
    limit_s: int
    alone: bool = False
    """Whether it gets a process of its own, since it leaves more behind than memory of the device."""

    def seconds(self, *, tiny: bool) -> int:
        """What it may take: tiny on a CPU that others use too, it may take longer than on a GPU."""
        return 5 * self.limit_s if tiny else self.limit_s

    def load(self) -> Callable[[object], Iterator[Finding]]:
        """Imports what measures the row."""
        module, function = self.place.split(".")
        measure: Callable[[object], Iterator[Finding]] = getattr(import_module(f"benchmarks.gpu.{module}"), function)
        return measure


ROWS = (
    Row("scoring", "trees.scoring", 60),
    Row("training", "training.passes", 60),
    Row("step", "training.step", 60),
    Row("rollouts", "online.rollouts", 60),
    Row("ppo", "online.ppo", 90),
    Row("rewardbench", "load.rewardbench", 90),
    Row("study", "study.study", 100),
    Row("trl", "training.trl", 100, alone=True),
    Row("engines", "training.engines", 90, alone=True),
    Row("attention", "trees.attention", 40),
    Row("values", "trees.values", 40),
    Row("start", "start.start", 60),
    Row("commands", "commands.commands", 120),
    Row("ceilings", "ceilings.ceilings", 20),
    Row("kernels", "kernels.kernels", 60),
    Row("fusion", "fusion.fusion", 100),
)
