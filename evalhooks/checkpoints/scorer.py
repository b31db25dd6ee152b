"""The scorer of a reward model that is being trained, as every hook that measures its checkpoints has it."""

from collections.abc import Callable

from core.hooks.hook import RunParts
from core.progress import Labelled, Progress
from core.records import CheckpointSaved
from core.scorers.reward_model import RewardModelScorer


def checkpoint_scorer(
    event: CheckpointSaved,
    parts: RunParts,
    *,
    batch_tokens: int,
    max_length: int,
    progress: Progress,
    label: str,
    say: Callable[[str], None],
) -> RewardModelScorer:
    """A scorer with the weights of this step, of which each process of the run does its share.

    Batches have up to `batch_tokens` tokens, texts up to `max_length`. Progress is told under `label`; the main process alone says lines.
    """
    return RewardModelScorer(
        event.model,
        event.tokenizer,
        batch_tokens=batch_tokens,
        max_length=max_length,
        progress=Labelled(progress, label),
        say=parts.told(say),
        world=parts.world,
        reward_pass=parts.reward_pass,
    )
