"""Every file of conf/ composes into a valid configuration."""

from pathlib import Path

import pytest

import conf
from launch.entry import composed

CONF = Path(next(iter(conf.__path__)))
JOBS = {"rm": [], "ppo": ["reward.path=x"], "bon": [], "bench": ["reward.path=x"], "study": ["experiment=demo"], "report": []}
USERS = {"data": "rm", "model": "rm", "hooks": "rm", "tracker": "rm", "tasks": "ppo", "reward": "bench", "experiment": "study"}
NEEDED = {
    "data/custom": ["data.paths=[x.jsonl]"],
    "model/custom": ["model.path=x"],
    "reward/custom": ["reward.path=x"],
    "reward/dpo": ["reward.reference=y"],
    "reward/ensemble": ["reward.members=[x,y]"],
    "reward/function": ["reward.function=x:y"],
    "reward/vllm": ["reward.url=http://localhost:8000"],
    "tasks/gsm8k": ["tasks.gsm8k.path=x.jsonl"],
    "experiment/smollm2": ["preferences=a.jsonl", "benchmark=b.jsonl", "prompts=c.jsonl"],
}


def test_every_job_composes_with_its_defaults() -> None:
    for job, overrides in JOBS.items():
        assert composed(job, overrides).job is not None
    assert {path.stem for path in CONF.glob("*.yaml")} == set(JOBS)


@pytest.mark.parametrize(
    "file",
    sorted(file for file in CONF.glob("*/*.yaml") if file.parent.name != "shared"),
    ids=lambda file: f"{file.parent.name}/{file.stem}",
)
def test_every_choice_of_every_group_composes(file: Path) -> None:
    group, choice = file.parent.name, file.stem
    job = USERS[group]
    needed = NEEDED.get(f"{group}/{choice}", [])
    assert composed(job, [*(JOBS[job] if group != "experiment" else []), f"{group}={choice}", *needed]).job is not None
