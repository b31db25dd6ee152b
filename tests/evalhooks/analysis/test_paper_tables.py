"""The paper's tables from one's own scores, overlap of prompts, and which inputs may be fitted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalhooks.analysis.diagnostics import diagnostic
from evalhooks.analysis.overlap import overlap, read_prompts
from evalhooks.analysis.paper_tables import paper_tables
from evalhooks.analysis.table import ScoredModel, ScoreTable, read_table


def scored(name: str, rb2: float, **facts: str) -> ScoredModel:
    return ScoredModel(name=name, facts=facts, scores={"rb2": rb2, "ppo": 50.0})


def tables(*models: ScoredModel) -> dict[str, list[Any]]:
    return dict(paper_tables(ScoreTable(sources=(), models=models, notes=()), benchmarks=["rb2"], downstream=["ppo"]))


def test_the_best_of_each_base_and_data_says_of_how_many() -> None:
    found = tables(
        scored("a", 60, base="tulu", data="x"),
        scored("b", 63, base="tulu", data="x"),
        scored("c", 70, base="llama", data="y"),
        scored("bad", 99, base="llama", data="y", group="controls"),
    )
    rows = found["Best by base model and training data (table 4)"]
    assert [(row["base"], row["data"], row["rb2"], row["tries"]) for row in rows] == [("llama", "y", 70, 1), ("tulu", "x", 63, 2)]
    assert [row["base"] for row in found["Best by base model (table 5)"]] == ["llama", "tulu"]


def test_the_top_has_ones_own_by_base_published_ones_by_name_and_judges_by_their_better_mode() -> None:
    found = tables(
        scored("own-1", 60, base="tulu", data="x", lr="1e-6"),
        scored("own-2", 64, base="tulu", data="y", lr="1e-6"),
        scored("own-3", 70, base="qwen", data="y", lr="1e-6"),
        scored("flipped", 99, base="tulu", data="x", lr="1e-6", group="controls"),
        scored("org/one", 66, base="llama", data="as published"),
        scored("org/two", 65, base="llama", data="as published"),
        scored("gpt (ratings)", 61, mode="ratings", recipe="gpt"),
        scored("gpt (rankings)", 69, mode="rankings", recipe="gpt"),
    )
    rows = found["Top reward models (table 3)"]
    assert [(row["reward model"], row["rb2"], row["tries"]) for row in rows] == [
        ("own-3", 70, 1),
        ("gpt*", 69, 2),
        ("org/one", 66, 1),
        ("org/two", 65, 1),
        ("own-2", 64, 2),
    ]
    # What others have trained is none of one's own recipes.
    assert [row["base"] for row in found["Best by base model (table 5)"]] == ["qwen", "tulu"]
    many = tables(*(scored(f"org/{k}", k, base="llama", data="as published") for k in range(40)))["Top reward models (table 3)"]
    assert [row["rb2"] for row in many] == list(range(39, 14, -1))


def test_epochs_stand_side_by_side_only_for_recipes_that_have_several() -> None:
    recipe = {"base": "tulu", "data": "x", "lr": "3e-6"}
    found = tables(
        scored("a", 60, **recipe, epochs="1"),
        scored("b", 63, **recipe, epochs="2"),
        scored("c", 50, base="t", data="x", lr="1", epochs="1"),
    )
    assert [(row["epochs"], row["rb2"]) for row in found["By number of epochs (table 7)"]] == [("1", 60), ("2", 63)]


def test_of_a_judges_ratings_and_rankings_both_are_shown_and_the_better_counts(tmp_path: Path) -> None:
    (tmp_path / "judges.csv").write_text("model,mode,rb2\ngpt,ratings,60\ngpt,rankings,64\n")
    table = read_table([str(tmp_path / "judges.csv")], ["rb2"])
    rows = paper_tables(table, benchmarks=["rb2"], downstream=[])["Judges, the better of ratings and rankings (appendix G)"]
    assert [(row["judge"], row["asked for"], row["rb2"], row["counts"]) for row in rows] == [
        ("gpt", "rankings", 64.0, "yes"),
        ("gpt", "ratings", 60.0, "no"),
    ]


def test_groups_stand_in_the_papers_order_with_the_policies_last(tmp_path: Path) -> None:
    text = "model,group,rb2,ppo\nstart,policy,,54.1\na,controls,6,38\nb,off-policy,72,55\nc,on-policy,60,60\n"
    (tmp_path / "table8.csv").write_text(text)
    table = read_table([str(tmp_path / "table8.csv")], ["rb2", "ppo"])
    rows = paper_tables(table, benchmarks=["rb2"], downstream=["ppo"])["Downstream results by group (table 8)"]
    assert [(row["model"], row["ppo"]) for row in rows] == [("c", 60.0), ("b", 55.0), ("a", 38.0), ("start", 54.1)]
    assert len(table.models) == 3
    assert table.notes == ()


def test_shared_prompts_are_counted_per_benchmark_and_task(tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text(
        '{"prompt": "Name a fruit."}\n{"prompt": "How many legs do three spiders and two ants have together?"}\n'
    )
    (tmp_path / "task.jsonl").write_text(
        '{"question": "name a FRUIT"}\n{"question": "Something else that nobody has asked in the benchmark at all."}\n'
    )
    benchmark = read_prompts([str(tmp_path / "bench.jsonl")], "benchmark_prompts")
    [found] = overlap(benchmark, read_prompts([str(tmp_path / "task.jsonl")], "task_prompts"))
    assert (found["benchmark"], found["task"]) == ("bench.jsonl", "task.jsonl")
    assert (found["shared"], found["equal"], found["of"], found["num_task_prompts"]) == (1, 0, 2, 2)
    assert found["examples"] == [{"benchmark": "Name a fruit.", "task": "name a FRUIT"}]
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(ValueError, match="row 1 has no prompt"):
        read_prompts([str(tmp_path / "bad.jsonl")], "task_prompts")


def test_one_input_needs_ten_reward_models_and_its_error_is_that_on_those_left_out() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(12)
    y = 2 * x + 0.1 * rng.standard_normal(12)
    models = [ScoredModel(name=str(k), facts={"base": "ab"[k % 2]}, scores={"std": x[k], "ppo": y[k]}) for k in range(12)]
    found = diagnostic(models, "std", "ppo")
    # Leave-one-out residuals of least squares are r / (1 - h), with h the leverage.
    design = np.column_stack([np.ones(12), x])
    hat = design @ np.linalg.inv(design.T @ design) @ design.T
    expected = np.sqrt(np.mean(((y - hat @ y) / (1 - np.diag(hat))) ** 2))
    assert found.error == pytest.approx(expected)
    assert found.error_of_mean == pytest.approx(np.sqrt(np.mean(((y - y.mean()) * 12 / 11) ** 2)))
    assert found.error is not None
    assert found.error_of_mean is not None
    assert found.gain is not None
    assert found.gain == pytest.approx(1 - found.error**2 / found.error_of_mean**2)
    assert found.gain > 0.9
    assert diagnostic(models, "base", "ppo").num_inputs == 1
    assert "1 input needs 10 reward models, and there are 9" in diagnostic(models[:9], "std", "ppo").note
    three = [ScoredModel(name=m.name, facts={"base": "abc"[k % 3]}, scores=m.scores) for k, m in enumerate(models)]
    assert "2 inputs need 20 reward models, and there are 12" in diagnostic(three, "base", "ppo").note
    assert (
        "it is the same for all 12"
        in diagnostic([ScoredModel(name=m.name, facts={"base": "a"}, scores=m.scores) for m in models], "base", "ppo").note
    )
