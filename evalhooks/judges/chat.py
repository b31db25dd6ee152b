"""Language models that answer many dialogues: behind an endpoint, or in this process."""

import asyncio
import os
from collections.abc import Generator as RunningGenerator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import util
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from core.records import Dialogue, Generator, Sampling

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OPENAI = "https://api.openai.com/v1"
_LONGEST_PAUSE_S = 120
"""The longest pause before a retry that the client takes at a server's word."""


class Chat(Protocol):
    """Anything that answers dialogues."""

    def answers(self, dialogues: Sequence[Dialogue]) -> Iterator[tuple[int, str]]:
        """Index and text of every answer, in any order, each as soon as it is there.

        Raises `ValueError`, after the answers that were received, where the others cannot be had.
        """
        ...


@contextmanager
def asking(chat: Chat, dialogues: Sequence[Dialogue]) -> Iterator[Iterator[tuple[int, str]]]:
    """The answers of `chat`; what is still being asked when the block is left, by an error or Ctrl-C too, is cancelled."""
    answers = chat.answers(dialogues)
    try:
        yield answers
    finally:
        # A traceback would keep the generator, and with it the requests, alive.
        if isinstance(answers, RunningGenerator):
            answers.close()


class EndpointChat:
    """Asks a model behind an OpenAI-compatible endpoint, `parallel` dialogues at a time.

    `base_url` is by default the environment's OPENAI_BASE_URL, else OpenAI's own. The key is read from the environment
    variable named `api_key_env`; an endpoint that was named may do without. `max_tokens` limits an answer. Requests that
    meet a full or failing server are repeated up to `retries` times, ever later. `timeout_s` is how long the server may
    be silent. Raises `ValueError` where the package openai or the key is missing.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str = "",
        api_key_env: str = "OPENAI_API_KEY",
        max_tokens: int = 2048,
        temperature: float = 0.0,
        seed: int | None = None,
        timeout_s: float = 60.0,
        retries: int = 4,
        parallel: int = 16,
    ) -> None:
        if util.find_spec("openai") is None:
            raise ValueError("a judge behind an endpoint needs the package openai; run pip install 'rewardloop[judge]'.")
        self.endpoint = (base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")
        self.api_key_env = api_key_env
        self._key = os.environ.get(api_key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):  # the error of the client would show the key
            raise ValueError(f"the environment variable {api_key_env} holds characters that no key has; set it to the key alone.")
        if not self._key and self.endpoint == OPENAI:
            raise ValueError(
                f"the environment variable {api_key_env} is not set, and {OPENAI} needs a key; set it, name another variable with "
                "reward.judge.api_key_env, or name an endpoint that needs none with reward.judge.base_url."
            )
        # OpenAI's newer models know only the new name of the limit, other servers often only the old one.
        limit = "max_completion_tokens" if self.endpoint == OPENAI else "max_tokens"
        self.request: dict[str, Any] = {"model": model, "temperature": temperature, limit: max_tokens}
        if seed is not None:
            self.request["seed"] = seed
        self.timeout_s, self.retries, self.parallel = timeout_s, retries, parallel

    def answers(self, dialogues: Sequence[Dialogue]) -> Iterator[tuple[int, str]]:
        """Index and text of every answer as it arrives; an answer without content is the text "".

        The first request that fails for good, or hangs, cancels the others: then the answers that were received are
        yielded, and a `ValueError` says what to change.
        """
        from anyio.from_thread import start_blocking_portal
        from openai import OpenAIError

        received: SimpleQueue[tuple[int, str] | None] = SimpleQueue()
        with start_blocking_portal(name="judge requests") as portal:
            requests = portal.start_task_soon(self._ask_all, dialogues, received)
            requests.add_done_callback(lambda _: received.put(None))
            yield from iter(received.get, None)
        failure = requests.exception()
        first = failure.exceptions[0] if isinstance(failure, ExceptionGroup) else None
        if isinstance(first, OpenAIError | TimeoutError | ValueError):
            raise ValueError(self._explain(first)) from first
        if failure is not None:
            raise failure

    async def _ask_all(self, dialogues: Sequence[Dialogue], received: SimpleQueue[tuple[int, str] | None]) -> None:
        from openai import AsyncOpenAI

        todo = iter(enumerate(dialogues))

        async def work() -> None:
            for index, dialogue in todo:
                received.put((index, await self._ask(client, dialogue)))

        key = self._key or "none"  # the client wants a key, even for an endpoint that does not
        async with (
            AsyncOpenAI(api_key=key, base_url=self.endpoint, timeout=self.timeout_s, max_retries=self.retries) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(min(self.parallel, len(dialogues))):
                group.create_task(work())

    async def _ask(self, client: "AsyncOpenAI", dialogue: Dialogue) -> str:
        messages: Any = [{"role": turn.role, "content": _encodable(turn.content)} for turn in dialogue]
        # The client's timeout starts anew with every byte, and some servers send blanks for as long as they work.
        async with asyncio.timeout((self.retries + 1) * self.timeout_s + self.retries * _LONGEST_PAUSE_S):
            reply = await client.chat.completions.create(messages=messages, **self.request)
        return _text(reply)

    def _explain(self, failure: Exception) -> str:
        import openai

        where = f"the judge {self.request['model']} at {self.endpoint}"
        said = " ".join(str(failure).split())[:300] or type(failure).__name__
        match failure:
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                sent = f"the key in {self.api_key_env}" if self._key else f"a request without a key ({self.api_key_env} is not set)"
                return f"{where} refuses {sent}: {said}. Set that variable, or name another one with reward.judge.api_key_env."
            case openai.NotFoundError():
                return f"{where} is not there: {said}. Check reward.judge.model, and reward.judge.base_url, which usually ends in /v1."
            case openai.APITimeoutError() | TimeoutError():
                attempts = f"{self.retries + 1} attempts of {self.timeout_s:g} s"
                return f"{where} did not answer in {attempts}. Raise reward.judge.timeout_s or lower reward.judge.parallel."
            case openai.APIConnectionError():
                return f"{where} cannot be reached ({failure.__cause__ or said}). Start the server or check reward.judge.base_url."
            case openai.RateLimitError():
                return f"{where} turns requests away, repeated ones too: {said}. Lower reward.judge.parallel, or wait."
            case openai.InternalServerError():
                return f"{where} fails, and {self.retries} retries did not help: {said}. Look at the server, or raise reward.judge.retries."
            case openai.APIStatusError():
                return f"{where} refuses a request: {said}. Change the parameter of reward.judge that it names, or the model."
            case _:
                return f"{where} sent what is no chat completion: {said}. Check reward.judge.base_url, which usually ends in /v1."


def _text(reply: object) -> str:
    """The text of a reply, whatever it is: the client checks no types, and proxies answer with web pages and status 200."""
    from openai.types.chat import ChatCompletion

    if not isinstance(reply, ChatCompletion) or not reply.choices:
        raise ValueError(f"{reply!r:.200}")
    content = reply.choices[0].message.content
    return _encodable(content) if isinstance(content, str) else ""


def _encodable(text: str) -> str:
    """The text without halves of characters, which JSON may hold and neither a request nor a file can."""
    return text.encode("utf-8", "replace").decode()


class LocalChat:
    """Asks a language model in this process, greedily and in chunks of dialogues of like length, the longest first."""

    def __init__(self, generator: Generator, *, max_tokens: int = 2048, chunk: int = 64) -> None:
        self._generator, self._chunk = generator, chunk
        self._sampling = Sampling(n=1, temperature=0.0, max_new_tokens=max_tokens)

    def answers(self, dialogues: Sequence[Dialogue]) -> Iterator[tuple[int, str]]:
        """Index and text of every answer, chunk by chunk."""
        order = sorted(range(len(dialogues)), key=lambda place: -sum(len(turn.content) for turn in dialogues[place]))
        for start in range(0, len(order), self._chunk):
            chunk = order[start : start + self._chunk]
            completions = self._generator.generate([dialogues[place] for place in chunk], self._sampling)
            yield from ((place, completion.text) for place, (completion,) in zip(chunk, completions, strict=True))
