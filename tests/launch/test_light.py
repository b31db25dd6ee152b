"""Answers that must come at once are given without torch, which takes seconds to import."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from launch.cli import main

for command in sys.argv[1].split("; "):
    sys.argv = ["rewardloop", *command.split()]
    code = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    heavy = sorted({"torch", "transformers", "trl", "datasets", "wandb", "matplotlib"} & set(sys.modules))
    assert not heavy, f"{command} imports {heavy}"
    print(f"ended {command!r} with {code}")
"""
NEEDED = {
    "rm": "",
    "ppo": " reward.path=RM",
    "bon": "",
    "bench": " reward.path=RM",
    "study": " experiment=demo",
    "report": "",
}  # fmt: skip
JOBS_WITH_DRY_RUN = ("rm", "ppo", "bon")
REFUSED = {
    "rm": ["rm epochs=0", "rm epochz=2", "rm", "rm model=custom model.path=./gone data=custom data.paths=[gone.jsonl]"],
    "ppo": ["ppo", "ppo reward.path=RM epochs=0", "ppo reward.path=RM model=custom model.path=./gone prompts=[gone.jsonl]"],
    "bon": ["bon pool.n=0", "bon model=custom model.path=./gone tasks=none"],
    "bench": ["bench", "bench reward.path=./gone rows=gone.jsonl", "bench from_scores=gone.jsonl"],
    "study": ["study", "study experiment=demo reward_models=[data=atlaas]"],
    "report": ["report study=gone"],
}  # fmt: skip


def ended(commands: list[str], cwd: Path) -> list[str]:
    """What the commands ended with, one after the other in one process, which fails where one of them imports a heavy package."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, "; ".join(commands)], capture_output=True, text=True, timeout=120, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("ended ")]


def test_help_and_configurations_are_shown_without_torch(tmp_path: Path) -> None:
    commands = ["--help", *(f"{job} --help" for job in NEEDED), *(f"{job} --cfg job{needed}" for job, needed in NEEDED.items())]
    assert ended(commands, tmp_path) == [f"ended {command!r} with 0" for command in commands]


def test_a_dry_run_lists_its_jobs_without_torch(tmp_path: Path) -> None:
    commands = [f"{job} dry_run=true{NEEDED[job]}" for job in JOBS_WITH_DRY_RUN]
    assert ended(commands, tmp_path) == [f"ended {command!r} with 0" for command in commands]


@pytest.mark.parametrize("job", REFUSED)
def test_what_cannot_run_is_refused_without_torch(tmp_path: Path, job: str) -> None:
    said = ended(REFUSED[job], tmp_path)
    assert len(said) == len(REFUSED[job])
    assert all(line.endswith(("with 1", "with 2")) for line in said), said
