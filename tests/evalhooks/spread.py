"""What `test_shared` has several processes do: `torchrun -m tests.evalhooks.spread POLICY_FOLDER OUT_FOLDER ENGINE...`.

Under each engine a reward model is trained by a step that moves nothing, so that what hooks measure is the same to the bit.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from bon.rows import PoolRow
from core.config import EngineConfig, EngineKind, ModelConfig, OptimConfig
from core.hooks.hook import Hook, RunParts, SharedHook
from core.hooks.run_context import RunContext
from core.models.load import load_policy
from core.process.exit import exit_without_teardown
from core.process.world import World, join_world, was_shared
from core.records import BenchmarkRow, CheckpointSaved, Preference, Sampling, user
from evalhooks.checkpoints.held_out import HeldOutHook
from evalhooks.checkpoints.policy import PolicyHook
from evalhooks.checkpoints.reward_model import RewardModelHook
from evalhooks.config import TaskConfig
from evalhooks.tasks.task import load_tasks
from rmtrain.config import PreferenceDataConfig, RewardModelConfig
from rmtrain.train import train
from tests.fakes import ListTracker
from tests.spread import silent

FRUITS = ("plum", "pear", "fig", "an apple, or two apples")
PAIRS = [
    Preference(prompt=user(f"Name a fruit, {i}."), chosen=f"A {'plum ' * (i % 5)}.", rejected="No.", source="ab"[i % 2]) for i in range(9)
]
ROWS = [
    BenchmarkRow(id=str(i), prompt=f"Name {'a ' * (i % 5)}fruit {i}.", completions=FRUITS, num_correct=1, subset="Math") for i in range(7)
]
POOLS = {"fruits": [PoolRow(id=str(i), prompt=user(f"Fruit {i}?"), completions=FRUITS, correct=(1.0, 0.0, 0.0, 1.0)) for i in range(5)]}


CHOICES = """
task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Name {{{{fruit}}}}."
doc_to_choice: ["a plum", "two figs", "an apple, or two"]
doc_to_target: label
metric_list: [{{metric: brier_score, aggregation: brier_score, higher_is_better: false}}]
"""
"""Of a score that changes with every digit of the likelihoods."""


class SizeHook(Hook):
    """The number of weights, which only a whole model has all of; for the main process alone."""

    def on_checkpoint(self, event: CheckpointSaved) -> Mapping[str, float]:
        return {"num_weights": float(sum(weight.numel() for weight in event.model.parameters()))}


class FailingHook(SharedHook):
    """Fails on the second process alone, before or after the processes have met."""

    def __init__(self, *, after: bool) -> None:
        self.after = after

    def measure(self, event: CheckpointSaved, parts: RunParts) -> Mapping[str, float]:
        def scored() -> None:
            if not self.after:
                self._fail(parts.world)

        self_fails_late = parts.world.all_gather(scored)
        assert len(self_fails_late) == 2
        self._fail(parts.world)
        return {}

    def _fail(self, world: World) -> None:
        if world.rank == 1:
            raise ValueError("no such benchmark")


class BrokenPassHook(SharedHook):
    """Fails on the second process alone, in a pass in which the first one waits for it."""

    def measure(self, event: CheckpointSaved, parts: RunParts) -> Mapping[str, float]:
        if parts.world.rank == 1:
            event.model.get_submodule("model.layers.1").register_forward_pre_hook(_out_of_memory)
        return RewardModelHook(rewardbench2=ROWS, say=silent).measure(event, parts)


def _out_of_memory(*_: Any) -> None:
    raise RuntimeError("out of memory, says the second")


def config_of(policy: str, kind: str) -> RewardModelConfig:
    return RewardModelConfig(
        model=ModelConfig(path=policy),
        data=PreferenceDataConfig(paths=["unused.jsonl"]),
        optim=OptimConfig(lr=1e-30),
        engine=EngineConfig(kind=EngineKind(kind)),
        batch_size=9,
        num_checkpoints=1,
    )


def measured(policy: str, kind: str, folder: Path, world: World, hooks: list[Hook]) -> dict[int, dict[str, float]]:
    folder.mkdir(parents=True, exist_ok=True)
    tracker = ListTracker()
    train(config_of(policy, kind), RunContext(dir=folder, world=world, hooks=hooks, tracker=tracker, say=silent), preferences=PAIRS)
    return tracker.on("checkpoint/step")


def chosen(policy: str, folder: Path, world: World) -> dict[str, float]:
    """What multiple choice comes to."""
    own = folder / f"choices-{world.rank}"
    own.mkdir(parents=True)
    (own / "rows.jsonl").write_text("".join(json.dumps({"fruit": "plum " * (i % 4), "label": i % 3}) + "\n" for i in range(7)))
    (own / "choices.yaml").write_text(CHOICES.format(data=own / "rows.jsonl"))
    tasks = load_tasks({"choices": TaskConfig(lm_eval=str(own / "choices.yaml"))})
    model, tokenizer = load_policy(ModelConfig(path=policy))
    event = CheckpointSaved(step=1, num_steps=1, path=own, run_dir=own, model=model, tokenizer=tokenizer)
    return dict(PolicyHook(tasks=tasks, sampling=Sampling(), say=silent).measure(event, RunParts(world=world)))


def failure(policy: str, kind: str, folder: Path, world: World, hook: Hook) -> list[Any]:
    started = time.monotonic()
    try:
        measured(policy, kind, folder, world, [hook])
    except ValueError as error:
        return [str(error), was_shared(error), time.monotonic() - started < 60]
    return ["nothing"]


def main() -> None:
    policy, out, *kinds = sys.argv[1:]
    torch.set_num_threads(1)
    world = join_world()
    if kinds == ["broken-pass"]:
        measured(policy, "fsdp2", Path(out) / "broken", world, [BrokenPassHook()])
    for kind in kinds:
        folder = Path(out) / kind
        hooks = [
            RewardModelHook(rewardbench2=ROWS, pools=POOLS, best_of=(2, 4), batch_tokens=150, say=silent),
            HeldOutHook(PAIRS, batch_tokens=60, say=silent),
            SizeHook(),
        ]
        found: dict[str, Any] = {"metrics": measured(policy, kind, folder / "run", world, hooks)}
        if world.size > 1:
            found["failures"] = world.all_gather(
                lambda kind=kind, folder=folder: [
                    failure(policy, kind, folder / f"failing-{after}", world, FailingHook(after=after)) for after in (False, True)
                ]
            )
        if world.is_main:
            found["scores"] = pq.read_table(folder / "run" / "evals" / "step-000001.rewardbench2.parquet").to_pylist()
            (folder / "found.json").write_text(json.dumps(found))
        world.barrier()
    metrics = chosen(policy, Path(out) / f"of-{world.size}", world)
    (Path(out) / f"choices-{world.size}-{world.rank}.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    with exit_without_teardown():
        main()
