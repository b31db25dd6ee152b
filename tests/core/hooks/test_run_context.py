"""What a run reports, and which of its processes does."""

from pathlib import Path

import pytest
import torch

from core.hooks.run_context import RunContext
from core.process.world import World
from tests.fakes import ListTracker, RecordingHook


def context_of(rank: int, hook: RecordingHook, tracker: ListTracker, said: list[str]) -> RunContext:
    world = World(rank=rank, size=2, device=torch.device("cpu"))
    return RunContext(dir=Path("run"), world=world, hooks=[hook], tracker=tracker, say=said.append)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_main_process_alone_reports_and_calls_the_hooks(rank: int) -> None:
    hook, tracker, said = RecordingHook(), ListTracker(), list[str]()
    context = context_of(rank, hook, tracker, said)
    context.say("hello")
    context.log_training({"loss": 0.5}, 3)
    context.end(4)
    assert said == ["hello"][: rank == 0]
    assert tracker.rows == [("train/step", 3, {"train/loss": 0.5})][: rank == 0]
    assert [(ended.run_dir, ended.step) for ended in hook.ended] == [(Path("run"), 4)][: rank == 0]
