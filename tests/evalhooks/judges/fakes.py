"""A judge's model that a test can script: in this process, or a real server that speaks the form of chat completions."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from core.records import Dialogue

_SHOWN = re.compile(r"^<answer(?: ([A-Z]))? [0-9a-f]+>\n(.*?)\n</answer", re.MULTILINE | re.DOTALL)


def shown_answers(question: str) -> dict[str, str]:
    """The answers in a question to a judge by letter ("" for the one to be rated), in the order shown."""
    return dict(_SHOWN.findall(question))


def knows_best(question: str) -> str:
    """A judge who prefers answers that say RIGHT and gives its verdict in the form asked for."""
    answers = shown_answers(question)
    if "" in answers:
        return "I looked closely.\n" + ("10" if "RIGHT" in answers[""] else "2")
    return f"I compared.\n[[{next(letter for letter, text in answers.items() if 'RIGHT' in text)}]]"


def talks(question: str) -> str:
    """A judge who reaches no verdict."""
    return "Both have their merits, on the whole."


class FunctionChat:
    """Answers with a function of the question, the last question first, and remembers the questions of each call."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.reply = reply
        self.calls: list[list[str]] = []

    def answers(self, dialogues: Sequence[Dialogue], *, proven: bool = False) -> Iterator[tuple[int, str]]:
        self.calls.append([turns[-1].content for turns in dialogues])
        for index in reversed(range(len(dialogues))):
            yield index, self.reply(dialogues[index][-1].content)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What the server does with a request: `text` as an answer, or another `body`; a failing one asks for a quick retry."""

    text: str | None = None
    status: int = 200
    body: Any = None
    content_type: str = "application/json"
    hangs: bool = False
    drips: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What reached the server, as its `number`-th request from 1."""

    number: int
    body: Mapping[str, Any]
    authorization: str

    @property
    def question(self) -> str:
        return self.body["messages"][-1]["content"]


def completion(text: str | None) -> dict[str, Any]:
    """A chat completion of one choice."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


@dataclass(kw_only=True)
class JudgeServer:
    """An endpoint on 127.0.0.1 that replies by a function; use as a context."""

    reply: Callable[[Request], Reply]
    requests: list[Request] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    """The questions that got an answer."""

    def __enter__(self) -> "JudgeServer":
        owner, self._released, self._lock = self, threading.Event(), threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner._handle(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_for(self, num_requests: int) -> None:
        """Returns once that many requests have come."""
        deadline = time.monotonic() + 10
        while len(self.requests) < num_requests:
            assert time.monotonic() < deadline, f"{len(self.requests)} of {num_requests} requests came"
            time.sleep(0.005)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            request = Request(number=len(self.requests) + 1, body=body, authorization=handler.headers["Authorization"])
            self.requests.append(request)
        reply = self.reply(request)
        with suppress(ConnectionError):  # the client may have gone away
            self._send(handler, request, reply)

    def _send(self, handler: BaseHTTPRequestHandler, request: Request, reply: Reply) -> None:
        if reply.hangs:
            self._released.wait()
            return
        answers = reply.status == 200 and reply.body is None
        body = completion(reply.text) if answers else reply.body
        payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        handler.send_response(reply.status)
        handler.send_header("Content-Type", reply.content_type)
        handler.send_header("retry-after-ms", "1")
        handler.end_headers()
        while reply.drips and not self._released.wait(0.02):
            handler.wfile.write(b" ")
        handler.wfile.write(payload)
        if answers:
            self.answered.append(request.question)
