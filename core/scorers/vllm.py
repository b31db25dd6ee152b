"""Rewards from a vLLM server: at scale the reward model lives in its own process, on its own GPUs."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from core.data.pad_token import without_trailing_pads
from core.data.token_rows import token_rows
from core.disk import Json
from core.records import Answer, CompletionScore, Dialogue
from core.vllm.server import Server, is_address

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUSPICIOUS = 8
"""From this many scores on, all of them between 0 and 1 are taken for the output of a sigmoid."""


class VLLMScorer:
    """Scores with a one-output classifier behind a vLLM server (`vllm serve MODEL --runner pooling`).

    The server gets token ids from the reward model's own `tokenizer`, so that template, BOS and truncation to `max_length`
    are the same as for a reward model in this process. Rows are sorted by length and sent in requests of `batch` rows,
    `parallel` requests at a time. `num_truncated` counts the truncated rows. vLLM reads a reward at the last token, so `pad`,
    the pad token of the model's configuration, is cut off at the end of a row: transformers reads the last token that is another.

    vLLM applies a sigmoid to the output of a one-label classifier by default; requests switch it off with
    `use_activation: false` (`activation` for older servers). If a call with 8 or more texts still returns only scores
    between 0 and 1, `say` gets a warning, once.

    Connection errors, timeouts (`timeout_s` per request) and the statuses 429 and 5xx are retried up to `retries` times,
    after 0.25 s, 0.5 s, 1 s and so on up to 4 s. Requests that fail for good raise `ValueError` with the URL and the reason.

    Tested only against a stand-in with the server's interface, not against vLLM on hardware.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_length: int = 2048,
        pad: int | None = None,
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
        self.model, self.tokenizer, self.max_length, self.pad = model, tokenizer, max_length, pad
        self.batch, self.parallel, self.timeout_s, self.retries = batch, parallel, timeout_s, retries
        self.num_truncated = 0
        self._say, self._has_said = say, False
        self._lost: set[str] = set()

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[Answer]]) -> list[list[float]]:
        """One list of rewards per prompt, one reward per completion, in the order given."""
        return [[found.reward for found in row] for row in self.score_detailed(prompts, completions)]

    def score_detailed(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[Answer]]) -> list[list[CompletionScore]]:
        """As `score`, with the number of tokens behind each score."""
        texts = token_rows(self.tokenizer, prompts, completions, self.max_length)
        rewards = self._rewards([list(without_trailing_pads(row, self.pad)) for row in texts.rows])
        self._suspect_sigmoid(rewards)
        self.num_truncated += sum(texts.truncated)
        texts.say_lost(self._lost, self._say)
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
        found = _outputs(answer)
        if found is None:
            raise ValueError(f"{self.url} answered {str(answer)!r:.200}, which is not a classification; is it a vLLM server?")
        if set(found) != set(range(len(rows))):
            raise ValueError(
                f"{self.url} answered for {len(found)} of the {len(rows)} texts of a request, or for others; is it a vLLM server?"
            )
        return [self._reward(found[index]) for index in range(len(rows))]

    def _reward(self, outputs: Json) -> float:
        if not isinstance(outputs, list) or len(outputs) != 1:
            given = f"{len(outputs)} outputs" if isinstance(outputs, list) else repr(outputs)
            raise ValueError(f"{self.url} gave {given:.80} for a text; a reward model has one output, so serve another model.")
        (reward,) = outputs
        if not isinstance(reward, int | float) or not math.isfinite(reward):
            raise ValueError(f"{self.url} gave {reward!r:.80} for a text, which is not a finite number; check the model's data type.")
        return float(reward)

    def _suspect_sigmoid(self, rewards: list[float]) -> None:
        if self._has_said or len(rewards) < SUSPICIOUS or not all(0 < reward < 1 for reward in rewards):
            return
        self._has_said = True
        self._say(
            f"{self.url}: all {len(rewards)} rewards lie between 0 and 1; the server seems to apply a sigmoid anyway, which changes "
            "their differences. Serve the model with its activation switched off."
        )


def _outputs(answer: Json) -> dict[int, Json] | None:
    """The outputs in a server's answer by the index of their row; None for an answer of another form."""
    if not isinstance(answer, dict) or not isinstance(entries := answer.get("data"), list):
        return None
    found: dict[int, Json] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(index := entry.get("index"), int) or "probs" not in entry:
            return None
        found[index] = entry["probs"]
    return found
