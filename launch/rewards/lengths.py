"""How many tokens a reward model may have to read: those of a prompt, an answer, and what its chat template puts around them."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from core.data.chat import encode_answered
from core.data.pad_token import same_tokens
from core.records import Dialogue, user
from launch.schema import PPOJob


def longest_text(job: PPOJob, policy: PreTrainedTokenizerBase, prompts: Sequence[Dialogue]) -> Callable[[PreTrainedTokenizerBase], int]:
    """The most tokens that a prompt of `job` and its answer can take, as a function of the tokenizer that reads them.

    A bound for a reward model with the policy's vocabulary. One with another may need more tokens for the same text, so it is allowed
    twice as many. Never below `hooks.max_length`, which bounds the benchmark's texts.
    """
    turns = max((len(prompt) for prompt in prompts), default=1)

    def length(tokenizer: PreTrainedTokenizerBase) -> int:
        around_a_turn = len(encode_answered(tokenizer, [user("a")], ["a"])[0])
        told = job.max_prompt_length + max(job.max_new_tokens, job.hooks.downstream.max_new_tokens)
        same = same_tokens(tokenizer, policy)
        return max(job.hooks.max_length, (told if same else 2 * told) + turns * around_a_turn)

    return length
