"""Two processes that share the work of the hooks measure to the bit what one does, under every engine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.process.world import World
from core.scorers.batches import own_batches

ENGINES = ("ddp", "fsdp2", "zero3")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def found(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each engine found, by its name."""
    folder = tmp_path_factory.mktemp("shared")
    for begin, kinds in (((), ["single"]), (TORCHRUN, ENGINES)):
        ended = start(*begin, "-m", "tests.evalhooks.spread", str(policy_folder), str(folder), *kinds)
        assert ended.returncode == 0, ended.stderr[-4000:]
    found = {kind: json.loads((folder / kind / "found.json").read_text()) for kind in ("single", *ENGINES)}
    return found | {name: json.loads((folder / f"choices-{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")}


@pytest.mark.parametrize("kind", ENGINES)
def test_the_shares_of_two_processes_make_the_scores_and_metrics_of_one(found: Any, kind: str) -> None:
    assert found[kind]["scores"] == found["single"]["scores"]
    assert found[kind]["metrics"] == found["single"]["metrics"]
    metrics = found["single"]["metrics"]["1"]
    assert {"rewardbench2/math", "bon/fruits@4", "held_out/a/accuracy", "num_weights"} < set(metrics)
    assert len({score for row in found["single"]["scores"] for score in row["scores"]}) == 28


def test_multiple_choice_that_two_processes_share_gives_the_number_of_one(found: Any) -> None:
    assert found["1-0"] == found["2-0"] == found["2-1"]
    assert 0 < found["1-0"]["downstream/choices"] < 2


@pytest.mark.parametrize("kind", ENGINES)
def test_a_hook_that_fails_on_one_process_fails_on_all_and_none_waits(found: Any, kind: str) -> None:
    assert found[kind]["failures"] == [[["no such benchmark", True, True]] * 2] * 2


def test_a_pass_through_split_weights_that_fails_on_one_process_ends_all(policy_folder: Path, tmp_path: Path) -> None:
    ended = start(*TORCHRUN, "-m", "tests.evalhooks.spread", str(policy_folder), str(tmp_path), "broken-pass")
    assert ended.returncode != 0
    assert "out of memory, says the second" in ended.stderr


def test_batches_are_dealt_out_in_turn_and_all_processes_have_as_many() -> None:
    dealt = [own_batches("abcde", World(rank=rank, size=3, device=torch.device("cpu"))) for rank in range(3)]
    assert dealt == [["a", "d"], ["b", "e"], ["c", "e"]]
    assert own_batches([], World(rank=1, size=2, device=torch.device("cpu"))) == []
    assert own_batches("abc", None) == ["a", "b", "c"]
