"""Tasks of multiple choice at a checkpoint: measured on the model in memory, by the main process."""

from collections.abc import Callable, Mapping

from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from core.process.precision import without_autocast
from core.progress import Progress
from core.records import CheckpointSaved
from evalhooks.tasks.task import Task


def choice_metrics(
    event: CheckpointSaved, tasks: Mapping[str, Task], progress: Progress, say: Callable[[str, str], None]
) -> dict[str, float]:
    """The metric of each task, by the process that calls it; none where this process holds only a part of the weights.

    `say` gets a line and what it is about.
    """
    if tasks and is_sharded(event.model):
        say(f"{', '.join(tasks)}: skipped, since likelihoods need whole weights and these are sharded", "sharded")
        return {}
    found: dict[str, float] = {}
    for name, task in tasks.items():
        assert task.measure is not None
        with without_autocast():
            found[name] = task.measure(event.model, event.tokenizer, task.prompts)
        progress.advance(len(task.prompts))
    return found


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether this process holds only a part of the weights: FSDP's are DTensors, and those that DeepSpeed has elsewhere are empty."""
    return any(isinstance(weight, DTensor) or not weight.numel() for weight in model.parameters())
