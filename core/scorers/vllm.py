"""Rewards by a vLLM server: at scale the reward model lives in a process of its own, with GPUs of its own."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from core.data.token_rows import token_rows
from core.records import CompletionScore, Dialogue
from core.vllm.server import Server, is_address

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUSPICIOUS = 8
"""The number of scores from which on all of them between 0 and 1 is taken for the work of a sigmoid."""


class VLLMScorer:
    """Scores with the classifier of one output that a vLLM server (`vllm serve MODEL --runner pooling`) holds.

    The server gets token ids, made here with the reward model's own `tokenizer`, so that template, BOS and the cut at the
    end to `max_length` are those of a reward model in this process. Rows are sorted by length and sent `batch` to a request,
    `parallel` requests at a time. `num_truncated` counts the rows that were cut.

    A server puts the output of a classifier of one label through a sigmoid unless told otherwise: requests say
    `use_activation: false` (`activation` to older servers). Where a call of 8 or more texts yet brings nothing but scores
    between 0 and 1, `say` gets a line, once.

    Connection errors, timeouts (`timeout_s` per request) and the statuses 429 and 5xx are tried again up to `retries`
    times, after 0.25 s, 0.5 s, 1 s and so on up to 4 s. What fails for good is a `ValueError` naming the URL and the reason.

    Tried against a stand-in with the server's interface only, not against vLLM on hardware.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_length: int = 2048,
        batch: int = 64,
        parallel: int = 8,
        timeout_s: float = 60,
        retries: int = 4,
        say: Callable[[str], None] = print,
    ) -> None:
        if not is_address(base_url):
            raise ValueError(f"The address of the vLLM server is {base_url!r}; give one such as http://localhost:8000.")
        if min(max_length, batch, parallel) < 1 or timeout_s <= 0 or retries < 0:
            raise ValueError(
                f"A VLLMScorer needs max_length, batch and parallel from 1 up, timeout_s above 0 and retries from 0 up, got "
                f"{max_length=}, {batch=}, {parallel=}, {timeout_s=}, {retries=}."
            )
        self.base_url = base_url.rstrip("/")
        self.url = f"{self.base_url}/classify"
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self.batch, self.parallel, self.timeout_s, self.retries = batch, parallel, timeout_s, retries
        self.num_truncated = 0
        self._say, self._has_said = say, False

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of rewards per prompt, one reward per completion, in the order given."""
        return [[found.reward for found in row] for row in self.score_detailed(prompts, completions)]

    def score_detailed(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[CompletionScore]]:
        """As `score`, with the tokens that were sent for each reward."""
        texts = token_rows(self.tokenizer, prompts, completions, self.max_length)
        rewards = self._rewards(texts.rows)
        self._suspect_sigmoid(rewards)
        self.num_truncated += sum(texts.truncated)
        return texts.completion_scores(rewards)

    def _rewards(self, rows: Sequence[list[int]]) -> list[float]:
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        batches = [order[start : start + self.batch] for start in range(0, len(order), self.batch)]
        rewards = [0.0] * len(rows)
        server = Server(self.base_url, parallel=self.parallel, timeout_s=self.timeout_s, retries=self.retries)
        with server, ThreadPoolExecutor(self.parallel) as pool:
            answered = pool.map(lambda batch: self._classify(server, [rows[index] for index in batch]), batches)
            for batch, found in zip(batches, answered, strict=True):
                for index, reward in zip(batch, found, strict=True):
                    rewards[index] = reward
        return rewards

    def _classify(self, server: Server, rows: list[list[int]]) -> list[float]:
        """The rewards of one request's rows, in their order."""
        answer = server.post("/classify", {"model": self.model, "input": rows, "use_activation": False, "activation": False})
        try:
            found = {entry["index"]: entry["probs"] for entry in answer["data"]}
        except (LookupError, TypeError) as error:
            raise ValueError(f"{self.url} answered {str(answer)!r:.200}, which is no classification; is it a vLLM server?") from error
        if set(found) != set(range(len(rows))):
            raise ValueError(
                f"{self.url} answered for {len(found)} of the {len(rows)} texts of a request, or for others; is it a vLLM server?"
            )
        return [self._reward(found[index]) for index in range(len(rows))]

    def _reward(self, outputs: Any) -> float:
        if not isinstance(outputs, list) or len(outputs) != 1:
            given = f"{len(outputs)} outputs" if isinstance(outputs, list) else repr(outputs)
            raise ValueError(f"{self.url} gave {given:.80} for a text; a reward model has one output, so serve another model.")
        if not isinstance(outputs[0], int | float) or not math.isfinite(outputs[0]):
            raise ValueError(f"{self.url} gave {outputs[0]!r:.80} for a text, which is no finite number; check the model's number format.")
        return float(outputs[0])

    def _suspect_sigmoid(self, rewards: list[float]) -> None:
        if self._has_said or len(rewards) < SUSPICIOUS or not all(0 < reward < 1 for reward in rewards):
            return
        self._has_said = True
        self._say(
            f"{self.url}: all {len(rewards)} rewards lie between 0 and 1; the server seems to apply a sigmoid all the same, which changes "
            "their differences. Serve the model with its activation switched off."
        )
