"""Sampling with vLLM servers, token ids in and token ids out; they receive the weights after every update."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from core.data.chat import encode_prompts
from core.data.turn_ends import answer_texts
from core.disk import Json
from core.records import Completion, Dialogue, Sampling
from core.vllm.server import Server
from core.vllm.weights import DEV_MODE, WeightTransfer, for_each


class VLLMGenerator:
    """Generates with servers that hold the same model, one or several:

        VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs

    A server gets token ids from the policy's own `tokenizer`, one request per prompt, `parallel` requests at a time, and
    stops at the ids of `ends` (`core.data.turn_ends.turn_ends`). Without `--logprobs-mode processed_logprobs` its
    log-probabilities are those at temperature 1, not at the sampling temperature.

    Prompts are dealt out to the servers in turn. Every prompt has its own seed, derived from the seed and the prompt's index.
    But a server batches whatever arrives together, and rounding differs from batch to batch: runs with the same seed are
    similar, not bit-identical, and so are a resumed and an uninterrupted run.

    Call `load_weights` before the first `generate` unless the server already holds the policy's weights. Requests are retried
    and fail with `ValueError` as in `core.vllm.server.Server`. Tested only against a stand-in with the server's interface, not
    against vLLM on hardware.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        tokenizer: PreTrainedTokenizerBase,
        transfer: WeightTransfer,
        *,
        ends: frozenset[int],
        parallel: int = 64,
    ) -> None:
        self.servers, self.tokenizer, self.transfer, self.ends, self.parallel = servers, tokenizer, transfer, ends, parallel
        self.models = [_served_model(server) for server in servers]
        self._weights_are_whole = True

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions per prompt, in the order of the prompts."""
        if not self._weights_are_whole:
            raise ValueError(f"{self._urls} received only part of the last weights; load them again before generating.")
        asked = [(i, sampling.first + i, ids) for i, ids in enumerate(encode_prompts(self.tokenizer, prompts))]

        def answer(place: int, index: int, ids: list[int]) -> list[Completion]:
            number = place % len(self.servers)
            server, body = self.servers[number], self._request(ids, sampling, index, model=self.models[number])
            return self._completions(server, server.post("/v1/completions", body), sampling)

        with ThreadPoolExecutor(self.parallel * len(self.servers)) as pool:
            return list(pool.map(lambda one: answer(*one), asked))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Pauses the servers, sends them the policy's weights under their state-dict names, and resumes them.

        Running requests finish first, and the prefix caches, computed with the old weights, are cleared. If the transfer fails,
        the servers stay paused, since their weights may be partly old and partly new.
        """
        self._weights_are_whole = False
        for_each(self.servers, lambda server: server.post("/pause?mode=wait", remedy=DEV_MODE))
        self.transfer.send(self.servers, weights)
        for_each(self.servers, _forget_prefixes)
        for_each(self.servers, lambda server: server.post("/resume", remedy=DEV_MODE))
        self._weights_are_whole = True

    @property
    def _urls(self) -> str:
        return ", ".join(server.base_url for server in self.servers)

    def _request(self, ids: list[int], sampling: Sampling, index: int, *, model: str) -> dict[str, Any]:
        return {
            "model": model,
            "prompt": ids,
            "n": sampling.n,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            # vLLM adds a completion's index among the n to the seed; without the factor n, prompts would share seeds.
            "seed": (sampling.seed * 1_000_003 + index) * sampling.n % 2**62,
            # The server's copy of the model may lack its generation config; with ignore_eos only this list counts.
            "ignore_eos": True,
            "stop_token_ids": sorted(self.ends),
            "logprobs": 0,  # only that of the sampled token
            "return_token_ids": True,
        }

    def _completions(self, server: Server, answer: Json, sampling: Sampling) -> list[Completion]:
        url = f"{server.base_url}/v1/completions"
        choices = _choices(answer)
        if choices is None:
            raise ValueError(f"{url} answered {str(answer)!r:.200}, without token ids and their logprobs; is it a vLLM server?")
        if len(choices) != sampling.n or any(len(choice.token_ids) != len(choice.logprobs) for choice in choices):
            raise ValueError(f"{url} gave {len(choices)} completions of {sampling.n}, or not one logprob per token; is it a vLLM server?")
        texts = answer_texts(self.tokenizer, [choice.token_ids for choice in choices], self.ends)
        return [self._completion(server, text, choice, sampling) for text, choice in zip(texts, choices, strict=True)]

    def _completion(self, server: Server, text: str, choice: "_Choice", sampling: Sampling) -> Completion:
        row = choice.token_ids
        finished = bool(row) and row[-1] in self.ends
        if not finished and len(row) != sampling.max_new_tokens:
            raise ValueError(
                f"{server.base_url} ended a completion after {len(row)} of {sampling.max_new_tokens} tokens without an end of turn "
                f"(finish_reason {choice.finish_reason!r}); raise the server's --max-model-len, and let nobody else pause it."
            )
        logprobs = tuple(choice.logprobs) if sampling.temperature > 0 else (0.0,) * len(row)  # greedy tokens are certain
        return Completion(text=text, token_ids=tuple(row), finished=finished, logprobs=logprobs)


def _forget_prefixes(server: Server) -> None:
    """Clears the prefix cache, which belongs to the old weights."""
    reset = server.post("/reset_prefix_cache?reset_running_requests=true", remedy=DEV_MODE)
    if isinstance(reset, dict) and reset.get("success") is False:
        raise ValueError(f"{server.base_url} could not clear its prefix cache, which belongs to the old weights; restart it.")


def _served_model(server: Server) -> str:
    """The name under which the server serves its model."""
    found = server.get("/v1/models")
    match found:
        case {"data": [{"id": str(name)}, *_]}:
            return name
        case _:
            raise ValueError(f"{server.base_url}/v1/models answered {str(found)!r:.200}; is it a vLLM server?")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    """One completion in a server's answer."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: object


def _choices(answer: Json) -> list[_Choice] | None:
    """The completions in a server's answer, in order of their indices; None for an answer of another form."""
    if not isinstance(answer, dict) or not isinstance(entries := answer.get("choices"), list):
        return None
    found: dict[int, _Choice] = {}
    for entry in entries:
        match entry:
            case {"index": int(index), "token_ids": [*token_ids], "logprobs": {"token_logprobs": [*logprobs]}, "finish_reason": reason}:
                ids = [token for token in token_ids if isinstance(token, int)]
                numbers = [float(value) for value in logprobs if isinstance(value, int | float)]
                if len(ids) != len(token_ids) or len(numbers) != len(logprobs):
                    return None
                found[index] = _Choice(token_ids=ids, logprobs=numbers, finish_reason=reason)
            case _:
                return None
    return [found[index] for index in sorted(found)]
