"""An answer that was received is never asked for again: not by another run, process or row."""

# pyright: reportPrivateUsage=false

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from core.records import Message, user
from evalhooks.judges.cache import AnswerCache, CachedChat
from evalhooks.judges.chat import EndpointChat
from evalhooks.judges.config import JudgeConfig, build
from tests.evalhooks.judges.fakes import FunctionChat, JudgeServer, Reply, Request, shown_answers

JUDGES_TWENTY = """
import sys
from core.records import user
from evalhooks.judges.config import JudgeConfig, build
judge = build(JudgeConfig(model="m", base_url=sys.argv[1], cache=sys.argv[2], parallel=4))
judge.rows.score([user("Which?")], [[f"answer {i}" for i in range(20)]])
"""
KEEPS_TWENTY = """
import sys
from evalhooks.judges.cache import AnswerCache
cache = AnswerCache(sys.argv[1])
for i in range(20):
    cache.keep(f"{sys.argv[2]}-{i}", "own")
    cache.keep(f"both-{i}", sys.argv[2])
"""


@pytest.fixture
def cache(tmp_path: Path) -> AnswerCache:
    return AnswerCache(tmp_path / "deep" / "judges.sqlite")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def upper(question: str) -> str:
    return question.upper()


def test_answers_are_kept_as_they_are_and_found_by_key(cache: AnswerCache) -> None:
    texts = {"a": "", "b": "zwei\n\0zeilen \u2028 \U0001f600", **{str(i): f"text {i}" for i in range(1200)}}
    with closing(sqlite3.connect(cache.path)) as database, database:
        database.executemany("INSERT INTO answers VALUES (?, ?)", [item for item in texts.items() if item[0] not in "ab"])
    for key in "ab":
        assert cache.keep(key, texts[key]) == texts[key]
    again = AnswerCache(str(cache.path))
    assert again.find([*texts, "absent"]) == texts
    assert again.find([]) == {}


def test_the_first_answer_stays(cache: AnswerCache) -> None:
    assert cache.keep("a", "first") == "first"
    assert AnswerCache(cache.path).keep("a", "second") == "first"
    # The chat hands on what is kept, so that this run and the next one see the same.
    chat = CachedChat(FunctionChat(upper), cache, {})
    key = chat._key(user("q"))

    def overtaken(question: str) -> str:
        cache.keep(key, "of the other process")
        return upper(question)

    chat = CachedChat(FunctionChat(overtaken), cache, {})
    assert list(chat.answers([user("q")])) == [(0, "of the other process")]


def test_two_processes_may_write_at_once(cache: AnswerCache) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", KEEPS_TWENTY, str(cache.path), name]) for name in ("x", "y")]
    assert [writer.wait(timeout=30) for writer in writers] == [0, 0]
    found = cache.find([f"{name}-{i}" for name in ("x", "y", "both") for i in range(20)])
    assert len(found) == 60
    assert {found[f"both-{i}"] for i in range(20)} <= {"x", "y"}


def test_only_what_is_missing_is_asked_and_equal_dialogues_once(cache: AnswerCache) -> None:
    model = FunctionChat(upper)
    chat = CachedChat(model, cache, {"model": "m"})
    assert dict(chat.answers([user("a"), user("b"), user("a")])) == {0: "A", 1: "B", 2: "A"}
    assert (chat.num_asked, chat.num_cached) == (2, 1)
    assert dict(chat.answers([user("c"), user("b"), user("b"), user("a")])) == {0: "C", 1: "B", 2: "B", 3: "A"}
    assert (chat.num_asked, chat.num_cached) == (3, 4)
    assert list(chat.answers([user("a")])) == [(0, "A")]
    assert model.calls == [["a", "b"], ["c"]]


def test_everything_that_determines_an_answer_tells_questions_apart(cache: AnswerCache) -> None:
    def ask(dialogue: tuple[Message, ...], **identity: object) -> int:
        chat = CachedChat(FunctionChat(upper), cache, identity)
        list(chat.answers([dialogue]))
        return chat.num_asked

    assert ask(user("a"), model="m", temperature=0.0) == 1
    assert ask(user("a"), temperature=0.0, model="m") == 0
    assert ask(user("a"), model="n", temperature=0.0) == 1
    assert ask(user("a"), model="m", temperature=0.5) == 1
    assert ask((Message(role="system", content="a"),), model="m", temperature=0.0) == 1
    assert ask((*user("a"), *user("b")), model="m", temperature=0.0) == 1
    assert ask(user("ab"), model="m", temperature=0.0) == 1


def test_an_answer_is_on_the_disk_before_it_is_given_on(cache: AnswerCache) -> None:
    answers = CachedChat(FunctionChat(upper), cache, {}).answers([user("a"), user("b")])
    next(answers)
    with closing(sqlite3.connect(cache.path)) as database:
        assert database.execute("SELECT count(*) FROM answers").fetchone() == (1,)


def test_a_failure_says_how_much_is_kept_and_a_rerun_asks_for_the_rest(cache: AnswerCache) -> None:
    def refuses_5(request: Request) -> Reply:
        return Reply(status=401, body={"error": {"message": "no"}}) if request.question == "5" else Reply(text="ok")

    with JudgeServer(reply=refuses_5) as server:
        model = EndpointChat(model="m", base_url=server.url, parallel=1)
        chat = CachedChat(model, cache, {})
        list(chat.answers([user("0")]))
        answers = []
        dialogues = [user(str(number)) for number in (0, 1, 2, 2, 3, 4, 5, 6, 7)]
        with pytest.raises(
            ValueError, match=r"refuses a request without a key.* 5 of 8 answers are kept in .*judges\.sqlite; a rerun continues"
        ):
            answers.extend(chat.answers(dialogues))
        assert sorted(answers) == [(place, "ok") for place in range(6)]
        assert (chat.num_asked, chat.num_cached) == (5, 2)
        server.reply = lambda _: Reply(text="ok")
        assert len(list(chat.answers(dialogues))) == 9
    assert sorted(server.answered) == [str(number) for number in range(8)]


@pytest.mark.parametrize("interrupted", [False, True])
def test_what_is_under_way_at_a_failure_or_an_interrupt_is_kept_and_not_paid_twice(cache: AnswerCache, interrupted: bool) -> None:
    def breaks_off(request: Request) -> Reply:
        number = int(request.question)
        if number >= 5:  # with five at once, 9 is asked when 0 to 4 are answered
            server.wait_for(10)
        if number == 9 and interrupted:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        elif number == 9:
            return Reply(status=401, body={"error": {"message": "no"}})
        if number >= 5:
            time.sleep(0.4)
        return Reply(text="ok")

    dialogues = [user(str(number)) for number in range(30)]
    with JudgeServer(reply=breaks_off) as server:
        chat = CachedChat(EndpointChat(model="m", base_url=server.url, parallel=5), cache, {})
        with pytest.raises(KeyboardInterrupt if interrupted else ValueError):
            list(chat.answers(dialogues))
        assert chat.num_asked == (10 if interrupted else 9)
        assert len(server.requests) == 10
        server.reply = lambda _: Reply(text="ok")
        assert dict(chat.answers(dialogues)) == dict.fromkeys(range(30), "ok")
    again = [] if interrupted else [9]  # this one was refused, and so cost nothing
    assert sorted(int(request.question) for request in server.requests) == sorted([*range(30), *again])


def test_a_refused_dialogue_is_not_kept_and_asked_again_alone(tmp_path: Path) -> None:
    def refuses(request: Request) -> Reply:
        filtered = shown_answers(request.question)[""] == "answer 4"
        return Reply(status=400, body={"error": {"message": "content filter"}}) if filtered else Reply(text="Fair.\n5")

    completions = [[f"answer {i}" for i in (*range(12), 4)]]
    with JudgeServer(reply=refuses) as server:
        config = JudgeConfig(model="m", base_url=server.url, cache=str(tmp_path / "judges.sqlite"))
        for num_asked, num_cached in ((11, 0), (0, 11)):
            judge = build(config)
            [scores] = judge.rows.score([user("Which?")], completions)
            assert [place for place, score in enumerate(scores) if score == -1.0] == [4, 12]
            assert (judge.num_judged, judge.num_unparsable, judge.num_refused) == (13, 2, 1)
            assert (judge.num_asked, judge.num_cached) == (num_asked, num_cached)
            assert "content filter" in judge.first_refusal
        assert len(server.requests) == 12 + 1
        # The model is known from an earlier call too, and what has been refused may be answered later.
        assert judge.rows.score([user("Another?")], [["answer 4"]]) == [[-1.0]]
        server.reply = lambda _: Reply(text="Fair.\n5")
        assert judge.rows.score([user("Which?")], [["answer 4"]]) == [[5.0]]
    assert judge.num_refused == 2


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "judges.sqlite"
    lock, num_answers = threading.Lock(), 7

    def answers_seven(request: Request) -> Reply:
        nonlocal num_answers
        with lock:
            num_answers -= 1
            return Reply(text="Fair.\n5") if num_answers >= 0 else Reply(hangs=True)

    with JudgeServer(reply=answers_seven) as server:
        run = subprocess.Popen([sys.executable, "-c", JUDGES_TWENTY, server.url, str(path)])
        server.wait_for(11)  # seven answered, four more under way
        deadline = time.monotonic() + 10
        while count(path) < 7 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()

        server.reply = lambda _: Reply(text="Fair.\n5")
        judge = build(JudgeConfig(model="m", base_url=server.url, cache=str(path)))
        assert judge.rows.score([user("Which?")], [[f"answer {i}" for i in range(20)]]) == [[5.0] * 20]
    assert (judge.num_asked, judge.num_cached) == (13, 7)
    assert sorted(shown_answers(question)[""] for question in server.answered) == sorted(f"answer {i}" for i in range(20))
    assert len(server.requests) == 7 + 4 + 13


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM answers").fetchone()[0]


def test_a_file_that_cannot_hold_answers_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("These are notes, and no database at all, for several lines to come." * 20)
    with pytest.raises(ValueError, match=r"notes\.txt cannot be used \(file is not a database\); set reward\.judge\.cache"):
        AnswerCache(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"the answer cache .*cannot be created .*set reward\.judge\.cache"):
        AnswerCache(tmp_path / "notes.txt" / "judges.sqlite")
