"""Chat models that answer batches of dialogues, behind an endpoint or in this process."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from collections.abc import Generator as RunningGenerator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import util
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from core.records import Dialogue, Generator, Sampling

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OPENAI = "https://api.openai.com/v1"
_LONGEST_PAUSE_S = 120
"""The longest retry delay requested by a server that the client honours."""
_NUM_TRIALS = 8
"""After this many refusals without a single answer, every dialogue is assumed to be refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Takes the place of an answer when the server rejects this one dialogue, for instance for its length or content."""

    message: str


class Chat(Protocol):
    """Anything that answers dialogues."""

    def answers(self, dialogues: Sequence[Dialogue], *, proven: bool = False) -> Iterator[tuple[int, str | Refusal]]:
        """Index and text (or refusal) of every answer, in any order, each as soon as it arrives.

        `proven` says that the model has answered such requests before, so a refusal concerns only its dialogue. If some answers
        cannot be obtained, raises `ValueError` after yielding those that were received.
        """
        ...


@contextmanager
def asking(chat: Chat, dialogues: Sequence[Dialogue], *, proven: bool = False) -> RunningGenerator[Iterator[tuple[int, str | Refusal]]]:
    """The answers of `chat`; requests still pending when the block exits, also by an error or Ctrl-C, are cancelled."""
    answers = chat.answers(dialogues, proven=proven)
    try:
        yield answers
    finally:
        # A traceback would keep the generator, and with it the requests, alive.
        if isinstance(answers, RunningGenerator):
            answers.close()


@contextmanager
def _late_interrupt(stop: Callable[[], object]) -> RunningGenerator[None]:
    """The first Ctrl-C in the block calls `stop` and is raised when the block ends; a second one is raised at once.

    An interrupt could hit the consumer at any point, for instance while it writes answers to disk, so catching it there would
    lose some. Does nothing outside the main thread or if Ctrl-C has another handler.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    interrupted = False

    def first(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("finishing pending requests so that none is paid for twice; press Ctrl-C again to stop at once", file=sys.stderr)
        stop()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if interrupted:
            raise KeyboardInterrupt


class EndpointChat:
    """Asks a model behind an OpenAI-compatible endpoint, `parallel` dialogues at a time.

    `base_url` defaults to the environment's OPENAI_BASE_URL, then to OpenAI's own. The key is read from the environment
    variable named `api_key_env`; only OpenAI's endpoint requires one. `max_tokens` limits an answer. Requests to an
    overloaded or failing server are retried up to `retries` times with growing delays. `timeout_s` is how long the server
    may be silent. Raises `ValueError` if the package openai or the key is missing.
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
        if not (self._key.isascii() and self._key.isprintable()):  # the client's error would show the key
            raise ValueError(
                f"the environment variable {api_key_env} contains characters that cannot be part of a key; set it to the key alone."
            )
        if not self._key and self.endpoint == OPENAI:
            raise ValueError(
                f"the environment variable {api_key_env} is not set, and {OPENAI} needs a key; set it, name another variable with "
                "reward.judge.api_key_env, or name an endpoint that needs none with reward.judge.base_url."
            )
        # OpenAI's newer models accept only the new name of the limit, other servers often only the old one.
        limit = "max_completion_tokens" if self.endpoint == OPENAI else "max_tokens"
        self.request: dict[str, Any] = {"model": model, "temperature": temperature, limit: max_tokens}
        if seed is not None:
            self.request["seed"] = seed
        self.timeout_s, self.retries, self.parallel = timeout_s, retries, parallel

    def answers(self, dialogues: Sequence[Dialogue], *, proven: bool = False) -> Iterator[tuple[int, str | Refusal]]:
        """Index and text of every answer as it arrives; an answer without content is the text "".

        A dialogue that the server rejects is yielded as a `Refusal`, but only once another one has been answered or if the
        model is `proven`. If the first 8 (or all, if there are fewer) are rejected, the whole call fails.

        After the first permanent failure or an interrupt, no new request starts, and pending ones have `timeout_s` to finish,
        since they are paid for: their answers are still yielded. Then a `ValueError` says what to change, or the interrupt is
        re-raised. A second interrupt cancels pending requests at once, as does closing this generator.
        """
        from anyio.from_thread import start_blocking_portal

        run = _Run(dialogues, parallel=self.parallel, grace_s=self.timeout_s, proven=proven)
        with start_blocking_portal(name="judge requests") as portal:
            loop = portal.call(asyncio.get_running_loop)
            asked = portal.start_task_soon(self._ask_all, run)
            asked.add_done_callback(lambda _: run.arrived.put(None))
            with _late_interrupt(lambda: loop.call_soon_threadsafe(run.stop)):
                yield from iter(run.arrived.get, None)
        asked.result()
        if run.failure is not None:
            raise ValueError(self._explain(run.failure)) from run.failure

    async def _ask_all(self, run: "_Run") -> None:
        from openai import AsyncOpenAI

        key = self._key or "none"  # the client insists on a key even if the endpoint needs none
        async with AsyncOpenAI(api_key=key, base_url=self.endpoint, timeout=self.timeout_s, max_retries=self.retries) as client:
            await run.ask_all(lambda dialogue: self._ask(client, dialogue))

    async def _ask(self, client: "AsyncOpenAI", dialogue: Dialogue) -> str:
        messages: Any = [{"role": turn.role, "content": _encodable(turn.content)} for turn in dialogue]
        # The client's timeout restarts with every byte, and some servers send whitespace as a keep-alive.
        async with asyncio.timeout((self.retries + 1) * self.timeout_s + self.retries * _LONGEST_PAUSE_S):
            reply = await client.chat.completions.create(messages=messages, **self.request)
        return _text(reply)

    def _explain(self, failure: Exception) -> str:
        import openai

        where = f"the judge {self.request['model']} at {self.endpoint}"
        said = _said(failure)
        match failure:
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                sent = f"the key in {self.api_key_env}" if self._key else f"a request without a key ({self.api_key_env} is not set)"
                return f"{where} refuses {sent}: {said}. Set that variable, or name another one with reward.judge.api_key_env."
            case openai.NotFoundError():
                return f"{where} was not found: {said}. Check reward.judge.model, and reward.judge.base_url, which usually ends in /v1."
            case openai.APITimeoutError() | TimeoutError():
                attempts = f"{self.retries + 1} attempts of {self.timeout_s:g} s"
                return f"{where} did not answer in {attempts}. Raise reward.judge.timeout_s or lower reward.judge.parallel."
            case openai.APIConnectionError():
                return f"{where} cannot be reached ({failure.__cause__ or said}). Start the server or check reward.judge.base_url."
            case openai.RateLimitError():
                return f"{where} is rate limiting, even after retries: {said}. Lower reward.judge.parallel, or wait."
            case openai.InternalServerError():
                return f"{where} keeps failing after {self.retries} retries: {said}. Check the server, or raise reward.judge.retries."
            case openai.APIStatusError():
                return f"{where} rejected a request: {said}. Change the reward.judge parameter that it names, or the model."
            case _:
                return (
                    f"{where} sent something other than a chat completion: {said}. Check reward.judge.base_url, which usually ends in /v1."
                )


class _Run:
    """The requests of one call, running in another thread's event loop; results go into `arrived`, ended by None."""

    def __init__(self, dialogues: Sequence[Dialogue], *, parallel: int, grace_s: float, proven: bool) -> None:
        self.arrived: SimpleQueue[tuple[int, str | Refusal] | None] = SimpleQueue()
        self.failure: Exception | None = None
        self._todo = iter(enumerate(dialogues))
        self._num_workers = min(parallel, len(dialogues))
        self._num_trials = min(_NUM_TRIALS, len(dialogues))
        self._grace_s = grace_s
        self._proven = proven
        self._held: list[tuple[int, Exception]] = []
        self._stopped = False
        self._trials_over = asyncio.Event()

    async def ask_all(self, ask: Callable[[Dialogue], Awaitable[str]]) -> None:
        """Asks until nothing is left, or until the grace period after `stop` is over."""
        if self._proven:
            self._trials_over.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as self._limit, asyncio.TaskGroup() as group:
                for _ in range(self._num_workers):
                    group.create_task(self._work(ask))
        self._stopped = True

    def stop(self) -> None:
        """Starts no more requests and gives pending ones the grace period; call it from the event loop."""
        if not self._stopped:
            self._stopped = True
            self._trials_over.set()
            self._limit.reschedule(asyncio.get_running_loop().time() + self._grace_s)

    async def _work(self, ask: Callable[[Dialogue], Awaitable[str]]) -> None:
        import openai

        for index, dialogue in self._todo:
            if index >= self._num_trials:
                await self._trials_over.wait()
            if self._stopped:
                return
            try:
                self._answered(index, await ask(dialogue))
            except (openai.BadRequestError, openai.UnprocessableEntityError) as refusal:
                self._refused(index, refusal)
            except (openai.OpenAIError, TimeoutError, ValueError) as failure:
                self._fail(failure)

    def _answered(self, index: int, text: str) -> None:
        self.arrived.put((index, text))
        self._proven = True
        self._trials_over.set()
        self._release()

    def _refused(self, index: int, refusal: Exception) -> None:
        self._held.append((index, refusal))
        if self._proven:
            self._release()
        elif len(self._held) == self._num_trials:
            self._fail(self._held[0][1])

    def _release(self) -> None:
        for index, refusal in self._held:
            self.arrived.put((index, Refusal(message=_said(refusal))))
        self._held.clear()

    def _fail(self, failure: Exception) -> None:
        self.failure = self.failure or failure
        self.stop()


def _said(failure: Exception) -> str:
    """The failure's message as one line of at most 300 characters."""
    return " ".join(str(failure).split())[:300] or type(failure).__name__


def _text(reply: object) -> str:
    """The text of a reply. The client does not validate types, and proxies answer with web pages and status 200."""
    from openai.types.chat import ChatCompletion, ChatCompletionMessage
    from openai.types.chat.chat_completion import Choice

    choices: list[object] = list(reply.choices or ()) if isinstance(reply, ChatCompletion) else []
    message = vars(choices[0]).get("message") if choices and isinstance(choices[0], Choice) else None
    if not isinstance(message, ChatCompletionMessage):
        raise ValueError(f"{reply!r:.200}")
    content = message.content
    return _encodable(content) if isinstance(content, str) else ""


def _encodable(text: str) -> str:
    """The text without lone surrogates, which JSON can hold but neither a request nor a file can."""
    return text.encode("utf-8", "replace").decode()


class LocalChat:
    """Asks a language model in this process, decoding greedily, in chunks of dialogues of similar length, longest first."""

    def __init__(self, generator: Generator, *, max_tokens: int = 2048, chunk: int = 64) -> None:
        self._generator, self._chunk = generator, chunk
        self._sampling = Sampling(n=1, temperature=0.0, max_new_tokens=max_tokens)

    def answers(self, dialogues: Sequence[Dialogue], *, proven: bool = False) -> Iterator[tuple[int, str]]:
        """Index and text of every answer, chunk by chunk; there are no refusals, whether `proven` or not."""
        order = sorted(range(len(dialogues)), key=lambda place: -sum(len(turn.content) for turn in dialogues[place]))
        for start in range(0, len(order), self._chunk):
            chunk = order[start : start + self._chunk]
            completions = self._generator.generate([dialogues[place] for place in chunk], self._sampling)
            yield from ((place, completion.text) for place, (completion,) in zip(chunk, completions, strict=True))
