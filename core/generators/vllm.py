"""Completions by a vLLM server, token ids in and token ids out; it is sent the weights after every update."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from core.data.chat import encode_prompts
from core.records import Completion, Dialogue, Sampling
from core.vllm.server import Server
from core.vllm.weights import DEV_MODE, WeightTransfer


class VLLMGenerator:
    """Generates with a server that holds the same model:

        VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs

    The server gets token ids, made here with the policy's own `tokenizer`, one request per prompt, `parallel` of them at a
    time; it stops at the tokenizer's EOS and nothing else. Its log-probabilities are those of the sampling temperature only
    with `--logprobs-mode processed_logprobs`; without it they are those of temperature 1.

    Every prompt has a seed of its own, a function of the seed and of its place. Yet the server batches what arrives
    together, and rounding differs from batch to batch: two runs of one seed are alike, not equal bit for bit, and so is a
    resumed run to an uninterrupted one.

    A server that holds no weights of this run yet must be given them by `load_weights` before it generates.
    Requests are tried again and errors are `ValueError`s as in `core.vllm.server.Server`. Tried against a stand-in with the
    server's interface only, not against vLLM on hardware.
    """

    def __init__(self, server: Server, tokenizer: PreTrainedTokenizerBase, transfer: WeightTransfer, *, parallel: int = 64) -> None:
        self.server, self.tokenizer, self.transfer, self.parallel = server, tokenizer, transfer, parallel
        self.model = _served_model(server)
        self._weights_are_whole = True

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in the order of the prompts."""
        if not self._weights_are_whole:
            raise ValueError(f"{self.server.base_url} got only a part of the last weights; load them again before it generates.")
        bodies = [self._request(ids, sampling, sampling.first + i) for i, ids in enumerate(encode_prompts(self.tokenizer, prompts))]
        with ThreadPoolExecutor(self.parallel) as pool:
            answers = list(pool.map(lambda body: self.server.post("/v1/completions", body), bodies))
        return [self._completions(answer, sampling) for answer in answers]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Pauses the server, sends it the weights of the policy by the names of its state dict, and lets it go on.

        Requests under way end first, and what the server remembers of prompts is dropped: keys and values of the old weights.
        Where the transfer fails the server stays paused, for its weights may be half old and half new.
        """
        self._weights_are_whole = False
        self.server.post("/pause?mode=wait", remedy=DEV_MODE)
        self.transfer.send(self.server, weights)
        reset = self.server.post("/reset_prefix_cache?reset_running_requests=true", remedy=DEV_MODE)
        if isinstance(reset, dict) and reset.get("success") is False:
            raise ValueError(f"{self.server.base_url} could not forget the prompts it read with the old weights; restart it.")
        self.server.post("/resume", remedy=DEV_MODE)
        self._weights_are_whole = True

    def _request(self, ids: list[int], sampling: Sampling, place: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": ids,
            "n": sampling.n,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            # vLLM adds a completion's number among the n to the seed; without the product prompts would share draws.
            "seed": (sampling.seed * 1_000_003 + place) * sampling.n % 2**62,
            # The folder of a model may name other ends beside EOS; with ignore_eos it is this list alone that ends.
            "ignore_eos": True,
            "stop_token_ids": [self.tokenizer.eos_token_id],
            "logprobs": 0,  # none beside that of the token itself
            "return_token_ids": True,
        }

    def _completions(self, answer: Any, sampling: Sampling) -> list[Completion]:
        url = f"{self.server.base_url}/v1/completions"
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            rows = [[int(token) for token in choice["token_ids"]] for choice in choices]
            logprobs = [[float(value) for value in choice["logprobs"]["token_logprobs"]] for choice in choices]
            reasons = [choice["finish_reason"] for choice in choices]
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{url} answered {str(answer)!r:.200}, without token ids and their logprobs; is it a vLLM server?") from error
        if len(rows) != sampling.n or [len(row) for row in rows] != [len(row) for row in logprobs]:
            raise ValueError(f"{url} gave {len(rows)} completions of {sampling.n}, or not one logprob per token; is it a vLLM server?")
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [self._completion(*parts, sampling) for parts in zip(texts, rows, logprobs, reasons, strict=True)]

    def _completion(self, text: str, row: list[int], logprobs: list[float], reason: str, sampling: Sampling) -> Completion:
        finished = row[-1:] == [self.tokenizer.eos_token_id]
        if not finished and len(row) != sampling.max_new_tokens:
            raise ValueError(
                f"{self.server.base_url} ended a completion after {len(row)} of {sampling.max_new_tokens} tokens without EOS "
                f"(finish_reason {reason!r}); raise the server's --max-model-len, and let nobody else pause it."
            )
        told = tuple(logprobs) if sampling.temperature > 0 else (0.0,) * len(row)  # a greedy token is certain
        return Completion(text=text, token_ids=tuple(row), finished=finished, logprobs=told)


def _served_model(server: Server) -> str:
    """The name under which the server answers for its model."""
    found = server.get("/v1/models")
    try:
        return str(found["data"][0]["id"])
    except (LookupError, TypeError) as error:
        raise ValueError(f"{server.base_url}/v1/models answered {str(found)!r:.200}; is it a vLLM server?") from error
