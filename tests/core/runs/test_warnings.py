"""Every warning has its trigger, and is silent just inside its threshold."""

import json
from pathlib import Path

import pytest

from core.hooks.run_context import RunContext
from core.runs import warnings
from core.runs.record import Run, RunState, finish_run, open_run, read_record, stop_run
from core.runs.warnings import RunWarning

LOST = [
    lambda num, total: warnings.pairs_dropped(num, total, max_length=256),
    lambda num, total: warnings.pairs_cut(num, total, max_length=256),
    warnings.pairs_equal,
    lambda num, total: warnings.prompts_dropped(num, total, max_prompt_length=64),
    lambda num, total: warnings.texts_cut(num, total, key="max_length", limit=2048, what="texts"),
]


@pytest.mark.parametrize("rule", LOST)
def test_more_than_a_tenth_lost_is_told_and_a_tenth_is_not(rule) -> None:  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]
    assert rule(10, 100) is None
    assert rule(0, 0) is None
    found = rule(11, 100)
    assert "11 of 100" in found.text
    assert "(11%)" in found.text
    assert found.key in found.text or found.key == "data.paths"
    assert found.numbers == {"num": 11, "total": 100}


def test_rows_left_out_name_the_key_of_the_largest_reason() -> None:
    source = {"read": 100, "broken": 0, "equal": 1, "duplicates": 8, "contaminated_dropped": 1}
    assert warnings.rows_left_out({"a": source}) is None
    found = warnings.rows_left_out({"a": source, "b": {**source, "duplicates": 9}})
    assert found is not None
    assert found.key == "data.deduplicate"
    assert "21 of 200 rows of the data (10%) were left out (2 with equal sides, 17 duplicates, 2 in the benchmark too)" in found.text
    assert warnings.rows_left_out({}) is None


def test_few_held_out_pairs_name_what_makes_them_few() -> None:
    assert warnings.few_held_out(30, 30, max_length=256) is None
    few = warnings.few_held_out(29, 29, max_length=256)
    assert few is not None
    assert few.key == "data.held_out"
    long = warnings.few_held_out(3, 40, max_length=256)
    assert long is not None
    assert long.key == "max_length"
    assert "the others are longer than max_length=256" in long.text
    assert "+-37 points" in long.text  # Wilson's interval of 1.5 in 3 ends at 0.875
    own = warnings.few_held_out(3, 3, max_length=256, validation="v.jsonl")
    assert own is not None
    assert own.key == "data.validation"
    none = warnings.few_held_out(0, 7, max_length=256)
    assert none is not None
    assert none.what == "no_held_out"
    assert none.key == "max_length"


def test_a_part_of_a_benchmark_with_few_rows_is_named() -> None:
    assert warnings.few_rows({"Math": 30, "Ties": 102}, what="RewardBench 2", key="hooks.limit", remedy="raise it") is None
    found = warnings.few_rows({"Math": 29, "Ties": 102}, what="RewardBench 2", key="hooks.limit", remedy="raise it")
    assert found is not None
    assert "29 in Math" in found.text
    assert "Ties" not in found.text
    assert found.key == "hooks.limit"


def test_the_interval_of_an_accuracy_is_not_that_of_the_rows_of_ties() -> None:
    # Of 4 rows Wilson's interval is up to 35 points to either side; of 20 it is 1.96 sqrt(1/80 + 3.84/1600) / (1 + 3.84/20) = 20.
    sizes = {"Math": 20, "Ties": 4}
    found = warnings.few_rows(sizes, what="RewardBench 2", key="limit", remedy="raise it", no_accuracy=["Ties"])
    assert found is not None
    assert "(20 in Math, 4 in Ties)" in found.text
    assert "+-20 points for an accuracy" in found.text
    alone = warnings.few_rows({"Math": 30, "Ties": 4}, what="RewardBench 2", key="limit", remedy="raise it", no_accuracy=["Ties"])
    assert alone is not None
    assert "accuracy" not in alone.text


def test_few_steps_and_a_coin_are_told() -> None:
    assert warnings.few_steps(10, num_pairs=1280, batch_size=128) is None
    found = warnings.few_steps(9, num_pairs=1152, batch_size=128)
    assert found is not None
    assert "1152 pairs make 9 steps of batch_size=128" in found.text
    assert warnings.not_learned(0.51, num_pairs=100) is None
    assert warnings.not_learned(0.5, num_pairs=100) is not None


def test_answers_are_told_as_cut_if_most_are() -> None:
    assert warnings.answers_cut(0.5, where="in batch 3", key="max_new_tokens", limit=24) is None
    found = warnings.answers_cut(0.25, where="in batch 3", key="max_new_tokens", limit=24)
    assert found is not None
    assert found.line == "warning: in batch 3 75% of the answers were cut by max_new_tokens=24 before their end; raise max_new_tokens."


def test_equal_scores_are_told_if_they_are_more_than_a_rare_batch() -> None:
    assert warnings.equal_scores(0, 1, batch=1, eos_rate=1.0, penalised=False) is None
    assert warnings.equal_scores(1, 11, batch=11, eos_rate=1.0, penalised=False) is None
    found = warnings.equal_scores(1, 10, batch=10, eos_rate=1.0, penalised=True)
    assert found is not None
    assert found.key == "reward"
    cut = warnings.equal_scores(1, 1, batch=1, eos_rate=0.0, penalised=True)
    assert cut is not None
    assert cut.key == "max_new_tokens"
    assert "raise max_new_tokens" in cut.text


def test_a_kl_that_leaps_is_told_and_one_that_grows_is_not() -> None:
    assert warnings.kl_jump(5.0, 0.0, batch=2) is None  # at the floor
    assert warnings.kl_jump(6.0, 2.0, batch=2) is None  # three times
    assert warnings.kl_jump(float("nan"), 2.0, batch=2) is None  # which the trainer refuses itself
    found = warnings.kl_jump(6.1, 2.0, batch=2)
    assert found is not None
    assert "from 2 to 6.1" in found.text


def test_an_untrained_best_names_the_key_by_how_far_the_policy_moved() -> None:
    still = warnings.untrained_is_best("downstream/average", 0.25, 0.9)
    moved = warnings.untrained_is_best("downstream/average", 0.25, 1.0)
    assert still is not None
    assert "it hardly moved from its start (0.9 nats): raise optim.lr" in still.text
    assert moved is not None
    assert "lower optim.lr" in moved.text
    assert warnings.untrained_is_best("rm_score", None, 0.0) is not None


def test_a_kl_estimated_below_0_is_told_as_none() -> None:
    found = warnings.untrained_is_best("downstream/average", 0.25, -0.23)
    assert found is not None
    assert "its distance from its start cannot be told from 0: raise optim.lr" in found.text
    assert "nats" not in found.text


def opened(folder: Path) -> tuple[Path, RunState]:
    run, state = open_run(runs_dir=folder, study="s", job="rm", name="a", identity={"seed": 0}, config_yaml="")
    return run.dir, state


def test_a_warning_is_told_once_per_run_and_stays_in_its_record(tmp_path: Path) -> None:
    said: list[str] = []
    folder, _ = opened(tmp_path)
    found, other = RunWarning(what="a", key="k", text="A."), RunWarning(what="a", key="other", text="B.", numbers={"n": 1})
    context = RunContext(dir=folder, say=said.append)
    context.warn(found, None, found)
    RunContext(dir=folder, say=said.append).warn(found)  # another part of the job
    assert said == ["warning: A."]
    stop_run(Run(dir=folder, id=read_record(folder)["id"]), "stopped")
    again, state = opened(tmp_path)
    assert (again, state) == (folder, RunState.torn)
    RunContext(dir=folder, say=said.append).warn(found, other)
    assert said == ["warning: A.", "warning: B."]
    finish_run(Run(dir=folder, id=read_record(folder)["id"]), final={})
    told = json.loads((folder / "record.json").read_text())["warnings"]
    assert told == [
        {"what": "a", "key": "k", "text": "A.", "numbers": {}},
        {"what": "a", "key": "other", "text": "B.", "numbers": {"n": 1}},
    ]
    assert warnings.texts_of(read_record(folder)) == ["A.", "B."]


def test_without_a_record_a_warning_is_told_once_per_context(tmp_path: Path) -> None:
    said: list[str] = []
    context = RunContext(dir=tmp_path, say=said.append)
    for _ in range(2):
        context.warn(RunWarning(what="a", key="k", text="A."))
    assert said == ["warning: A."]
