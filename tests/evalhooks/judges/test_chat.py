"""Endpoints that fail, hang, refuse and talk nonsense, over a real connection; and a model in this process."""

import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator, Sequence
from typing import Any

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from core.generators.local import TransformersGenerator
from core.records import Completion, Dialogue, Message, Sampling, user
from evalhooks.judges.chat import OPENAI, EndpointChat, LocalChat, Refusal, asking
from tests.evalhooks.judges.fakes import JudgeServer, Reply, Request, completion


@pytest.fixture(autouse=True)
def no_key_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "JUDGE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def numbered(count: int) -> list[Dialogue]:
    return [user(f"question {index}") for index in range(count)]


def echo(request: Request) -> Reply:
    return Reply(text=f"answer to {request.question}")


def chat_with(server: JudgeServer, **options: Any) -> EndpointChat:
    return EndpointChat(**{"model": "m", "base_url": server.url, **options})


def failure_of(chat: EndpointChat, dialogues: Sequence[Dialogue]) -> str:
    with pytest.raises(ValueError, match="the judge m at") as caught:
        list(chat.answers(dialogues))
    return str(caught.value)


def test_every_dialogue_is_asked_once_with_all_its_turns_and_the_parameters() -> None:
    with JudgeServer(reply=echo) as server:
        chat = chat_with(server, max_tokens=99)
        dialogue = (Message(role="system", content="Be brief."), *user("question 7"))
        assert dict(chat.answers([*numbered(7), dialogue])) == {index: f"answer to question {index}" for index in range(8)}
    assert len(server.requests) == 8
    [request] = [request for request in server.requests if request.question == "question 7"]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "question 7"}]
    assert request.body == {"model": "m", "messages": turns, "temperature": 0.0, "max_tokens": 99}
    assert chat.request == {"model": "m", "temperature": 0.0, "max_tokens": 99}
    assert chat.endpoint == server.url


def test_a_seed_and_a_temperature_are_sent_where_they_are_given() -> None:
    with JudgeServer(reply=echo) as server:
        list(chat_with(server, seed=5, temperature=0.5).answers(numbered(1)))
    assert (server.requests[0].body["seed"], server.requests[0].body["temperature"]) == (5, 0.5)


def test_no_dialogues_are_no_requests() -> None:
    with JudgeServer(reply=echo) as server:
        assert list(chat_with(server).answers([])) == []
    assert server.requests == []


@pytest.mark.parametrize("parallel", [1, 5])
def test_as_many_requests_as_allowed_are_under_way_at_once(parallel: int) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def slow(request: Request) -> Reply:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return echo(request)

    with JudgeServer(reply=slow) as server:
        list(chat_with(server, parallel=parallel).answers(numbered(12)))
    assert most == parallel


def test_a_server_that_fails_every_third_request_is_asked_again() -> None:
    def every_third(request: Request) -> Reply:
        return refusal(500, "overloaded") if request.number % 3 == 0 else echo(request)

    with JudgeServer(reply=every_third) as server:
        answers = dict(chat_with(server, parallel=4).answers(numbered(12)))
    assert answers == {index: f"answer to question {index}" for index in range(12)}
    # n requests answer n - n // 3 dialogues, so the twelfth is answered by the 17th request: 17 - 5 = 12.
    assert len(server.requests) == 17


def test_the_retries_are_limited() -> None:
    with JudgeServer(reply=lambda _: refusal(503, "overloaded")) as server:
        said = failure_of(chat_with(server, retries=2), numbered(1))
    assert len(server.requests) == 3
    assert server.url in said
    assert "overloaded" in said
    assert "2 retries" in said
    assert said.endswith("reward.judge.retries.")


def refusal(status: int, message: str) -> Reply:
    return Reply(status=status, body={"error": {"message": message}})


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refusal(401, "bad key"), r"http.* refuses the key in JUDGE_KEY: .*bad key.*reward\.judge\.api_key_env\."),
        (refusal(403, "not yours"), r"refuses the key in JUDGE_KEY: .*not yours"),
        (refusal(404, "no model m"), r"was not found: .*no model m.*Check reward\.judge\.model, and .*base_url.* /v1\."),
        (refusal(402, "too poor"), r"rejected a request: .*too poor.*Change the reward.judge parameter"),
        (Reply(body="<html>Welcome!</html>", content_type="text/html"), r"sent something other than a chat completion: .*Welcome.*/v1\."),
        (Reply(body="not json"), r"sent something other than a chat completion"),
        (Reply(body={"error": {"message": "upstream is down"}}), r"sent something other than a chat completion: .*upstream is down"),
        (Reply(body={"choices": []}), r"sent something other than a chat completion"),
        (Reply(body={"choices": ["plum"]}), r"sent something other than a chat completion"),
        (Reply(body={"choices": [{"index": 0}]}), r"sent something other than a chat completion"),
        (Reply(body={"choices": [{"index": 0, "message": None}]}), r"sent something other than a chat completion"),
    ],
)
def test_what_no_retry_can_mend_is_said_after_one_request(reply: Reply, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with JudgeServer(reply=lambda _: reply) as server:
        message = failure_of(chat_with(server, api_key_env="JUDGE_KEY", parallel=1), numbered(3))
    assert re.search(said, message)
    assert len(server.requests) == 1
    assert server.requests[0].authorization == "Bearer sk-secret"
    assert "sk-secret" not in message


def test_a_request_that_is_turned_away_for_its_rate_is_repeated() -> None:
    with JudgeServer(reply=lambda request: Reply(status=429, body={}) if request.number < 3 else echo(request)) as server:
        assert len(list(chat_with(server, retries=2).answers(numbered(1)))) == 1
        server.reply = lambda _: refusal(429, "slower")
        assert re.search("slower.*Lower reward.judge.parallel", failure_of(chat_with(server, retries=1), numbered(1)))
    assert len(server.requests) == 3 + 2


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        said = failure_of(EndpointChat(model="m", base_url=url, retries=0), numbered(3))
    assert f"the judge m at {url} cannot be reached" in said
    assert said.endswith("Start the server or check reward.judge.base_url.")


@pytest.mark.parametrize("reply", [Reply(hangs=True), Reply(text="late", drips=True)])
def test_a_server_that_hangs_is_given_up_after_the_timeout(reply: Reply) -> None:
    with JudgeServer(reply=lambda _: reply) as server:
        started = time.monotonic()
        said = failure_of(chat_with(server, timeout_s=0.3, retries=0), numbered(40))
        assert time.monotonic() - started < 3
    assert len(server.requests) <= 16
    assert "did not answer in 1 attempts of 0.3 s. Raise reward.judge.timeout_s" in said


def test_a_request_that_hangs_is_repeated() -> None:
    with JudgeServer(reply=lambda request: Reply(hangs=True) if request.number == 1 else echo(request)) as server:
        assert len(list(chat_with(server, timeout_s=0.5, retries=1).answers(numbered(1)))) == 1
    assert len(server.requests) == 2


def test_after_a_failure_nothing_new_is_asked_and_requests_under_way_have_the_timeout_to_finish() -> None:
    def some(request: Request) -> Reply:
        number = int(request.question.split()[-1])
        if number in (0, 1, 2):
            return echo(request)
        server.wait_for(8)
        if number == 7:
            return refusal(401, "go away")
        time.sleep(0.3)
        return echo(request) if number in (5, 6) else Reply(hangs=True)

    with JudgeServer(reply=some) as server:
        # Five at once: 5, 6 and 7 are asked only when the answers 0, 1 and 2 have come, and 7 fails when all are asked.
        answers = chat_with(server, parallel=5, timeout_s=1.0, retries=9).answers(numbered(20))
        started = time.monotonic()
        received = [next(answers)]
        with pytest.raises(ValueError, match="go away"):
            received.extend(answers)
        # 3 and 4 hang; without the limit they would be asked again after a second.
        assert 0.9 < time.monotonic() - started < 3
    assert sorted(index for index, _ in received) == [0, 1, 2, 5, 6]
    assert {request.question for request in server.requests} == {f"question {number}" for number in range(8)}


def test_closing_cancels_hanging_requests_at_once() -> None:
    with JudgeServer(reply=lambda request: echo(request) if request.number == 1 else Reply(hangs=True)) as server:
        answers = chat_with(server, parallel=5, timeout_s=60).answers(numbered(20))
        next(answers)
        server.wait_for(6)
        started = time.monotonic()
        assert isinstance(answers, Generator)
        answers.close()
        assert time.monotonic() - started < 5


def test_an_interrupt_of_the_reader_loses_no_answer_and_is_raised_at_the_end() -> None:
    def slow(request: Request) -> Reply:
        time.sleep(0.1)
        return echo(request)

    with JudgeServer(reply=slow) as server:
        answers = chat_with(server, parallel=3).answers(numbered(100))
        received = [next(answers)]
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            received.extend(answers)
        assert len(received) == len(server.requests) < 20
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_cancels_hanging_requests_at_once() -> None:
    def interrupts(request: Request) -> Reply:
        if request.number == 3:
            for _ in range(2):
                time.sleep(0.3)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return Reply(hangs=True)

    with JudgeServer(reply=interrupts) as server:
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(chat_with(server, parallel=3, timeout_s=60).answers(numbered(20)))
        assert 0.5 < time.monotonic() - started < 5
    assert len(server.requests) == 3


def test_an_interrupt_ends_a_hanging_call_after_the_timeout() -> None:
    def interrupts(request: Request) -> Reply:
        time.sleep(0.3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return Reply(text="late", drips=True)

    with JudgeServer(reply=interrupts) as server:
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(chat_with(server, parallel=1, timeout_s=0.8, retries=99).answers(numbered(2)))
        assert 1.0 < time.monotonic() - started < 4
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 422])
def test_a_single_refused_dialogue_takes_the_place_of_its_answer(status: int) -> None:
    def some(request: Request) -> Reply:
        return refusal(status, "too\n long") if request.question in ("question 0", "question 9") else echo(request)

    with JudgeServer(reply=some) as server:
        answers = list(chat_with(server, parallel=1).answers(numbered(11)))
    # The first refusal is held back until the model has answered.
    assert [index for index, _ in answers] == [1, 0, *range(2, 11)]
    assert all(text == f"answer to question {index}" for index, text in answers if index not in (0, 9))
    refused = [text for index, text in answers if index in (0, 9)]
    assert all(isinstance(text, Refusal) and "too long" in text.message for text in refused)
    assert len(server.requests) == 11


@pytest.mark.parametrize(("num_dialogues", "num_requests"), [(1, 1), (7, 7), (8, 8), (40, 8)])
@pytest.mark.parametrize("parallel", [3, 16])
def test_a_model_that_refuses_all_it_is_tried_with_fails(num_dialogues: int, num_requests: int, parallel: int) -> None:
    with JudgeServer(reply=lambda _: refusal(400, "no such parameter")) as server:
        message = failure_of(chat_with(server, parallel=parallel), numbered(num_dialogues))
    assert re.search("rejected a request: .*no such parameter.*Change the reward.judge parameter", message)
    assert len(server.requests) == num_requests


def test_a_proven_model_may_refuse_all_dialogues() -> None:
    with JudgeServer(reply=lambda _: refusal(400, "no")) as server:
        answers = dict(chat_with(server).answers(numbered(12), proven=True))
    assert sorted(answers) == list(range(12))
    assert all(isinstance(answer, Refusal) for answer in answers.values())


def test_a_model_is_tried_with_eight_dialogues_until_one_is_answered() -> None:
    def waits(request: Request) -> Reply:
        if request.number <= 8:
            server.wait_for(8)
            time.sleep(0.2)
            num_tried.append(len(server.requests))
        else:
            server.wait_for(8 + 8)  # then all sixteen are under way
        return echo(request)

    num_tried: list[int] = []
    with JudgeServer(reply=waits) as server:
        assert len(list(chat_with(server, parallel=16).answers(numbered(24)))) == 24
    assert num_tried[0] == 8


def test_requests_end_with_the_block_that_asks() -> None:
    def slow(request: Request) -> Reply:
        time.sleep(0.02)
        return echo(request)

    with JudgeServer(reply=slow) as server:
        chat = chat_with(server, parallel=2)
        with asking(chat, numbered(100)) as answers:  # the name keeps the generator alive beyond the block
            next(answers)
        time.sleep(0.1)
        num_requests = len(server.requests)
        time.sleep(0.1)
        assert len(server.requests) == num_requests < 50


@pytest.mark.parametrize("content", [None, "", ["parts"]])
def test_an_answer_without_text_is_empty(content: Any) -> None:
    with JudgeServer(reply=lambda _: Reply(body=completion(content))) as server:
        assert list(chat_with(server).answers(numbered(1))) == [(0, "")]


def test_half_a_character_is_replaced_on_both_ways() -> None:
    with JudgeServer(reply=lambda _: Reply(body=json.dumps(completion("8\ud83d")))) as server:
        assert list(chat_with(server).answers([user("a\ud83db")])) == [(0, "8?")]
    assert server.requests[0].question == "a?b"


def test_a_missing_key_is_said_before_any_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"JUDGE_KEY is not set.*reward\.judge\.api_key_env.*reward\.judge\.base_url"):
        EndpointChat(model="m", api_key_env="JUDGE_KEY")
    monkeypatch.setenv("JUDGE_KEY", " ")
    with pytest.raises(ValueError, match="JUDGE_KEY is not set"):
        EndpointChat(model="m", api_key_env="JUDGE_KEY")
    monkeypatch.setenv("JUDGE_KEY", "sk-se\ncret")
    with pytest.raises(ValueError, match="JUDGE_KEY contains characters that cannot be part of a key") as caught:
        EndpointChat(model="m", api_key_env="JUDGE_KEY")
    assert "cret" not in str(caught.value)
    monkeypatch.setenv("JUDGE_KEY", "sk-secret\n")
    chat = EndpointChat(model="m", api_key_env="JUDGE_KEY", max_tokens=9)
    assert chat.endpoint == OPENAI
    assert chat.request == {"model": "m", "temperature": 0.0, "max_completion_tokens": 9}


def test_an_endpoint_that_was_named_may_need_no_key() -> None:
    with JudgeServer(reply=echo) as server:
        list(chat_with(server, api_key_env="JUDGE_KEY").answers(numbered(1)))
        server.reply = lambda _: refusal(401, "who are you")
        assert "refuses a request without a key (JUDGE_KEY is not set)" in failure_of(
            chat_with(server, api_key_env="JUDGE_KEY"), numbered(1)
        )
    assert server.requests[0].authorization == "Bearer none"


def test_the_environment_may_name_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    with JudgeServer(reply=echo) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
        chat = EndpointChat(model="m")
        assert list(chat.answers(numbered(1))) == [(0, "answer to question 0")]
    assert chat.endpoint == server.url
    assert EndpointChat(model="m", base_url="http://127.0.0.1:1/v1/").endpoint == "http://127.0.0.1:1/v1"


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match=re.escape("pip install 'rewardloop[judge]'")):
        EndpointChat(model="m", base_url="http://127.0.0.1:1/v1")


class EchoGenerator:
    """Answers with the prompt, and remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], Sampling]] = []

    def generate(self, prompts: Sequence[Dialogue], sampling: Sampling) -> list[list[Completion]]:
        self.calls.append(([turns[-1].content for turns in prompts], sampling))
        return [[Completion(text=turns[-1].content.upper(), token_ids=(), finished=True)] for turns in prompts]

    def load_weights(self, weights: Any) -> None:
        raise AssertionError("a judge does not learn")


def test_a_local_model_answers_in_chunks_the_longest_first_and_each_chunk_is_given_on() -> None:
    generator = EchoGenerator()
    answers = LocalChat(generator, max_tokens=5, chunk=2).answers([user(text) for text in ("a", "bbbbb", "ccc", "dddd", "ee")])
    assert [next(answers), next(answers)] == [(1, "BBBBB"), (3, "DDDD")]
    assert len(generator.calls) == 1
    assert dict(answers) == {2: "CCC", 4: "EE", 0: "A"}
    assert [texts for texts, _ in generator.calls] == [["bbbbb", "dddd"], ["ccc", "ee"], ["a"]]
    assert {sampling for _, sampling in generator.calls} == {Sampling(n=1, temperature=0.0, max_new_tokens=5)}


def test_a_local_model_gives_its_greedy_answers(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    generator = TransformersGenerator(policy, tokenizer)
    dialogues = [user("Name a fruit."), user("What is 2 plus 3?"), user("A plum is a fruit. Name a fruit.")]
    alone = [generator.generate([dialogue], Sampling(temperature=0, max_new_tokens=12))[0][0].text for dialogue in dialogues]
    assert dict(LocalChat(generator, max_tokens=12).answers(dialogues)) == dict(enumerate(alone))
    assert len(set(alone)) == 3
