"""RLOO and GRPO in two processes do what they do in one, and with a server too."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.runs.checkpoints import step_folder
from tests.core.vllm.fake_server import Standin, serving
from tests.ppo.critic_free.spread import CASES

PLAIN = [name for name, (_, lora) in CASES.items() if not lora.rank]


@pytest.fixture(scope="module")
def found(
    policy_folder: Path, policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[int, dict[str, list[Any]]]]:
    """The folder of the runs, and by number of processes and by case what each process found."""
    folder = tmp_path_factory.mktemp("critic-free")
    with serving(Standin(copy.deepcopy(policy), tokenizer)) as server:
        for start in ((), ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")):
            ended = subprocess.run(
                [sys.executable, *start, "-m", "tests.ppo.critic_free.spread", str(policy_folder), str(folder), server.url],
                env={**os.environ, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"},
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert ended.returncode == 0, ended.stderr[-20_000:]  # the first of two tracebacks says why
    return folder, {size: {name: json.loads((folder / f"{size}" / name / "found.json").read_text()) for name in CASES} for size in (1, 2)}


@pytest.mark.parametrize("name", CASES)
def test_on_the_same_completions_two_processes_measure_and_learn_what_one_does(found: Any, name: str) -> None:
    folder, by_size = found
    ours, alone = by_size[2][name][0]["served"], by_size[1][name][0]["served"]
    for step, row in alone["train"].items():
        # TRL's entropy and extremes are means and maxima of means over forward passes, whose rows differ.
        watched = {key: value for key, value in row.items() if not key.startswith("train/trl/") and key != "train/entropy"}
        assert {key: ours["train"][step][key] for key in watched} == pytest.approx(watched, abs=2e-3, nan_ok=True), step
    assert ours["train"]["3"]["train/rm_score"] == pytest.approx(alone["train"]["3"]["train/rm_score"], abs=1e-4)
    file = "adapter_model.safetensors" if name.endswith("lora") else "model.safetensors"
    weights, expected = (load_file(step_folder(folder / f"{size}" / name / "served", 3) / file) for size in (2, 1))
    assert all(torch.allclose(weights[key], tensor, atol=1e-3) for key, tensor in expected.items())
    # Both processes score their share of the groups, and the hooks run once.
    assert by_size[2][name][0]["served"]["scored"] == by_size[2][name][1]["served"]["scored"] == [1] * 4
    assert ours["hooked"] == alone["hooked"] == 2
    assert by_size[2][name][1]["served"]["hooked"] == 0
    assert ours["checkpoints"]["0"] == pytest.approx(alone["checkpoints"]["0"], abs=1e-6)


@pytest.mark.parametrize("name", ["grpo", "grpo-lora"])
def test_the_gap_between_server_and_trainer_is_measured_and_is_rounding(found: Any, name: str) -> None:
    rows = found[1][2][name][0]["served"]["train"].values()
    gaps = [row["train/trl/sampling/sampling_logp_difference/max"] for row in rows]
    assert len(gaps) == 3
    assert max(gaps) < 1e-4  # with the weights of a batch before it would be a hundred times as large


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", PLAIN)
def test_a_signal_to_one_process_stops_all_and_the_next_run_goes_on_to_the_same_bits(found: Any, name: str, size: int) -> None:
    folder, by_size = found
    for process in by_size[size][name]:
        assert process["stopped"].startswith("stopped by a signal; what is saved is kept")
    main = by_size[size][name][0]
    timeless = {key for key in main["whole"]["train"]["3"] if "time" not in key}
    assert {key: main["rest"]["train"]["3"][key] for key in timeless} == {key: main["whole"]["train"]["3"][key] for key in timeless}
    whole, torn = (load_file(step_folder(folder / f"{size}" / name / run, 3) / "model.safetensors") for run in ("whole", "torn"))
    assert all(torch.equal(whole[key], torn[key]) for key in whole)
