"""Asks the hub: makes the pauses that it asks for, and says what came where it answered something else than a hub does."""

import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from typing import Any, TypeVar

from huggingface_hub import HfApi, get_session
from huggingface_hub.errors import HfHubHTTPError

from core.text import duration, printable

LONGEST_S = 900.0
"""Seconds that all pauses of one request may take together; the hub's limits are counted in windows of 300 s."""
FIRST_S, MAX_UNSAID = 10.0, 3
"""Seconds of the first pause where the hub asks for one and does not say how long, each further one is twice as long; and how many."""

_LIMIT = re.compile(r'"[^"]*"\s*;\s*r=0\s*;\s*t=(\d+)')
"""The hub's own header `ratelimit`, where nothing remains (`r`): seconds until it starts anew (`t`)."""
_ODD = (JSONDecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError, AttributeError)
"""What the hub's client raises of an answer in which it does not find what it looks for."""

T = TypeVar("T")


class AnswerError(RuntimeError):
    """The hub answered what ends the command; the message is a sentence that names the address."""


@dataclass(kw_only=True)
class Hub:
    """The hub's client, and what the last request got; `say` gets a line for each pause.

    The client waits by itself in some of its requests, silently and for however long it is asked to, and in others not at all.
    """

    api: HfApi
    say: Callable[[str], None]
    _last: Any = field(default=None, init=False)
    """The last response; its type depends on the HTTP client that the hub's client uses."""
    _paused_s: float = field(default=0.0, init=False)
    _num_unsaid: int = field(default=0, init=False)
    """Pauses so far whose length the hub did not say."""

    def ask(self, request: Callable[[HfApi], T]) -> T:
        """What `request` returns, made again after each pause that the hub asks for (429, or 503 with a time).

        Raises `AnswerError` for an answer that is none of a hub, and if it asks for longer pauses than `LONGEST_S` in all; what the hub
        refuses otherwise is raised as its client puts it.
        """
        self._paused_s, self._num_unsaid = 0.0, 0
        while True:
            try:
                with self._listening():
                    return request(self.api)
            except _ODD as error:
                raise AnswerError(
                    f"{_address(self._last)} answered something else than a hub does: {_came(self._last)}; look at HF_ENDPOINT, and "
                    "whether a proxy asks for a login."
                ) from error
            except (HfHubHTTPError, RuntimeError) as error:
                cause = error.__cause__ if isinstance(error, RuntimeError) else error  # of a large file only the cause says what it was
                if isinstance(cause, AnswerError):
                    raise cause from error
                if not isinstance(cause, HfHubHTTPError) or (pause := self._pause_after(cause.response)) is None:
                    raise
                time.sleep(pause)

    @contextmanager
    def _listening(self) -> Generator[None]:
        """Context in which the client's session tells of every response."""
        session = get_session()
        before = session.event_hooks
        session.event_hooks = {**before, "response": [*before["response"], self._heard]}
        try:
            yield
        finally:
            session.event_hooks = before

    def _heard(self, response: Any) -> None:
        """Notes a response and tells of the pause that it asks for. Raises `AnswerError` for one too long before the client makes it."""
        self._last = response
        if (asked := asked_pause(response)) is not None:
            self._tell(response, asked)
            response.headers["retry-after"] = f"{asked:.0f}"  # the client knows no dates

    def _pause_after(self, response: Any) -> float | None:
        """Seconds until the request may be made again; None for an answer that is final."""
        asked = asked_pause(response)
        if asked is None and response.status_code == 429 and self._num_unsaid < MAX_UNSAID:
            asked = FIRST_S * 2**self._num_unsaid
            self._num_unsaid += 1
            self._tell(response, asked)
        return asked

    def _tell(self, response: Any, pause: float) -> None:
        self._paused_s += pause
        if self._paused_s > LONGEST_S:
            raise AnswerError(
                f"{_address(response)} asks for a pause of {duration(pause)} ({response.status_code}), which is longer than this command "
                "waits; the same command goes on from there then."
            )
        self.say(f"{_address(response)} asks for a pause ({response.status_code}): going on in {duration(pause)}")


def asked_pause(response: Any) -> float | None:
    """Seconds that a response asks to wait: 429 or 503 with `Retry-After` (seconds or a date) or the hub's `ratelimit`; None without.

    At least one second, so that waiting comes to an end where a server asks for 0 again and again.
    """
    if response.status_code not in (429, 503):
        return None
    if found := _LIMIT.search(response.headers.get("ratelimit", "")):
        return max(1.0, float(found[1]))
    after = response.headers.get("retry-after", "").strip()
    if after.isdecimal():
        return max(1.0, float(after))
    try:
        date = parsedate_to_datetime(after)
    except ValueError:  # empty, or neither
        return None
    return max(1.0, (date.replace(tzinfo=date.tzinfo or UTC) - now()).total_seconds())


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


def _address(response: Any) -> str:
    """Where a response came from, without what was asked, which may hold a signature."""
    return "the hub" if response is None else str(response.request.url).partition("?")[0]


def _came(response: Any) -> str:
    """What a response holds, in a few words."""
    if response is None:
        return "nothing"
    text = printable(" ".join(response.text.split()))
    start = f"{text[:60]}..." if len(text) > 60 else text
    try:
        found = response.json()
    except ValueError:
        return f"no JSON but {start}" if text else "nothing"
    kind = "a JSON list" if isinstance(found, list) else "an object without what is asked for" if isinstance(found, dict) else "JSON"
    return f"{kind}, {start}"
