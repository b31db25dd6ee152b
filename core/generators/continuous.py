"""Sampling with transformers' continuous batching: a finished row immediately makes room for the next prompt."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from core.data.chat import pad_id
from core.data.turn_ends import answer_texts, turn_ends
from core.generators.half import to_sample_from
from core.generators.local import prompt_tokens, require_generates
from core.records import Completion, Dialogue, Sampling

PAGE = 64
"""Tokens per block of the paged cache."""
MAX_BATCH_TOKENS = 8192
"""Tokens in one forward pass, including those of new prompts."""
OTHER = "rollout.kind=transformers"


class ContinuousGenerator:
    """Generates with a causal language model in this process, with a paged KV cache.

    All prompts of a call share one seed, derived from `sampling.seed` and `sampling.first`, and one stream of random numbers.
    Equal calls give equal completions on the same machine and version of transformers, but a prompt's completions depend on
    the other prompts. A resumed run, whose batches are the same, therefore continues as before; a run with another batch size
    or number of processes samples differently.

    `memory` is the fraction of the device's free memory that the cache takes during a call. The engine runs in a thread of its own, where
    autocast does not reach: under autocast it samples from a copy held in that format altogether, made for the call. `probe` stands
    in for a model that cannot run yet (`core.models.mapped.first_layers`).
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, memory: float = 0.5, probe: PreTrainedModel | None = None
    ) -> None:
        self.model, self.tokenizer, self.memory = model, tokenizer, memory
        self.ends = turn_ends(model, tokenizer)
        if not model._supports_attention_backend:  # pyright: ignore[reportPrivateUsage]
            raise ValueError(f"{type(model).__name__} has attention of its own, which continuous batching cannot page; use {OTHER}.")
        require_generates(probe or model, tokenizer)

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in the order of the prompts. Raises `ValueError` if the engine fails."""
        if not prompts:
            return []
        # n copies, not num_return_sequences: the blocks of a prompt are shared among its copies either way.
        inputs = [ids for ids in prompt_tokens(self.model, self.tokenizer, prompts, sampling) for _ in range(sampling.n)]
        model, greedy = to_sample_from(self.model, whole=True), sampling.temperature == 0
        # The engine reseeds torch's global generators, which the rest of the run uses.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            try:
                found = self._run(model, inputs, sampling, _blocks(inputs, sampling.max_new_tokens))
            except MemoryError:  # they do not all fit at once; the engine then runs as many as fit
                found = self._run(model, inputs, sampling, None)
        outputs = list(found.values())
        failed = [output.error for output in outputs if output.error is not None]
        if failed or len(outputs) != len(inputs):
            why = failed[0] if failed else "see its messages above"
            raise ValueError(
                f"continuous batching finished {len(outputs) - len(failed)} of {len(inputs)} completions ({why}); use {OTHER}, "
                "or change rollout.memory."
            )
        rows = [output.generated_tokens for output in outputs]
        texts = answer_texts(self.tokenizer, rows, self.ends)
        flat = [
            Completion(
                text=text,
                token_ids=tuple(row),
                finished=row[-1] in self.ends,
                logprobs=(0.0,) * len(row) if greedy else tuple(output.logprobs),
            )
            for text, row, output in zip(texts, rows, outputs, strict=True)
        ]
        return [flat[start : start + sampling.n] for start in range(0, len(flat), sampling.n)]

    def _run(self, model: PreTrainedModel, inputs: list[list[int]], sampling: Sampling, num_blocks: int | None) -> dict[str, Any]:
        drawn = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0} if sampling.temperature > 0 else {}
        generation = GenerationConfig(
            do_sample=sampling.temperature > 0,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=sorted(self.ends),
            pad_token_id=pad_id(self.tokenizer),
            **drawn,
        )
        batching = ContinuousBatchingConfig(
            return_logprobs=True,
            seed=(sampling.seed * 1_000_003 + sampling.first) % 2**62,
            page_size=PAGE,
            num_blocks=num_blocks,
            max_batch_tokens=min(MAX_BATCH_TOKENS, sum(map(len, inputs))),
            max_memory_percent=self.memory,
            # Asynchronous batching admits prompts depending on timing, which would change the order of random draws.
            use_async_batching=False,
        )
        untyped: Any = model  # transformers' annotations hide generate_batch() from its own models
        try:
            return untyped.generate_batch(inputs=inputs, generation_config=generation, continuous_batching_config=batching)
        except ValueError as error:
            name = type(model).__name__
            raise ValueError(f"continuous batching does not start with {name} ({error}); raise rollout.memory, or use {OTHER}.") from error


def _blocks(inputs: Sequence[list[int]], max_new_tokens: int) -> int:
    """The number of blocks of `PAGE` tokens that hold all rows at full length."""
    return sum(-(-(len(ids) + max_new_tokens) // PAGE) for ids in inputs) + 1
