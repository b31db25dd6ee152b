"""Every job with every tracker: each holds the values of the run's log."""

from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.progress import NoProgress
from launch import bench
from launch.entry import composed
from launch.schema import BenchJob
from microworld.config import WorldConfig
from microworld.world import build_world
from tests.core.runs.trackers.readers import assert_all_hold_the_log
from tests.launch.test_jobs import run_bon, run_ppo, run_rm

NO_POOLS = "hooks.pools="
ALL = ("tracker.mode=offline", "tracker.tensorboard=true", "tracker.mlflow=true", "tracker.trackio=true")


@pytest.fixture
def folder(tmp_path: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small world and a random policy."""
    for name in ("MLFLOW_TRACKING_URI", "TRACKIO_DIR", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    world = build_world(WorldConfig(corpus_size=40, pairs=32, benchmark_rows=2, task_rows=4, vocab_size=300), tmp_path / "world")
    policy.save_pretrained(world / "policies" / "coast")
    tokenizer.save_pretrained(world / "policies" / "coast")
    return tmp_path


def test_a_reward_model_and_its_benchmark_are_in_every_tracker(folder: Path) -> None:
    model = run_rm(folder, NO_POOLS, *ALL)
    assert_all_hold_the_log(Path(model["dir"]))
    rows = f"rows={folder}/world/benchmark/rewardbench2.jsonl"
    bench.run(composed(BenchJob, [f"runs_dir={folder}/runs", "study=tiny", rows, f"reward.path={model['dir']}", *ALL]), NoProgress())
    [measured] = (folder / "runs" / "tiny").glob("bench-*")
    assert_all_hold_the_log(measured)


@pytest.mark.long  # a job each, with the start of four trackers
@pytest.mark.parametrize("job", ["separate", "ppo", "grpo", "rloo", "bon"])
def test_the_other_jobs_are_in_every_tracker_too(folder: Path, job: str) -> None:
    assert_all_hold_the_log(_run_of(folder, job))


def _run_of(folder: Path, job: str) -> Path:
    """Runs a job, and returns its folder."""
    if job == "separate":
        return Path(run_rm(folder, NO_POOLS, "hooks.where=separate", *ALL)["dir"])
    if job == "bon":
        return Path(run_bon(folder, *ALL).run)
    groups = () if job == "ppo" else (f"algo={job}", "group_size=4", "micro_batch_size=4")
    return Path(run_ppo(folder, run_rm(folder, NO_POOLS)["dir"], *groups, *ALL)["dir"])
