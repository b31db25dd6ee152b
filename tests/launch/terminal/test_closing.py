"""The last lines of a command say what came out, why, what was left out, where the time went, and what is next."""

from typing import Any

from launch.terminal.closing import bench_lines, bench_scores, bon_lines, ppo_lines, rm_lines

FINAL = {
    "rewardbench2/factuality": 0.3,
    "rewardbench2/math": 0.5,
    "rewardbench2/mean_of_2_factuality_math": 0.4,
    "rewardbench2_se/mean_of_2_factuality_math": 0.05,
    "bon/average@16": 0.25,
    "held_out/accuracy": 0.625,
    "held_out/accuracy_low": 0.306,
    "held_out/accuracy_high": 0.863,
    "held_out/num_pairs": 8.0,
}


def rm_record(**changes: Any) -> dict[str, Any]:
    return {
        "dir": "runs/s/rm-a",
        "final": FINAL,
        "step": 6,
        "best_step": 4,
        "best_metric": "held_out/accuracy",
        "best": {"held_out/accuracy": 0.75},
        "num_pairs": 23,
        "num_dropped_pairs": 44,
        "num_cut_pairs": 0,
        "num_equal_pairs": 1,
        "num_broken_pairs": 0,
        "train_s": 400.0,
        "hooks_s": 100.0,
        "warnings": [{"what": "pairs_dropped", "key": "max_length", "text": "...", "numbers": {}}],
    } | changes


def test_a_reward_model_ends_with_all_that_came_out() -> None:
    assert rm_lines(rm_record()) == [
        "reward model: runs/s/rm-a",
        "RewardBench 2 at the last checkpoint: 40.0 +- 5.0 (mean of 2: Factuality, Math); Factuality 30.0; Math 50.0 "
        "(points of 100 +- standard error)",
        "best of N, accuracy of the choice: average@16 25.0",
        "held-out accuracy: 62.5 on 8 pairs, 95% interval 30.6 to 86.3",
        "best checkpoint: step 4 of 6, by the highest held_out/accuracy, 75.0; the last one has 62.5",
        "pairs: 23 trained on; dropped: 44 too long, 1 equal after tokenising",
        "time: 6 min 40 s: training 5 min 0 s, hooks 1 min 40 s (25%)",
        "warnings: 1, above and in runs/s/rm-a/record.json; they concern max_length",
        "next: rewardloop bench reward.path=runs/s/rm-a; rewardloop ppo reward.path=runs/s/rm-a ...",
    ]


def test_a_last_checkpoint_that_is_hardly_worse_is_told_from_the_best() -> None:
    lines = rm_lines(rm_record(final=FINAL | {"held_out/accuracy": 0.74999}))
    assert "best checkpoint: step 4 of 6, by the highest held_out/accuracy, 75.0; the last one is behind by 0.001 points" in lines


def test_scores_of_a_part_of_the_rows_stand_beside_its_size() -> None:
    rows = {"rewardbench2": [41, 1865], "bon/sums": [3, 10], "bon/facts": [4, 10], "held_out": [8, 80]}
    lines = rm_lines(rm_record(rows=rows))
    assert lines[1].startswith("RewardBench 2 at the last checkpoint, on 41 of 1865 rows: 40.0 +- 5.0")
    assert lines[2] == "best of N, accuracy of the choice, on 7 of 20 rows: average@16 25.0"
    assert lines[3] == "held-out accuracy: 62.5 on 8 pairs, 8 of 80 rows, 95% interval 30.6 to 86.3"
    record = {"dir": "d", "start": {}, "at_best": {}, "final": {"downstream/gsm8k": 0.125}, "rows": {"downstream/gsm8k": [5, 40]}}
    assert "downstream/gsm8k, on 5 of 40 rows: last 12.5" in ppo_lines(record, best_metric="")


def test_a_reward_model_that_nothing_measured_says_so() -> None:
    bare = rm_lines(rm_record(final={"rewardbench2/overall": "NaN"}, best_metric="", best={}, best_step=6, warnings=[], num_cut_pairs=3))
    assert "best checkpoint: step 6 of 6, the last one: nothing was measured to choose by (held-out pairs: data.held_out=0.05)" in bare
    assert not [line for line in bare if line.startswith(("RewardBench 2", "warnings"))]
    assert "pairs: 23 trained on, 3 with their prompt cut; dropped: 44 too long, 1 equal after tokenising" in bare


def test_a_policy_ends_with_its_tasks_from_start_to_end_and_the_untrained_one_where_that_is_best() -> None:
    record = {
        "dir": "runs/s/ppo-a",
        "start": {"downstream/gsm8k": 0.25, "rm_score": -1.0, "kl": 0.0},
        "at_best": {"downstream/gsm8k": 0.25},
        "final": {"downstream/gsm8k": 0.125, "rm_score": 2.0, "kl": 12.5},
        "best": {"downstream/gsm8k": 0.25},
        "best_step": 0,
        "last_step": 6,
        "num_dropped_prompts": 2,
        "train_s": 60.0,
        "hooks_s": 15.0,
    }
    lines = ppo_lines(record, best_metric="downstream/gsm8k")
    assert "downstream/gsm8k: start 25.0, best 25.0, last 12.5" in lines
    assert "from start to end: rm_score -1 to 2, kl 0 to 12.5" in lines
    assert "best checkpoint: the untrained policy (step 0), by the highest downstream/gsm8k, 25.0; the last one has 12.5" in lines
    assert "prompts: 2 dropped as too long" in lines
    assert "time: 1 min 0 s: training 45 s, hooks 15 s (25%)" in lines
    assert lines[-1].startswith("next: rewardloop show ")
    moved = ppo_lines({**record, "best_step": 2}, best_metric="downstream/gsm8k")
    assert moved[-1].startswith("next: rewardloop bon model=custom model.path=runs/s/ppo-a/best ")


def test_downstream_scores_have_their_standard_errors_where_they_are_known() -> None:
    known = {"downstream/gsm8k": 0.25, "downstream_se/gsm8k": 0.04}
    lines = ppo_lines({"dir": "d", "start": {"downstream/gsm8k": 0.5}, "at_best": known, "final": known}, best_metric="")
    assert "downstream/gsm8k: start 50.0, best 25.0 +- 4.0, last 25.0 +- 4.0 (points of 100 +- standard error)" in lines
    assert not [line for line in lines if "_se" in line]


def test_records_of_before_which_lack_times_and_courses_can_be_told() -> None:
    old = {"dir": "d", "best_step": 3, "last_step": 6, "best": {"downstream/average": 0.5}, "wall_s": 61.0}
    assert "time: 1 min 1 s" in ppo_lines(old, best_metric="downstream/average")
    assert bench_lines({"dir": "d", "wall_s": 5.0})[-1].startswith("next: rewardloop bench compare d OTHER")
    assert "hooks.pools=p" in bon_lines({"dir": "d", "pools": "p", "lineage": {"model": "m"}})[-1]
    assert bon_lines({"dir": "d", "pools": "p.jsonl"})[-1] == "next: rewardloop bon pools=p.jsonl 'rewards=[FOLDER]' to rank them"


def test_a_bench_run_is_told_in_a_line_overall_first_with_what_is_no_share_left_out() -> None:
    final = {"pairs/accuracy_low": 0.5, "pairs/margin": 0.3, "pairs/accuracy": 0.625}
    assert bench_scores({"final": final}) == ["pairs: accuracy_low 50.0; accuracy 62.5 (points of 100 +- standard error)"]
    final = {"rewardbench2/math": 0.25, "rewardbench2_se/math": 0.05, "rewardbench2/overall": 0.5}
    assert bench_scores({"final": final}) == ["rewardbench2: overall 50.0; math 25.0 +- 5.0 (points of 100 +- standard error)"]
    assert bench_scores({"final": {"rewardbench2/overall": float("nan")}}) == []


def test_best_of_n_ends_with_the_headroom_and_the_reward_that_chose_best() -> None:
    final = {"bon/random/average@1": 0.4, "bon/random/average@4": 0.4, "bon/oracle/average@4": 0.7}
    record = {"dir": "d", "pools": "p", "final": final, "lineage": {"rewards": []}}
    assert "pass@1 40.0, pass@4 70.0: a headroom of 30.0 points for a reward" in bon_lines(record)
    chosen = {**final, "bon/a/average@4": 0.5, "bon/b/average@4": 0.6, "bon_se/b/average@4": 0.02}
    lines = bon_lines({**record, "final": chosen, "lineage": {"rewards": ["a", "b"]}})
    assert "best reward at 4: b, 60.0 +- 2.0 on average" in lines
    equal = bon_lines({**record, "final": {**chosen, "bon/a/average@4": 0.6}, "lineage": {"rewards": ["a", "b"]}})
    assert "best reward at 4: a and b, 60.0 on average" in equal  # a has no error here
    assert "rewardloop ppo" in lines[-1]
    lines = bon_lines({**record, "final": {}, "lineage": {"rewards": ["a"]}})
    assert any("no correctness is known" in line for line in lines)
    assert lines[-1].startswith("next: rewardloop report 'runs=[d]', which says whose completions they prefer")


def test_best_of_n_says_what_a_reward_scores_up_and_down_beside_correctness() -> None:
    final = {"bias/a/length": -0.4, "bias/a/lists": 0.2, "bias/a/hedging": 0.01, "bias/b/length": -0.3}
    record = {"dir": "d", "pools": "p", "final": final, "lineage": {"rewards": ["a", "b", "c"]}}
    lines = bon_lines({**record, "biases": {"a": ["length", "lists"], "b": ["length"], "c": []}})
    assert [line for line in lines if "beside correctness" in line] == [
        "a pays for lists and penalises length beside correctness",
        "b penalises length beside correctness",
    ]
    files = "bon.csv (every n), picks.jsonl (the chosen answers), bias.csv and bias.png (what a reward pays for)"
    assert f"files: {files} in d" in lines
