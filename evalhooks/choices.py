"""Tasks of multiple choice at a checkpoint: measured on the model in memory, by every process its share of the prompts."""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from core.process.precision import without_autocast
from core.process.world import World
from core.progress import Progress
from core.records import CheckpointSaved
from evalhooks.tasks.task import Task


def choice_metrics(
    event: CheckpointSaved, tasks: Mapping[str, Task], world: World, progress: Progress, say: Callable[[str, str], None]
) -> dict[str, float]:
    """The metric of each task; none where processes hold only a part of the weights each. All processes call it.

    `say` gets a line and what it is about.
    """
    if tasks and any(world.all_gather(lambda: is_sharded(event.model))):
        say(f"{', '.join(tasks)}: skipped, since likelihoods need whole weights and these are sharded", "sharded")
        return {}
    found: dict[str, float] = {}
    for name, task in tasks.items():
        shares = world.all_gather(lambda task=task: _own_share(event, task, world))
        choices, measured = task.choices, [*chain.from_iterable(shares)]
        assert choices is not None
        found[name] = choices.metric(task.prompts, measured)
        progress.advance(len(task.prompts))
    return found


def _own_share(event: CheckpointSaved, task: Task, world: World) -> list[Any]:
    own = task.prompts[world.shard(len(task.prompts))]
    assert task.choices is not None
    with without_autocast():
        return task.choices.of_prompts(event.model, event.tokenizer, own) if own else []


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether this process holds only a part of the weights: FSDP's are DTensors, and those that DeepSpeed has elsewhere are empty."""
    return any(isinstance(weight, DTensor) or not weight.numel() for weight in model.parameters())
