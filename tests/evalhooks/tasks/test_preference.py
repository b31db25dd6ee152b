"""AlpacaEval's verdicts: which of two answers a judge prefers, whatever the order in which it saw them."""

from dataclasses import replace
from pathlib import Path

import pytest

from core.functions import SkippedError
from evalhooks.config import TaskConfig
from evalhooks.judges.config import JudgeConfig
from evalhooks.tasks.preference import preferred_by
from evalhooks.tasks.task import load_tasks
from tests.evalhooks.judges.fakes import JudgeServer, Reply, knows_best, talks

ROW = {"instruction": "Name a fruit.", "output": "A lamp."}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")


def test_an_answer_wins_where_the_judge_prefers_it(tmp_path: Path) -> None:
    with JudgeServer(reply=lambda request: Reply(text=knows_best(request.question))) as server:
        verifier = preferred_by(JudgeConfig(model="m", base_url=server.url, cache=str(tmp_path / "judges.sqlite")))
        assert verifier("RIGHT, a plum.", ROW) == 1.0
        assert verifier("A saw.", {**ROW, "output": "RIGHT, a lamp."}) == 0.0
        assert len(server.requests) == 2
        assert verifier(" ", {**ROW, "output": "RIGHT"}) == 0.0
        assert len(server.requests) == 2  # nothing to compare


def test_without_a_verdict_the_answer_is_skipped(tmp_path: Path) -> None:
    with JudgeServer(reply=lambda request: Reply(text=talks(request.question))) as server:
        verifier = preferred_by(JudgeConfig(model="m", base_url=server.url, cache=str(tmp_path / "judges.sqlite")))
        with pytest.raises(SkippedError, match="the judge gave no verdict"):
            verifier("A plum.", ROW)


def test_loading_a_task_asks_no_judge_and_refuses_one_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "alpaca.json"
    file.write_text('[{"instruction": "Name a fruit.", "output": "A lamp."}]')
    task = TaskConfig(path=str(file), prompt_key="instruction", verifier="evalhooks.tasks.verifiers:preferred")
    with JudgeServer(reply=lambda request: Reply(text="")) as server:
        judge = JudgeConfig(model="m", base_url=server.url, cache=str(tmp_path / "judges.sqlite"))
        assert len(load_tasks({"alpaca": replace(task, judge=judge)})["alpaca"].prompts) == 1
        assert server.requests == []
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
        load_tasks({"alpaca": replace(task, judge=JudgeConfig(model="m", cache=str(tmp_path / "judges.sqlite")))})
