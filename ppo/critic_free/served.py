"""TRL's trainers with completions that a server drew, in place of their own sampling or of TRL's own vLLM."""

# pyright: reportPrivateUsage=false

from collections.abc import Callable
from typing import Any

from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from core.records import Completion

Draw = Callable[[], list[Completion]]
"""Draws the next batch and returns this process's completions, those of a prompt one after another."""


class ServedRLOOTrainer(RLOOTrainer):
    """RLOO on completions that `draw` gives; its old log-probabilities are the trainer's own, as TRL has it with vLLM."""

    draw: Draw

    def _generate_single_turn(self, prompt_ids: Any, images: Any, multimodal_fields: Any) -> list[list[int]]:
        return [list(completion.token_ids) for completion in self.draw()]


class ServedGRPOTrainer(GRPOTrainer):
    """GRPO on completions that `draw` gives; tokens are weighed by the trainer's probability over the server's, up to a bound."""

    draw: Draw

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], list[list[float]]]:
        drawn = self.draw()
        return [list(completion.token_ids) for completion in drawn], [list(completion.logprobs or ()) for completion in drawn]
