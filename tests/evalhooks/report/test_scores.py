"""What a report says of scores: names and points, main results in full and others in sum, and nothing where nothing is known."""

import random
from typing import Any

from evalhooks.analysis.columns import columns_in
from evalhooks.report.run_scores import run_findings
from evalhooks.report.scores.comparisons import compared
from evalhooks.report.scores.model_tables import overlap
from evalhooks.report.scores.sections import answers, html, markdown, sections
from evalhooks.report.tables import cell
from tests.evalhooks.report.test_run_scores import model, policy, summary


def scored(number: int, **bon: float) -> dict[str, Any]:
    """A reward model whose RewardBench 1 score is only noise."""
    noise = random.Random(number).random()
    average = {"average": 0.4 + 0.02 * number}
    return model(number, rewardbench1={"overall": 0.7 + 0.1 * noise}, bon_n=16, bon=average | bon)


def study(count: int, **more: Any) -> dict[str, Any]:
    """One task follows RewardBench 2, one RewardBench 1, and one neither."""
    drawn = {k: (random.Random(k).random(), random.Random(k + 100).random()) for k in range(count)}
    models = [scored(k, gsm8k=0.3 + 0.01 * k, quiz=0.5 + 0.2 * own, ifeval=0.5 + 0.2 * other) for k, (own, other) in drawn.items()]
    runs = [policy(f"id{k}", [0.4, 0.45 + 0.01 * k]) for k in range(6)] if count > 5 else []
    return summary(reward_models=models, ppo=runs, policy={"start": {"average": 0.41}}, **more)


def texts(found: dict[str, Any]) -> str:
    return "\n".join([*markdown(found, cell), *answers(found), html(found, {})])


def test_people_read_names_and_points_and_never_keys_or_shares() -> None:
    found = run_findings(study(12))
    assert found is not None
    text = texts(found)
    for key in ("rewardbench2/", "rewardbench1/", "bon/", "on_policy/", "reward\\_std", "~ppo"):
        assert key not in text, key
    for name in ("RewardBench 2 overall ~ best of 16, average", "PPO downstream average", "RewardBench 1 overall", "Math"):
        assert name in text
    assert "| rm11 | 83.0 ± 1.0 | 62.0 |" in text  # 0.5 + 0.03 * 11, its standard error 0.01, and 0.4 + 0.02 * 11
    assert found["models"][0]["scores"]["rewardbench2/overall"] == 0.83  # files keep shares


def test_the_main_result_and_ppo_are_told_in_full_and_the_tasks_in_one_sentence() -> None:
    found = run_findings(study(12))
    assert found is not None
    bon, ppo, tasks, chance = compared(found)
    assert bon.startswith(
        "For best of 16, average: RewardBench 2 overall predicts it better than RewardBench 1 overall (r = 1.000 against "
    )
    assert ppo.startswith("For PPO downstream average: RewardBench 2 overall predicts it better")
    assert tasks == (
        "Of 3 tasks, RewardBench 2 overall predicts 1 better (gsm8k) and RewardBench 1 overall predicts 1 better (quiz); "
        "for 1 it cannot be told (ifeval)."
    )
    assert chance.startswith("5 of these comparisons have a 95% interval; if the benchmarks were all equally good, about 0.25 of")
    [section] = [section for section in sections(found) if section.title == "Which benchmark predicts better?"]
    assert len(section.rows) == 5
    # By either the first costs nothing where it is the best; a random one of 0.4 to 0.62 is 11 points worse than the best.
    assert "a random one 11.0." in bon


def test_of_several_pairs_each_sentence_names_both_benchmarks() -> None:
    benchmarks = ["rewardbench2/overall", "rewardbench1/overall", "rewardbench2/math"]
    found = run_findings(study(12), benchmarks=benchmarks, downstream=["bon/average", "bon/gsm8k", "bon/ifeval"])
    assert found is not None
    said = compared(found)
    assert len(said) == 3 + 3 + 1
    assert "For best of 16, gsm8k: RewardBench 2 overall predicts it better than RewardBench 1 overall" not in " ".join(said)
    assert said[3].startswith("Of 2 tasks, RewardBench 2 overall predicts 1 better than RewardBench 1 overall (gsm8k); for 1")


def test_two_reward_models_get_no_table_of_nothing() -> None:
    found = run_findings(study(2))
    assert found is not None
    text = texts(found)
    assert "There is no correlation: it takes 3 reward models" in text
    assert "Nothing can be told yet: it takes 5 reward models" in text
    assert "a correlation needs 3" not in text
    assert "cannot tell" not in text


def test_a_pick_that_goes_by_the_benchmark_alone_says_in_what_it_expects_to_lose() -> None:
    models = [scored(k) | {"bon": {"average": 0.5} if k == 0 else {}} for k in range(4)]
    found = run_findings(summary(reward_models=models))
    assert found is not None
    [said] = [text for text in answers(found) if text.startswith("Pick by")]
    assert " points in RewardBench 2 overall. Only one of them has a result, too few for a relation, so this goes by" in said


def test_one_reward_model_is_the_only_candidate_and_controls_are_none() -> None:
    for control, words in (
        (False, "best of 16, average: rm0, the only candidate."),
        (True, "none, as no reward model that could be taken"),
    ):
        found = run_findings(summary(reward_models=[scored(0) | {"control": control}]))
        assert found is not None
        assert words in " ".join(answers(found))


def test_scores_in_their_own_unit_are_not_subtracted_from_points() -> None:
    found = run_findings(study(6))
    assert found is not None
    gap = "RewardBench 2 overall is 17.7 points lower than RewardBench 1 overall, on average over the 6 reward models that have both."
    mean = sum(m["scores"]["rewardbench1/overall"] - m["scores"]["rewardbench2/overall"] for m in found["models"]) / 6
    assert gap.replace("17.7", f"{100 * mean:.1f}") in texts(found)
    found["shares"].remove("rewardbench1/overall")
    assert "lower than" not in texts(found)


def test_a_star_marks_the_best_reward_model_and_not_the_start_policy() -> None:
    start = {"average": 0.99}
    found = run_findings(study(6) | {"policy": {"start": start}})
    assert found is not None
    [table] = [section for section in sections(found) if "table 8" in section.title]
    assert table.heads[:4] == ("Reward model", "Group", "RewardBench 2 overall", "best of 16, average")
    [best] = [row for row in table.rows if row[0] == "rm5"]
    [policy_row] = [row for row in table.rows if row[0] == "start policy"]
    assert (best[3], policy_row[3]) == ("50.0 *", "99.0")


def test_examples_of_shared_prompts_stand_apart_from_the_table() -> None:
    examples = [{"benchmark": f"Which {word} is it?\n" * 9, "task": "Which one?"} for word in ("cat", "dog", "emu")]
    entry = {"benchmark": "rb2.jsonl", "task": "quiz", "shared": 3, "equal": 0, "of": 9, "num_task_prompts": 4, "examples": examples}
    section = overlap([entry, entry | {"task": "sums", "shared": 0, "examples": []}])
    assert max(len(text) for row in section.rows for text in row) < 20
    assert [(title, len(lines)) for title, lines in section.asides] == [("Shared with quiz", 3)]
    found = run_findings(study(2))
    assert found is not None
    found["overlap"] = [entry, entry | {"task": "sums", "shared": 0, "examples": []}]
    assert html(found, {}).count("<li>") == 3
    page = "\n".join(markdown(found, cell))
    assert ("cat" in page, "dog" in page) == (True, False)
    assert "Of its 9 prompts rb2.jsonl shares 3 with quiz; none with sums." in answers(found)


def test_numbers_are_aligned_and_sorted_as_numbers_and_words_as_words() -> None:
    found = run_findings(study(6))
    assert found is not None
    page = html(found, {})
    assert '<th class="w" scope="col"><button type="button">Reward model</button></th>' in page
    assert '<th class="n" scope="col"><button type="button">best of 16, average</button></th>' in page
    assert '<td class="n">50.0</td>' in page


def test_the_columns_of_findings_are_read_back_as_they_were() -> None:
    found = run_findings(study(6))
    assert found is not None
    columns = columns_in(found)
    assert (columns.name("ppo"), columns.unit("ppo"), columns.unit("on_policy/reward_std")) == ("PPO downstream average", "points", "")
