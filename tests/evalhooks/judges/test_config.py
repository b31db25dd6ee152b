"""A judge from its configuration: what is refused, what is built, and end to end against a server and a local model."""

import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from core.config import Dtype
from core.data.dates import pin_date
from core.records import user
from evalhooks.judges.config import JudgeConfig, Mode, build, require_complete, require_usable
from evalhooks.judges.judge import RankingJudge, RatingJudge
from evalhooks.judges.parsers import Parser
from tests.evalhooks.judges.fakes import JudgeServer, Reply, Request, knows_best

PROMPTS = [user("One?"), user("Two?")]
COMPLETIONS = [["RIGHT", "a", "b", "c"], ["a", "RIGHT", "b", "c"]]


@pytest.fixture(autouse=True)
def no_key_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def perfect(request: Request) -> Reply:
    return Reply(text=knows_best(request.question))


def test_the_default_configuration_stands_and_says_what_a_judge_still_needs() -> None:
    with pytest.raises(ValueError, match=r"reward\.judge\.model and reward\.judge\.path are both empty"):
        require_complete(JudgeConfig())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, r"reward\.judge\.model and reward\.judge\.path are both empty"),
        ({"model": "a"}, "OPENAI_API_KEY"),
        ({"model": "a", "base_url": "http://127.0.0.1:9/v1", "cache": "."}, r"reward\.judge\.cache"),
    ],
)
def test_what_a_judge_lacks_is_told_without_asking_it(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = {"cache": str(tmp_path / "answers.sqlite"), **change}
    with pytest.raises(ValueError, match=message):
        require_usable(JudgeConfig(**config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_tokens": 0}, r"reward\.judge\.max_tokens is 0"),
        ({"parallel": 0}, r"reward\.judge\.parallel is 0"),
        ({"timeout_s": 0.0}, r"reward\.judge\.timeout_s is 0"),
        ({"timeout_s": math.nan}, r"reward\.judge\.timeout_s is nan"),
        ({"timeout_s": math.inf}, r"reward\.judge\.timeout_s is inf"),
        ({"retries": -1}, r"reward\.judge\.retries is -1"),
        ({"temperature": -0.1}, r"reward\.judge\.temperature is -0.1"),
        ({"temperature": math.nan}, r"reward\.judge\.temperature is nan"),
        ({"base_url": "localhost:8000/v1"}, r"reward\.judge\.base_url is localhost:8000/v1; it must begin with http"),
        ({"api_key_env": ""}, r"reward\.judge\.api_key_env must be the name"),
        ({"cache": ""}, r"reward\.judge\.cache is empty"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JudgeConfig(**change)


def test_a_key_in_place_of_the_name_of_its_variable_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="not the key itself") as caught:
        JudgeConfig(api_key_env="sk-proj-123")
    assert "123" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "m", "path": "judge"}, r"reward\.judge\.path=judge and reward\.judge\.model=m name two judges"),
        ({"base_url": "http://a/v1", "path": "judge"}, r"reward\.judge\.path=judge and reward\.judge\.base_url=http://a/v1 name two"),
        ({"path": "judge", "temperature": 0.5}, r"reward\.judge\.temperature is 0.5, but a judge from a folder decodes greedily"),
        ({"path": "./no/such"}, r"reward\.judge\.path=\./no/such does not exist"),
        ({"base_url": "http://a/v1"}, r"are both empty"),
        ({"model": "m"}, r"OPENAI_API_KEY is not set"),
    ],
)
def test_what_names_no_single_judge_is_refused_where_one_is_built(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build(JudgeConfig(cache=str(tmp_path / "judges.sqlite"), **change))


@pytest.mark.parametrize("mode", Mode)
def test_a_judge_behind_an_endpoint_judges_rows_and_ties_and_a_second_one_asks_nothing(mode: Mode, tmp_path: Path) -> None:
    with JudgeServer(reply=perfect) as server:
        config = JudgeConfig(mode=mode, model="m", base_url=server.url, cache=str(tmp_path / "judges.sqlite"), max_tokens=77)
        judge = build(config)
        scores = judge.rows.score(PROMPTS, COMPLETIONS)
        ties = judge.ties.score(PROMPTS, COMPLETIONS)
        num_asked = (8 if mode is Mode.ratings else 2) + 8
        assert len(server.requests) == judge.num_asked == judge.num_judged == num_asked
        again = build(config)
        assert again.rows.score(PROMPTS, COMPLETIONS) == scores
        assert again.ties.score(PROMPTS, COMPLETIONS) == ties
        assert (again.num_asked, again.num_cached) == (0, num_asked)
        assert len(server.requests) == num_asked
    best, other = (10.0, 2.0) if mode is Mode.ratings else (1.0, 0.0)
    assert scores == [[best, other, other, other], [other, best, other, other]]
    assert ties == [[10.0, 2.0, 2.0, 2.0], [2.0, 10.0, 2.0, 2.0]]
    assert sum("need not be considered" in request.question for request in server.requests) == 8
    # Greedy answers have no use for a seed.
    assert {(request.body["max_tokens"], request.body["temperature"], request.body.get("seed")) for request in server.requests} == {
        (77, 0.0, None)
    }


@pytest.mark.parametrize("change", [{"model": "n"}, {"max_tokens": 78}, {"temperature": 0.5}, {"temperature": 0.5, "seed": 1}])
def test_another_model_or_sampling_is_asked_anew(change: dict[str, Any], tmp_path: Path) -> None:
    with JudgeServer(reply=perfect) as server:
        same: dict[str, Any] = {"model": "m", "base_url": server.url, "cache": str(tmp_path / "judges.sqlite"), "max_tokens": 77}
        others = [same, same | {"temperature": 0.5}] if "seed" in change else [same]
        for values in others:
            build(JudgeConfig(**values)).rows.score(PROMPTS, COMPLETIONS)
        judge = build(JudgeConfig(**same | change))
        judge.rows.score(PROMPTS, COMPLETIONS)
        assert judge.num_asked == 8
    assert server.requests[-1].body["temperature"] == change.get("temperature", 0.0)
    assert server.requests[-1].body.get("seed") == (change.get("seed", 0) if "temperature" in change else None)


def test_another_endpoint_is_asked_anew(tmp_path: Path) -> None:
    for _ in range(2):
        with JudgeServer(reply=perfect) as server:
            judge = build(JudgeConfig(model="m", base_url=server.url, cache=str(tmp_path / "judges.sqlite")))
            judge.rows.score(PROMPTS, COMPLETIONS)
            assert len(server.requests) == 8


def test_how_requests_are_made_does_not_ask_anew(tmp_path: Path) -> None:
    with JudgeServer(reply=perfect) as server:
        same: dict[str, Any] = {"model": "m", "base_url": server.url, "cache": str(tmp_path / "judges.sqlite")}
        build(JudgeConfig(**same)).rows.score(PROMPTS, COMPLETIONS)
        judge = build(JudgeConfig(**same, timeout_s=9.0, retries=1, parallel=2, parser=Parser.official, seed=3))
        judge.rows.score(PROMPTS, COMPLETIONS)
        assert (judge.num_asked, judge.num_cached) == (0, 8)


def test_timeout_retries_and_parallel_reach_the_endpoint(tmp_path: Path) -> None:
    with JudgeServer(reply=lambda _: Reply(hangs=True)) as server:
        config = JudgeConfig(model="m", base_url=server.url, cache=str(tmp_path / "judges.sqlite"), timeout_s=0.6, retries=0, parallel=3)
        with pytest.raises(ValueError, match=r"1 attempts of 0\.6 s.* 0 of 8 answers are kept in .*judges\.sqlite; a rerun continues"):
            build(config).rows.score(PROMPTS, COMPLETIONS)
        assert len(server.requests) == 3


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("parser", Parser)
def test_an_unparsable_rating_is_nan_for_pairs_and_never_for_ties(pairs: bool, parser: Parser, tmp_path: Path) -> None:
    with JudgeServer(reply=lambda _: Reply(text="[[8]]" if parser is Parser.official else "So 8")) as server:
        judge = build(JudgeConfig(model="m", base_url=server.url, parser=parser, cache=str(tmp_path / "judges.sqlite")), pairs=pairs)
        [[score]] = judge.rows.score([user("p")], [["a"]])
        assert math.isnan(score) if pairs else score == -1.0
        assert judge.ties.score([user("p")], [["a"]]) == [[-1.0]]
    assert (judge.num_unparsable, judge.unparsable_share) == (2, 1.0)


def test_seed_and_parser_reach_a_ranking_judge(tmp_path: Path) -> None:
    config = JudgeConfig(
        mode=Mode.rankings, model="m", base_url="http://127.0.0.1:1/v1", seed=5, parser=Parser.official, cache=str(tmp_path / "j.sqlite")
    )
    rows = build(config, pairs=True).rows
    assert isinstance(rows, RankingJudge)
    assert (rows.seed, rows.parser) == (5, Parser.official)


def test_a_local_judge_scores_and_is_known_again_until_its_folder_changes(policy_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(policy_folder, folder)
    config = JudgeConfig(path=str(folder), max_tokens=4, cache=str(tmp_path / "judges.sqlite"))
    judge = build(config)
    scores = judge.rows.score([user("Name a fruit.")], [["A plum.", "A lamp."]])
    assert [len(row) for row in scores] == [2]
    assert all(score == -1.0 or 1 <= score <= 10 for score in scores[0])
    assert (judge.num_judged, judge.num_asked) == (2, 2)
    assert (judge.num_refused, judge.first_refusal) == (0, "")
    assert isinstance(judge.rows, RatingJudge)

    again = build(config)
    assert again.rows.score([user("Name a fruit.")], [["A plum.", "A lamp."]]) == scores
    assert (again.num_asked, again.num_cached) == (0, 2)
    for changed in (replace(config, max_tokens=5), replace(config, dtype=Dtype.bf16)):
        other = build(changed)
        other.rows.score([user("Name a fruit.")], [["A plum.", "A lamp."]])
        assert other.num_asked == 2
    os.utime(folder / "model.safetensors", ns=(1, 1))
    rewritten = build(config)
    rewritten.rows.score([user("Name a fruit.")], [["A plum.", "A lamp."]])
    assert rewritten.num_asked == 2


def test_a_judge_whose_template_writes_the_date_is_asked_anew_on_another_day(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(policy_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    monkeypatch.setattr(chat_template_utils, "datetime", datetime)  # put back in the end

    def num_asked(path: Path, day: int) -> int:
        pin_date(date(2026, 1, day))
        judge = build(JudgeConfig(path=str(path), max_tokens=4, cache=str(tmp_path / "judges.sqlite")))
        judge.rows.score([user("Name a fruit.")], [["A plum."]])
        return judge.num_asked

    assert [num_asked(folder, day) for day in (1, 1, 2, 1)] == [1, 0, 1, 0]
    assert [num_asked(policy_folder, day) for day in (1, 2)] == [1, 0]


def test_a_configuration_is_checked_without_loading_torch_or_the_client() -> None:
    code = "import sys, evalhooks.judges.config; print(sorted({'torch', 'transformers', 'openai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
