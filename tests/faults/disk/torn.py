"""Runs that were killed with checkpoints on disk, for damage to be done to them before they go on."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.faults.child import rewardloop
from tests.faults.jobs import JOBS
from tests.faults.kills.cases import Reference, begin
from tests.faults.kills.points import Counter, Kill, end_by
from tests.faults.stage import Stage


@dataclass(kw_only=True)
class Torn:
    """A run of a job, killed just after its checkpoint of `step` was in place; made once and copied."""

    reference: Reference
    step: int

    @property
    def folder(self) -> Path:
        """Where the killed run lies."""
        return self.reference.folder.with_name(f"{self.reference.folder.name}-torn")

    def copied_to(self, folder: Path) -> Path:
        """Puts a copy into a case's folder; returns the run's."""
        if not self.folder.exists():
            names = self.reference.made().names["job"]
            renamed = [at for at, name in enumerate(names, 1) if name.startswith(f"os.rename checkpoints/.tmp-step-{self.step:06d}-")]
            self.folder.mkdir(parents=True)
            counter = Counter(at=renamed[0] + 1, then=end_by(Kill.kill))
            arguments = self.reference.job.arguments(self.reference.stage)
            ended = rewardloop(arguments, self.folder, before=lambda: begin(self.folder, counter, Counter()))
            assert ended.code == -9, f"{self.reference.job.name} was not killed: {ended.said}"
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, symlinks=True)
        return run_of(folder)


def run_of(folder: Path) -> Path:
    """The folder of the only run of a case."""
    (record,) = folder.glob("runs/tiny/*/config.yaml")
    return record.parent


def torn_runs(stage: Stage) -> dict[str, Torn]:
    """A reward model's, PPO's and RLOO's, each with the newest state and, where there is one, the spare."""
    steps = {"rm saving often": 6, "ppo saving often": 2, "rloo": 2}
    return {name.split()[0]: Torn(reference=Reference(job=JOBS[name], stage=stage), step=step) for name, step in steps.items()}
