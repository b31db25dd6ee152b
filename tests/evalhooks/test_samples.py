"""Samples show what a reward model gets most wrong and what a policy answers, with margins and scores, one file per checkpoint."""

import math
from pathlib import Path

from core.records import BenchmarkRow, Completion, Message, Preference, Prompt, ScoredRow, user
from core.runs.samples import forget_samples, read_samples, write_samples
from evalhooks.samples import NUM_WRONG, answered, worst_pairs, worst_rows

YES = Message(role="assistant", content="yes")


def test_the_rows_with_the_lowest_margins_are_kept_and_those_without_a_number_come_first() -> None:
    rows = [BenchmarkRow(id=str(n), prompt="?", completions=("a", "b", "c"), num_correct=1, subset="Math") for n in range(3)]
    scores = ((1.0, 0.5, 2.0), (3.0, 1.0, 2.0), (math.nan, 0.0, 0.0))  # margins 1 - 2, 3 - 2, NaN
    scored = [ScoredRow(id=row.id, subset=row.subset, num_correct=1, scores=own) for row, own in zip(rows, scores, strict=True)]
    kept = worst_rows(rows, scored)
    assert [sample["id"] for sample in kept] == ["2", "0", "1"]
    assert kept[1]["margin"] == -1.0
    assert kept[1]["completions"][2] == {"text": "c", "score": 2.0, "correct": False}


def test_of_many_pairs_the_most_wrong_are_kept_with_both_sides() -> None:
    pairs = [Preference(prompt=user(f"{n}?"), chosen=YES, rejected="no", source="s") for n in range(20)]
    kept = worst_pairs(pairs, [(float(n), 10.0) for n in range(20)])
    assert [sample["margin"] for sample in kept] == [float(n - 10) for n in range(NUM_WRONG)]
    assert [completion["text"] for completion in kept[0]["completions"]] == ["yes", "no"]
    assert kept[0]["prompt"] == [{"role": "user", "content": "0?"}]


def test_answers_carry_their_scores_and_what_the_verifier_says() -> None:
    answers = [[Completion(text="4", token_ids=(1, 2), finished=True), Completion(text="5", token_ids=(3,), finished=False)]]
    [kept] = answered("sums", [Prompt(id="p", dialogue=user("2+2?"))], answers, scores=[[0.5, 0.1]], correct=[[1.0, 0.0]])
    assert kept["completions"][0] == {"text": "4", "tokens": 2, "finished": True, "score": 0.5, "correct": 1.0}
    [unscored] = answered("", [Prompt(id="p", dialogue=user("2+2?"))], answers)
    assert unscored["completions"][1] == {"text": "5", "tokens": 1, "finished": False}


def test_samples_of_a_step_are_read_back_and_those_after_a_step_are_forgotten(tmp_path: Path) -> None:
    for step in (3, 6):
        write_samples(tmp_path, step, "held_out", [{"prompt": [], "margin": math.nan, "completions": []}])
    assert read_samples(tmp_path, 3) == [{"kind": "held_out", "step": 3, "prompt": [], "margin": "NaN", "completions": []}]
    forget_samples(tmp_path, 3)
    assert (len(read_samples(tmp_path, 3)), read_samples(tmp_path, 6)) == (1, [])
