"""Every file of conf/ composes into a valid configuration."""

from pathlib import Path

import pytest

import conf
from core.config import EngineKind
from launch.compose import command
from launch.entry import composed
from launch.schema import SCHEMAS, RMJob

CONF = Path(next(iter(conf.__path__)))
JOBS = {"rm": [], "ppo": ["reward.path=x"], "bon": [], "bench": ["reward.path=x"], "study": ["experiment=demo"], "report": []}
USERS = {"data": "rm", "model": "rm", "hooks": "rm", "tracker": "rm", "engine": "rm", "tasks": "ppo", "reward": "ppo", "preset": "rm"}
EXPERIMENTS = {
    "demo": "study",
    "smollm2": "study",
    "settle": "study",
    "rb2_rm_grid": "rm",
    "rb2_rm_flipped": "rm",
    "rb2_ppo": "ppo",
    "rb2_bon": "bon",
    "rb2": "study",
    "rb2_tiny": "study",
}
DATA = ["data.paths=[x.jsonl]"]
NEEDED = {
    **{f"model/{file.stem}": DATA for file in (CONF / "model").glob("*.yaml")},
    "model/custom": ["model.path=x", *DATA],
    "preset/none": DATA,
    "data/custom": DATA,
    "reward/custom": ["reward.path=x"],
    "reward/dpo": ["reward.reference=y"],
    "reward/ensemble": ["reward.members=[x,y]"],
    "reward/function": ["reward.function=x:y"],
    "reward/judge": ["reward.judge.model=x"],
    "reward/vllm": ["reward.url=http://localhost:8000"],
    "reward/verifier": ["reward.verifier=x:y"],
    "tasks/alpaca_eval": ["tasks.alpaca_eval.path=x.json"],
    "tasks/bbh": ["tasks.bbh.path=x.jsonl"],
    "tasks/rb2_bon": ["tasks.bbh.path=x.jsonl", "tasks.alpaca_eval.path=x.json"],
    "tasks/tulu3_eval": ["tasks.bbh.path=x.jsonl", "tasks.alpaca_eval.path=x.json"],
    "experiment/smollm2": ["preferences=a.jsonl", "benchmark=b.jsonl", "prompts=c.jsonl"],
}


def test_every_job_composes_with_its_defaults() -> None:
    for job, overrides in JOBS.items():
        assert composed(SCHEMAS[job], overrides).job is not None
    assert {path.stem for path in CONF.glob("*.yaml")} == set(JOBS)


@pytest.mark.parametrize(
    "file",
    sorted(file for file in CONF.glob("*/*.yaml") if file.parent.name != "shared"),
    ids=lambda file: f"{file.parent.name}/{file.stem}",
)
def test_every_choice_of_every_group_composes(file: Path) -> None:
    group, choice = file.parent.name, file.stem
    job = EXPERIMENTS[choice] if group == "experiment" else USERS[group]
    needed = NEEDED.get(f"{group}/{choice}", [])
    assert composed(SCHEMAS[job], [*(JOBS[job] if group != "experiment" else []), f"{group}={choice}", *needed]).job is not None


def test_every_engine_has_a_file_and_stands_in_the_configuration() -> None:
    assert {file.stem for file in (CONF / "engine").glob("*.yaml")} == {kind.value for kind in EngineKind}
    for kind in EngineKind:
        assert composed(RMJob, [f"engine={kind}"]).job.engine.kind == kind
    assert composed(RMJob, []).job.engine.kind == EngineKind.auto


def test_the_papers_grid_is_its_five_bases_three_data_sets_three_rates_and_two_epochs() -> None:
    tulu, skywork = "allenai/llama-3.1-tulu-3-8b-preference-mixture", "Skywork/Skywork-Reward-Preference-80K-v0.2"
    found = command(RMJob, ["experiment=rb2_rm_grid"], multirun=True)
    assert found.sweeping
    jobs = found.jobs
    assert len(jobs) == 5 * 3 * 3 * 2
    assert len({(job.model.path, job.data.name, job.optim.lr, job.epochs) for job in jobs}) == 90
    assert {job.model.path for job in jobs} == {
        "allenai/Llama-3.1-Tulu-3-8B-SFT",
        "allenai/Llama-3.1-Tulu-3-8B-DPO",
        "allenai/Llama-3.1-Tulu-3-8B",
        "meta-llama/Llama-3.1-8B-Instruct",
        "Qwen/Qwen2.5-7B-Instruct",
    }
    assert {job.data.name: [source.path for source in job.data.sources.values()] for job in jobs} == {
        "tulu": [tulu], "skywork": [skywork], "both": [tulu, skywork],
    }  # fmt: skip
    assert {source.weight for job in jobs for source in job.data.sources.values()} == {1.0}
    assert {job.optim.lr for job in jobs} == {1e-6, 3e-6, 2e-5}
    assert {job.epochs for job in jobs} == {1, 2}
    assert {job.seed for job in jobs} == {0}
    for job in jobs:
        assert (job.engine.kind, job.model.dtype, job.gradient_checkpointing) == (EngineKind.fsdp2, "bf16", True)
        assert (job.batch_size, job.max_length, job.optim.schedule, job.optim.warmup_ratio, job.optim.adam_eps) == (
            128, 2048, "linear", 0.0, 1e-5,
        )  # fmt: skip
        assert job.study == "rb2"
        assert (job.hooks.rewardbench2, job.hooks.rewardbench1, job.hooks.pools) == ("allenai/reward-bench-2", "", "")


def test_an_experiment_of_reward_models_reads_nothing_of_the_microworld() -> None:
    for experiment in ("rb2_rm_grid", "rb2_rm_flipped"):
        assert "${world}" not in composed(RMJob, [f"experiment={experiment}"]).yaml


def test_the_flipped_controls_hold_the_papers_three() -> None:
    jobs = command(RMJob, ["experiment=rb2_rm_flipped"], multirun=True).jobs
    assert {(job.model.path, job.data.name, job.epochs) for job in jobs} == {("allenai/Llama-3.1-Tulu-3-8B-SFT", "tulu", 1)}
    found = {(job.data.flip, job.optim.lr) for job in jobs}
    assert len(found) == len(jobs) == 6 * 3
    assert {(0.3, 2e-5), (0.5, 1e-6), (1.0, 3e-6)} <= found


def test_a_key_of_an_experiment_counts_more_than_the_jobs_own_file() -> None:
    assert composed(RMJob, []).job.batch_size == 16
    assert composed(RMJob, ["experiment=rb2_rm_grid"]).job.batch_size == 128
    assert composed(RMJob, ["experiment=rb2_rm_grid", "batch_size=64"]).job.batch_size == 64
