"""The data of the page: thinned, cut, and with the rows that reward models get wrong."""

from pathlib import Path

import pytest

from core.disk import write_json
from core.hooks.hook import eval_file
from core.records import BenchmarkRow, ScoredRow
from core.runs.samples import write_samples
from evalhooks.report.dashboard import misjudged as module
from evalhooks.report.dashboard import payload as payload_module
from evalhooks.report.dashboard.answers import answers
from evalhooks.report.dashboard.misjudged import misjudged
from evalhooks.report.dashboard.payload import payload
from evalhooks.report.facts import read
from evalhooks.rewardbench.rows import ScoredBenchmark, write_rows
from evalhooks.samples import worst_rows

ROWS = [
    BenchmarkRow(id=str(number), prompt=f"Question {number}?", completions=("yes", "no"), num_correct=1, subset="math", turns=(), where="")
    for number in range(10)
]


def checkpoint(run_dir: Path, step: int, right: list[float]) -> None:
    """A checkpoint that gives each wrong completion 0 and the right ones these scores."""
    scored = [ScoredRow(id=row.id, subset=row.subset, num_correct=1, scores=(s, 0.0)) for row, s in zip(ROWS, right, strict=True)]
    write_json(eval_file(run_dir, step), {"checkpoint/step": step})
    write_samples(run_dir, step, "rewardbench2", worst_rows(ROWS, scored))
    saved = ScoredBenchmark(rows=tuple(scored), details=(None,) * len(scored))
    write_rows(run_dir / "evals" / f"step-{step:06d}.rewardbench2.parquet", saved, [1.0] * len(scored))


def test_a_row_that_was_once_among_the_worst_has_its_margin_at_every_checkpoint(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5, [float(number) for number in range(-2, 8)])
    checkpoint(tmp_path, 10, [1.0] * 8 + [-3.0, float("nan")])
    found = misjudged([str(tmp_path)])
    # Eight rows are kept of each checkpoint: 0 to 7 of the first; 9 and 8, and the first six of equals, of the second. Of the first, 0, 1
    # and, by a tie, 2 are wrong; 3 to 7 are right at both.
    assert {row["id"] for row in found.rows} == {"0", "1", "2", "8", "9"}
    assert [row["id"] for row in found.rows[:2]] == ["9", "8"]
    by_id = {row["id"]: row["seen"] for row in found.rows}
    assert by_id["0"] == [{"model": 0, "steps": [5, 10], "margins": [-2.0, 1.0], "scores": [[-2.0, 0.0], [1.0, 0.0]]}]
    assert by_id["8"][0]["margins"] == [6.0, -3.0]
    assert by_id["9"][0]["margins"] == [7.0, "nan"]
    assert found.rows[0]["domain"] == "Math"
    assert [answer["correct"] for answer in found.rows[0]["completions"]] == [True, False]


def test_rows_that_have_no_room_are_counted_and_the_worst_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path, 5, [1.0] * 5 + [-0.1, -0.2, -0.3, -3.0, -1.0])
    monkeypatch.setattr(module, "MAX_CHARACTERS", 2 * len("Question 8?yesno"))
    found = misjudged([str(tmp_path)])
    assert [row["id"] for row in found.rows] == ["8", "9"]
    assert found.num_left_out == 3


def test_runs_without_folders_or_with_broken_results_have_what_can_be_read(tmp_path: Path) -> None:
    checkpoint(tmp_path / "run", 5, [1.0] * 9 + [-1.0])
    (tmp_path / "run" / "evals" / "step-000005.rewardbench2.parquet").write_bytes(b"torn")
    found = misjudged([str(tmp_path / "gone"), str(tmp_path / "run"), ""])
    assert found.rows[0]["seen"][0]["model"] == 1


def test_no_script_of_the_page_names_an_axis_by_the_key_of_a_metric() -> None:
    scripts = list(Path(payload_module.__file__).with_name("assets").glob("*.js"))
    assert scripts
    assert [script.name for script in scripts if "checkpoint/step" in script.read_text() or "train/step" in script.read_text()] == []
    assert payload(read({}))["stepName"] == "training step"


def test_curves_share_the_room_and_keep_their_ends() -> None:
    curve = [(step, 0.5) for step in range(1, 1001)]
    models = [{"name": f"m{number}", "details": {"curves": {"loss": curve}}} for number in range(400)]
    data = payload(read({"reward_models": models}))
    steps, values = data["models"][0]["curves"]["loss"]
    assert len(steps) == len(values)
    assert 100 <= len(steps) <= 102  # 40,000 points of 400 curves
    assert (steps[0], steps[-1]) == (1, 1000)


def test_a_best_of_n_curve_is_that_of_the_newest_checkpoint_that_has_one() -> None:
    rows = [
        {"step": 1, "bon/average@4": 0.3},
        {"step": 2, "bon/average@16": 0.6, "bon/average@4": 0.5, "bon/a@16": 0.1},
        {"step": 3, "x": 1.0},
    ]
    data = payload(read({"reward_models": [{"name": "a", "checkpoints": rows}]}))
    assert data["models"][0]["bestOf"] == [(4, 0.5), (16, 0.6)]


def test_answers_are_cut_and_say_whether_they_are_right() -> None:
    sample = {"task": "sums", "step": 5, "prompt": [{"role": "user", "content": "1 + 1?"}]}
    sample["completions"] = [{"text": "2" * 1000, "score": 1.5, "correct": 1.0}, {"text": "3", "score": "nan", "correct": 0.0}]
    (shown,) = answers(read({"ppo": [{"name": "p", "details": {"samples": [sample]}}]}).runs)
    assert shown[0]["prompt"] == "1 + 1?"
    assert [(len(answer["text"]), answer["score"], answer["judged"]) for answer in shown[0]["completions"]] == [
        (700, 1.5, "right"),
        (1, "nan", "wrong"),
    ]
