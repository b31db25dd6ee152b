"""Where the engine shards, no process ever holds a whole model while a session opens, for reward models and for PPO."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FP32 = 4


@pytest.fixture(scope="module", params=["fsdp2", pytest.param("zero3", marks=pytest.mark.long)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What `tests.invariants.openings` wrote on each of two processes under an engine, by job."""
    return {job: _opened(tmp_path_factory.mktemp(f"openings-{job}"), request.param, job) for job in ("rm", "ppo")}


def _opened(folder: Path, kind: str, job: str) -> list[dict[str, Any]]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # glibc would soon take weights from its heap, whose gaps between shares of layers are up to half as much again, and differ by run.
    environment = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    ended = subprocess.run(
        [*torchrun, "-m", "tests.invariants.openings", str(folder), kind, job],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    for large in ("large", "saved"):
        shutil.rmtree(folder / large, ignore_errors=True)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def test_the_model_is_a_gigabyte(found: Any) -> None:
    assert FP32 * found["rm"][0]["num_weights"] > 1e9


def test_no_process_holds_the_reward_model_that_is_opened(found: Any) -> None:
    for process in found["rm"]:
        assert process["peak"] < 0.75 * FP32 * process["trained"]


def test_no_process_holds_actor_critic_and_reference_nor_the_reward_model_beside_them(found: Any) -> None:
    for process in found["ppo"]:
        assert process["peak"] < 0.75 * FP32 * (process["trained"] + process["num_weights"])


def test_each_process_holds_half_the_trained_weights_in_fp32_and_half_the_reference_in_bf16(found: Any) -> None:
    for process in (*found["rm"], *found["ppo"]):
        assert process["held"]["torch.float32"] == pytest.approx(process["trained"] / 2, rel=0.01)
    for process in found["ppo"]:
        assert process["held"]["torch.bfloat16"] == pytest.approx(process["num_weights"] / 2, rel=0.01)


def test_the_copy_to_draw_from_is_gathered_in_bf16_and_never_whole_in_fp32(found: Any) -> None:
    for process in found["ppo"]:
        assert process["drawing"]["copy"] == pytest.approx(2 * process["num_weights"], rel=0.02)
        # One weight is in fp32 beside it, of 17 MB.
        assert process["drawing"]["peak"] < 0.6 * FP32 * process["num_weights"]


def test_a_model_is_saved_as_it_is_gathered_and_never_whole_in_any_process(found: Any) -> None:
    written = found["rm"][0]["saving"]["written"]
    assert written == pytest.approx(FP32 * found["rm"][0]["trained"], rel=0.01)
    for process in found["rm"]:
        # A file of 100 MB, a layer of 63 MB that waits for its last weight, and what the C library keeps.
        assert process["saving"]["peak"] < 0.4 * written
