"""Rewards by a server come back in order, survive its hiccups, and say what is wrong where they cannot."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from core.data.chat import encode_answered
from core.records import DetailedScorer, Dialogue, Message, user
from core.scorers.vllm import VLLMScorer
from tests.fakes import word_tokenizer

PROMPTS: list[Dialogue] = [user("name a fruit"), (Message(role="system", content="short"), *user("name a lamp")), user("a a a a a")]
COMPLETIONS = [["plum", "a lamp a lamp"], ["a"], ["plum plum plum plum plum", "", "a plum"]]
TOKENIZER = word_tokenizer(pad="<unk>")
Answer = tuple[int, Any]


def reward(ids: list[int]) -> float:
    """A number that tells one row from another."""
    return sum(place * token for place, token in enumerate(ids, 1)) / 10 - 20


def classification(body: dict[str, Any], of: Callable[[list[int]], list[Any]] = lambda ids: [reward(ids)]) -> Answer:
    entries = [{"index": index, "label": None, "probs": of(ids), "num_classes": 1} for index, ids in enumerate(body["input"])]
    return 200, {"object": "list", "data": entries}


@dataclass
class Server:
    """A stand-in for vLLM with the interface of its /classify: keeps the bodies it got, answers by `answer(number, body)`."""

    url: str = ""
    answer: Callable[[int, dict[str, Any]], Answer] = lambda number, body: classification(body)
    paths: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)
    """Set when the test is over, so that a hanging answer ends."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.paths.append(self.path)
                state.bodies.append(body)
                number = len(state.bodies)
            status, value = state.answer(number, body)
            content = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client has gone

        def log_message(self, format: str, *args: Any) -> None: ...

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("core.vllm.server.FIRST_WAIT_S", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield state
        state.released.set()
        running.shutdown()
        thread.join()


def scorer(server: Server, **options: Any) -> VLLMScorer:
    return VLLMScorer(server.url, "org/rm", TOKENIZER, **options)


def rows(tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> list[list[int]]:
    dialogues = [prompt for prompt, answers in zip(PROMPTS, COMPLETIONS, strict=True) for _ in answers]
    return encode_answered(tokenizer, dialogues, [text for answers in COMPLETIONS for text in answers])


def flat(scores: list[list[float]]) -> list[float]:
    assert [len(row) for row in scores] == [2, 1, 3]
    return [score for row in scores for score in row]


@pytest.mark.parametrize(("batch", "parallel"), [(64, 8), (1, 1), (1, 8), (2, 3), (4, 1)])
def test_rewards_come_back_in_the_callers_order_whatever_the_batches(server: Server, batch: int, parallel: int) -> None:
    def late(number: int, body: dict[str, Any]) -> Answer:
        time.sleep(0.02 if number == 1 else 0)  # so that the first request is not the first one answered
        status, value = classification(body)
        value["data"].reverse()  # the index counts, not the place
        return status, value

    server.answer = late
    expected = [reward(row) for row in rows()]
    assert len(set(expected)) == 6
    assert flat(scorer(server, batch=batch, parallel=parallel).score(PROMPTS, COMPLETIONS)) == pytest.approx(expected)
    assert len(server.bodies) == -(-6 // batch)


def test_a_request_holds_the_models_own_token_ids_and_switches_the_activation_off(server: Server) -> None:
    scorer(server).score(PROMPTS[:1], [["a plum"]])
    # <s> [user] name a fruit [assistant] a plum </s>
    ids = [0, 4, 6, 7, 8, 5, 7, 9, 1]
    assert server.bodies == [{"model": "org/rm", "input": [ids], "use_activation": False, "activation": False}]
    assert server.bodies[0]["use_activation"] is False  # 0 would be equal too
    assert server.paths == ["/classify"]


def test_a_slash_at_the_end_of_the_address_does_no_harm(server: Server) -> None:
    # Not by the path that arrives: this server, unlike others, takes // for /.
    assert VLLMScorer(server.url + "/", "org/rm", TOKENIZER).url == f"{server.url}/classify"


def test_a_tokenizer_that_adds_its_own_bos_sends_one_bos(server: Server) -> None:
    VLLMScorer(server.url, "org/rm", word_tokenizer(pad="<unk>", adds_bos=True)).score(PROMPTS[:1], [["a plum"]])
    assert server.bodies[0]["input"] == [[0, 4, 6, 7, 8, 5, 7, 9, 1]]


def test_pad_tokens_at_the_end_are_not_sent_since_the_server_reads_the_last_token(server: Server) -> None:
    scorer(server, pad=1).score([user("name a fruit")], [["plum"]])  # </s>, with which the row ends
    assert server.bodies[0]["input"] == [[0, 4, 6, 7, 8, 5, 9]]


def test_batches_are_sorted_by_length(server: Server) -> None:
    scorer(server, batch=2, parallel=1).score(PROMPTS, COMPLETIONS)
    lengths = [len(row) for body in server.bodies for row in body["input"]]
    assert lengths == sorted(map(len, rows()))


def test_rows_above_max_length_are_cut_at_the_end_and_counted(server: Server) -> None:
    limit = 10  # the rows have 8, 11, 10, 14, 9 and 11 tokens: three are longer
    remote = scorer(server, max_length=limit)
    assert flat(remote.score(PROMPTS, COMPLETIONS)) == pytest.approx([reward(row[:limit]) for row in rows()])
    assert remote.num_truncated == 3
    measured = [found for answers in remote.score_detailed(PROMPTS, COMPLETIONS) for found in answers]
    assert [found.num_tokens for found in measured] == [min(len(row), limit) for row in rows()]
    assert [found.truncated for found in measured] == [len(row) > limit for row in rows()]
    assert remote.num_truncated == 6  # over the scorer's life
    assert isinstance(remote, DetailedScorer)


def test_a_prompt_without_completions_keeps_its_place_and_nothing_is_no_request(server: Server) -> None:
    assert scorer(server).score(PROMPTS[:2], [[], ["a"]]) == [[], [pytest.approx(reward(rows()[2]))]]
    assert scorer(server).score([], []) == []
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_fails_and_recovers_is_asked_again(server: Server, status: int) -> None:
    server.answer = lambda number, body: (status, "busy") if number < 3 else classification(body)
    assert flat(scorer(server, retries=2).score(PROMPTS, COMPLETIONS)) == pytest.approx([reward(row) for row in rows()])
    assert len(server.bodies) == 3


def test_a_server_that_always_fails_ends_with_its_address_and_its_message(server: Server) -> None:
    server.answer = lambda number, body: (500, {"error": {"message": "CUDA out of memory"}})
    with pytest.raises(ValueError, match=rf"{server.url}/classify did not .* 3 attempts, .* status 500 \(CUDA out of memory\); is .* up"):
        scorer(server, retries=2).score(PROMPTS, COMPLETIONS)
    assert len(server.bodies) == 3


def test_waits_double_up_to_a_cap(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("core.vllm.server.time.sleep", waits.append)
    monkeypatch.setattr("core.vllm.server.FIRST_WAIT_S", 0.25)
    server.answer = lambda number, body: (500, "")
    with pytest.raises(ValueError, match="7 attempts"):
        scorer(server, retries=6).score(PROMPTS, COMPLETIONS)
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0]


def test_a_server_that_hangs_is_asked_again_and_then_given_up(server: Server) -> None:
    def hang(number: int, body: dict[str, Any]) -> Answer:
        server.released.wait(5)
        return classification(body)

    server.answer = hang
    begun = time.monotonic()
    with pytest.raises(ValueError, match=rf"{server.url}/classify did not answer in 2 attempts, the last one with ReadTimeout"):
        scorer(server, timeout_s=0.1, retries=1).score(PROMPTS, COMPLETIONS)
    assert time.monotonic() - begun < 2
    assert len(server.bodies) == 2


def test_a_server_that_is_not_there_is_given_up_with_its_address(server: Server) -> None:
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/classify did not answer in 2 attempts, the last one with ConnectError"):
        VLLMScorer("http://127.0.0.1:9", "org/rm", TOKENIZER, retries=1).score(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "The model `org/rm` does not exist.", "code": 404}}, "The model `org/rm` does not exist."),
        ({"object": "error", "message": "input too long"}, "input too long"),
        ({"detail": "Not Found"}, "Not Found"),
        ("no such page", "no such page"),
    ],
)
def test_a_request_that_the_server_refuses_is_not_repeated_and_its_message_is_told(server: Server, body: Any, message: str) -> None:
    server.answer = lambda number, _: (404, body)
    with pytest.raises(ValueError, match=rf"{server.url}/classify refuses the request: status 404 \(.*{message}"):
        scorer(server).score(PROMPTS, COMPLETIONS)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(("outputs", "given"), [([0.2, 0.8], "2 outputs"), ([], "0 outputs"), (0.5, "0.5")])
def test_anything_but_one_output_per_text_is_no_reward_model(server: Server, outputs: Any, given: str) -> None:
    server.answer = lambda number, body: classification(body, lambda ids: outputs)
    with pytest.raises(ValueError, match=rf"{server.url}/classify gave {given} for a text; a reward model has one output"):
        scorer(server).score(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.5"])
def test_an_output_that_is_no_finite_number_is_refused(server: Server, value: Any) -> None:
    server.answer = lambda number, body: classification(body, lambda ids: [value])
    with pytest.raises(ValueError, match=rf"{server.url}/classify gave .* for a text, which is not a finite number"):
        scorer(server).score(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize(
    "answer", ["<html>", {"choices": []}, {"data": [{"probs": [1.0]}]}, [1], {"data": [{"index": [], "probs": [1.0]}]}]
)
def test_an_answer_that_is_no_classification_is_refused(server: Server, answer: Any) -> None:
    server.answer = lambda number, body: (200, answer)
    with pytest.raises(
        ValueError, match=rf"{server.url}/classify answered .*, which is (not a classification|no JSON); is it a vLLM server"
    ):
        scorer(server).score(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize("kept", [slice(1, None), slice(0, 1)])
def test_an_answer_that_leaves_a_text_out_is_refused(server: Server, kept: slice) -> None:
    server.answer = lambda number, body: (200, {"data": classification(body)[1]["data"][kept]})
    with pytest.raises(ValueError, match=rf"{server.url}/classify answered for \d of the 6 texts of a request"):
        scorer(server).score(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize(
    ("number", "values", "suspected"),
    [(8, (0.01, 0.99), True), (7, (0.01, 0.99), False), (8, (0.0, 0.99), False), (8, (0.01, 1.0), False), (8, (0.5, -2.0), False)],
)
def test_eight_scores_or_more_that_all_lie_between_0_and_1_raise_suspicion_once(
    server: Server, number: int, values: tuple[float, float], suspected: bool
) -> None:
    lines: list[str] = []
    # The first text is shorter than the others.
    server.answer = lambda _, body: classification(body, lambda ids: [values[0] if len(ids) == 8 else values[1]])
    remote = scorer(server, say=lines.append, batch=3)
    for _ in range(2):
        scores = remote.score(PROMPTS[:1], [["plum", *["a plum"] * (number - 1)]])
        assert scores == [[values[0], *[values[1]] * (number - 1)]]
    assert len(lines) == suspected
    if suspected:
        assert lines[0].startswith(f"{server.url}/classify: all 8 rewards lie between 0 and 1; the server seems to apply a sigmoid")
        assert "\n" not in lines[0]


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://localhost", "http://", "http://localhost:port"])
def test_an_address_that_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ValueError, match=r"The address of the vLLM server is .*; give one such as http://localhost:8000"):
        VLLMScorer(url, "org/rm", TOKENIZER)


@pytest.mark.parametrize("option", [{"max_length": 0}, {"batch": 0}, {"parallel": 0}, {"timeout_s": 0}, {"retries": -1}])
def test_limits_that_leave_nothing_to_do_are_refused(option: dict[str, Any]) -> None:
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"A VLLMScorer needs .*{name}={value}"):
        VLLMScorer("http://localhost:8000", "org/rm", TOKENIZER, **option)
