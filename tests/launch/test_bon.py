"""`rewardloop bon` as a run: what it leaves, what it takes as it is, and what it refuses."""

import csv
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bon.given import read_given
from bon.rows import PoolRow
from core.progress import NoProgress
from core.records import AXIS, Dialogue, user
from core.runs.record import read_record
from core.runs.tracking import read_metrics
from launch import bon
from launch.entry import composed
from launch.history.arguments import Arguments
from launch.history.listing import listed
from launch.jobs import bon as job
from launch.jobs import generators
from launch.jobs.bon_result import measured, metrics_of, read_scores, write_scores, write_table
from launch.jobs.lifecycle import Record
from launch.schema import BoNJob
from tests.launch.history.runs import made

FUNCTIONS = [f"scorers.{name}.{key}" for name in ("long", "short") for key in ("kind=function", f"function={__name__}:{name}")]


def long(prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    return [[float(len(text)) for text in row] for row in completions]


def short(prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    return [[-score for score in row] for row in long(prompts, completions)]


def first_letter(text: str) -> str:
    return text[0]


ROWS = [
    {"task": "sums", "id": "0", "prompt": "1?", "completions": ["a", "bb", "ccc"], "correct": [0, 0, 1]},
    {"task": "sums", "id": "1", "prompt": "2?", "completions": ["d", "ee", "fff"], "correct": [1, 0, 0]},
    {"task": "facts", "id": "0", "prompt": "3?", "completions": ["g", "hh", "iii"], "correct": [0, 1, 1]},
]


def pool(file: Path, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run(folder: Path, file: Path, *overrides: str, rewards: Sequence[str] = FUNCTIONS) -> Record:
    own = [f"runs_dir={folder}/runs", f"world={folder}/nowhere", "study=s", "tracker=files", f"pools={file}"]
    return bon.run(composed(BoNJob, [*own, *rewards, *overrides]), NoProgress())


def rows_of(record: Record, name: str = "bon.csv") -> list[dict[str, str]]:
    with (Path(record["dir"]) / name).open(newline="") as file:
        return list(csv.DictReader(file))


def picks_of(record: Record) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(record["dir"]) / "picks.jsonl").read_text().splitlines()]


def test_a_pool_of_others_leaves_a_run_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = run(tmp_path, pool(tmp_path / "mine.jsonl"))
    assert (
        "3 prompts x 3 completions, with correctness, taken as they are (model.path, tasks and pool.* are not read)"
        in capsys.readouterr().out
    )
    folder = Path(record["dir"])
    assert (record["job"], record["name"], record["status"], folder.name) == ("bon", "mine", "finished", f"bon-mine-{record['id']}")
    assert {file.name for file in folder.iterdir()} >= {"bon.csv", "picks.jsonl", "result.json", "bon.png", "tasks.png", "config.yaml"}
    [warning] = record["warnings"]
    assert (warning["what"], warning["key"]) == ("few_rows", "pools")
    # Choosing the longest of three: right in the first sum, wrong in the second, right in facts.
    logged = read_metrics(folder / "metrics.jsonl", axis=AXIS)[0]
    assert logged == {name: pytest.approx(value) for name, value in record["final"].items()}
    assert [logged[f"bon/long/{task}@3"] for task in ("sums", "facts", "average")] == [0.5, 1.0, 0.75]
    assert [logged[f"bon/random/{task}@3"] for task in ("sums", "facts")] == pytest.approx([1 / 3, 2 / 3])
    assert (logged["bon/oracle/average@3"], logged["bon_se/long/sums@3"], logged["bon/average"]) == (1.0, 0.5, 0.75)
    assert "bon/ensemble-mean/average@3" in logged
    result = bon.result_of(record)
    assert (result.n, result.rewards["long"]["bon/average@3"], result.dir) == (3, 0.75, str(tmp_path / "mine.jsonl"))
    assert listed(Arguments(places=(), settings={"runs_dir": str(tmp_path / "runs"), "job": "bon"}))[0].record["id"] == record["id"]


def test_the_table_has_every_n_and_the_picks_are_the_best_of_the_first_n(tmp_path: Path) -> None:
    record = run(tmp_path, pool(tmp_path / "mine.jsonl"), "best_of=[1,3]")
    table = {(row["task"], row["reward"], row["n"]): row for row in rows_of(record)}
    assert {n for _, _, n in table} == {"1", "2", "3"}
    # Two of three by length: in the first sum 2/3 right, in the second 0.
    assert float(table["sums", "long", "2"]["accuracy"]) == pytest.approx(1 / 3)
    assert float(table["sums", "long", "2"]["score"]) == pytest.approx((3 + 3 + 2) / 3)
    assert float(table["sums", "oracle", "2"]["accuracy"]) - float(table["sums", "long", "2"]["accuracy"]) == pytest.approx(
        float(table["sums", "long", "2"]["regret"])
    )
    picks = [pick for pick in picks_of(record) if pick["reward"] == "long" and pick["task"] == "sums"]
    assert [(pick["id"], pick["n"], pick["completion"], pick["score"], pick["correct"]) for pick in picks] == [
        ("0", 1, "a", 1.0, 0.0), ("0", 3, "ccc", 3.0, 1.0), ("1", 1, "d", 1.0, 1.0), ("1", 3, "fff", 3.0, 0.0),
    ]  # fmt: skip
    assert picks[0]["prompt"] == [{"role": "user", "content": "1?"}]


def test_no_name_is_cut_in_the_table_of_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    file, name = pool(tmp_path / "p.jsonl", [{**ROWS[0], "task": f"task-number-{n}"} for n in range(8)]), "a-reward-with-a-long-name"
    own = [f"runs_dir={tmp_path}/runs", f"world={tmp_path}/nowhere", "tracker=files", f"pools={file}"]
    reward = [f"scorers.{name}.kind=function", f"scorers.{name}.function={__name__}:long"]
    bon._command(composed(BoNJob, [*own, *reward]))  # pyright: ignore[reportPrivateUsage]
    said = capsys.readouterr().out
    assert "…" not in said
    assert f"│ {name} @3 " in said
    assert all(f" task-number-{n} ┃" in said for n in range(8))


def test_where_nobody_knows_what_is_right_the_picks_are_written_all_the_same(tmp_path: Path) -> None:
    unknown = [{key: value for key, value in row.items() if key != "correct"} for row in ROWS]
    record = run(tmp_path, pool(tmp_path / "mine.jsonl", unknown))
    assert set(record["final"]) == {"bias/long/length", "bias/short/length"}
    assert {pick["completion"] for pick in picks_of(record) if pick["reward"] == "long" and pick["n"] == 3} == {"ccc", "fff", "iii"}
    assert all("correct" not in pick for pick in picks_of(record))
    [row] = [row for row in rows_of(record) if (row["task"], row["reward"], row["n"]) == ("sums", "short", "3")]
    assert (row["accuracy"], float(row["score"])) == ("", -1.0)
    half = run(tmp_path, pool(tmp_path / "half.jsonl", [ROWS[0], unknown[1]]))
    assert (half["final"]["bon/long/sums@3"], [pick["id"] for pick in picks_of(half) if pick["n"] == 3][:2]) == (1.0, ["0", "1"])
    assert any("1 of 2 prompts of sums have no correctness" in warning["text"] for warning in half["warnings"])


def test_a_reward_with_a_nan_for_every_prompt_of_a_task_has_no_accuracy_there_and_no_average(tmp_path: Path) -> None:
    pools = read_given(str(pool(tmp_path / "mine.jsonl")))
    scores = {"rm": {"sums": [[math.nan, 1.0, 2.0]] * 2, "facts": [[1.0, 2.0, 3.0]]}}
    metrics = metrics_of(measured(pools, scores, str), [3])
    assert metrics["bon/rm/facts@3"] == 1.0
    assert not {"bon/rm/sums@3", "bon/rm/average@3", "bon/average"} & set(metrics)
    assert metrics["bon/headroom/sums"] == pytest.approx(2 / 3)
    write_table(tmp_path / "bon.csv", pools, measured(pools, scores, str), scores)
    assert all(row["accuracy"] == "" for row in rows_of({"dir": str(tmp_path)}) if (row["task"], row["reward"]) == ("sums", "rm"))


def test_a_finished_run_is_found_and_another_reward_is_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = pool(tmp_path / "mine.jsonl")
    first = run(tmp_path, file, rewards=[])
    assert run(tmp_path, file, rewards=[]) == first
    assert f"{first['dir']} is finished already" in capsys.readouterr().err
    assert not (Path(first["dir"]) / "picks.jsonl").exists()
    assert run(tmp_path, pool(file, ROWS[:2]), rewards=[])["id"] != first["id"]
    # What a function gives may change another day.
    assert run(tmp_path, file)["id"] != run(tmp_path, file)["id"]


def test_scores_that_an_interrupted_run_has_left_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, asked = pool(tmp_path / "mine.jsonl"), list[str]()
    built = job.build_reward
    monkeypatch.setattr(job, "build_reward", lambda reward, *rest, **more: asked.append(reward.name) or built(reward, *rest, **more))
    plan_of = bon.plan_of

    def fixed(*arguments: Any) -> Any:  # without the time that a function adds to the identity
        plan = plan_of(*arguments)
        return type(plan)(kind=plan.kind, name=plan.name, identity={**plan.identity, "asked": ""}, facts=plan.facts)

    monkeypatch.setattr(bon, "plan_of", fixed)
    with monkeypatch.context() as broken:
        broken.setattr(job, "write_picks", lambda *rest: (_ for _ in ()).throw(RuntimeError("the machine went away")))
        with pytest.raises(RuntimeError, match="the machine went away"):
            run(tmp_path, file)
    [folder] = (tmp_path / "runs" / "s").glob("bon-*")
    assert read_record(folder)["status"] == "failed"
    assert run(tmp_path, file)["dir"] == str(folder)
    assert asked == [f"{__name__}:long", f"{__name__}:short"]


def test_damaged_scores_of_an_interrupted_run_are_none(tmp_path: Path) -> None:
    rows = [PoolRow(id=str(number), prompt=user("?"), completions=("a", "b"), correct=(1.0, 0.0)) for number in range(8)]
    file, scores = tmp_path / "scores.parquet", {"sums": [[float(number), number + 0.5] for number in range(8)]}
    write_scores(file, {"sums": rows}, scores)
    assert read_scores(file, {"sums": rows}) == scores
    whole = file.read_bytes()
    for place in range(4, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert read_scores(file, {"sums": rows}) in (None, scores), place


def test_a_vote_may_be_read_by_a_function_of_the_users(tmp_path: Path) -> None:
    rows = [{"prompt": "1?", "completions": ["xa", "xb", "y"], "correct": [1, 1, 0]}]
    record = run(tmp_path, pool(tmp_path / "mine.jsonl", rows), f"vote={__name__}:first_letter")
    assert record["final"]["bon/majority/mine@3"] == 1.0  # two begin with x
    plain = run(tmp_path, tmp_path / "mine.jsonl")
    assert plain["final"]["bon/majority/mine@3"] == pytest.approx(2 / 3)  # all three texts differ


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["pools=no/such.jsonl"], r"pools=no/such\.jsonl does not exist"),
        (["best_of=[4]"], r"best_of=\[4\] exceeds the 3 completions per prompt"),
        (["scorers.oracle.kind=function", "scorers.oracle.function=a:b"], "scorers.oracle has a name that is taken"),
        (["scorers.v.kind=verifier", "scorers.v.verifier=evalhooks.tasks.verifiers:gsm8k"], "scorers.v.kind=verifier judges by"),
        (["scorers.x.kind=model"], r"scorers\.x\.path"),
        (["scorers.x.knd=model"], r"scorers\.x\.knd is no setting of a reward"),
        (["rewards=[no/model/here]"], r"rewards\[0\]\.path=no/model/here"),
        (["vote=nowhere:f"], "vote"),
    ],
)  # fmt: skip
def test_best_of_n_of_given_pools_is_refused_before_a_run_begins(tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(tmp_path, pool(tmp_path / "mine.jsonl"), *overrides, rewards=[])
    assert not (tmp_path / "runs" / "s").is_dir() or not any((tmp_path / "runs" / "s").glob("bon-*/result.json"))


def test_reward_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    names = bon._names(["runs/a/rm-x", "runs/b/rm-x", "org/RM-8B", "runs/c/rm-y/checkpoints/step-000004"], "runs")  # pyright: ignore[reportPrivateUsage]
    assert list(names.values()) == ["runs-a-rm-x", "runs-b-rm-x", "rm-8b", "rm-y-step-000004"]


def test_a_reward_model_that_an_id_names_is_called_by_the_name_of_its_run(tmp_path: Path) -> None:
    tulu, other, again = made(tmp_path, "Tulu"), made(tmp_path, "rm-x"), made(tmp_path, "rm-x", study="second")
    names = bon._names([tulu.id, other.id, again.id, "nothing"], str(tmp_path))  # pyright: ignore[reportPrivateUsage]
    assert list(names.values()) == ["tulu", f"rm-x-{other.id}", f"rm-x-{again.id}", "nothing"]


# The choice of a generator


def result(**accuracies: Sequence[float]) -> dict[str, Any]:
    """A result of two tasks at n = 1, with the accuracies of each reward on them."""

    def at(value: float) -> list[dict[str, Any]]:
        return [{"value": value, "error": None}]

    tasks = {
        task: {
            "n": 1, "mixed": 0.25, "random": {"value": 0.25}, "oracle": at(0.75),
            "signals": {name: {"accuracy": at(values[place])} for name, values in accuracies.items()},
        }
        for place, task in enumerate(("a", "b"))
    }  # fmt: skip
    return {"tasks": tasks, "rewards": {name: {} for name in accuracies}}


def test_a_generator_is_judged_by_headroom_and_by_the_agreement_of_tasks() -> None:
    # Accuracies rise together on both tasks, or on one as they fall on the other.
    good = generators.generator_of("sft", result(x=(0.1, 0.2), y=(0.2, 0.4), z=(0.3, 0.6)))
    assert (good.headroom, good.mixed, good.between_tasks) == (0.5, 0.25, pytest.approx(1.0))
    assert good.spread == pytest.approx((2 / 3) ** 0.5 * 0.15)  # of the means 0.15, 0.3, 0.45
    assert generators.generator_of("rl", result(x=(0.1, 0.6), y=(0.2, 0.4), z=(0.3, 0.2))).between_tasks == pytest.approx(-1.0)
    assert generators.generator_of("few", result(x=(0.1, 0.6), y=(0.2, 0.4))).between_tasks is None


def test_runs_are_compared_that_have_the_same_rewards_and_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    rows = [{**row, "correct": [draw.random() for _ in range(3)]} for row in ROWS]
    a, b = run(tmp_path, pool(tmp_path / "a.jsonl")), run(tmp_path, pool(tmp_path / "b.jsonl", rows))
    generators.main([a["dir"], b["dir"], f"out={tmp_path}/generators.csv"])
    said = capsys.readouterr().out
    assert "between tasks: needs 3 rewards and 2 tasks" in said
    assert len((tmp_path / "generators.csv").read_text().splitlines()) == 3
    other = run(tmp_path, tmp_path / "a.jsonl", rewards=FUNCTIONS[:2])
    with pytest.raises(SystemExit):
        generators.main([a["dir"], other["dir"]])
    assert "have other rewards (ensemble-mean, ensemble-mean-std, ensemble-min, short)" in capsys.readouterr().err
