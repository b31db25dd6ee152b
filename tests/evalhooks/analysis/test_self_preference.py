"""Self-preference: ranks by hand, a planted preference, and tables that cannot be ranked."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from evalhooks.analysis.self_preference import Judgement, read_judgements, self_preference
from evalhooks.report.scores.preference import write_preference


def judgement(rm: str, base: str, prompt: str, model: str, score: float, data: str = "") -> Judgement:
    return Judgement(prompt=prompt, model=model, rm=rm, base=base, data=data, score=score)


def planted(shift: float, *, num_rms: int = 6, num_prompts: int = 40, seed: int = 0) -> list[Judgement]:
    rng = np.random.default_rng(seed)
    quality = {"a": 0.0, "b": 1.0, "c": 2.0}
    return [
        judgement(f"{base}{k}", base, str(prompt), model, 10 * (value + shift * (model == base) + rng.normal()), data=("x", "y")[k % 2])
        for base in "ab"
        for k in range(num_rms)
        for prompt in range(num_prompts)
        for model, value in quality.items()
    ]


def test_inverse_ranks_by_hand_whatever_the_scale_of_the_rewards() -> None:
    # Prompt 1: a first, b second (1, 1/2). Prompt 2: b first, a second. Prompt 3: equal, so both share rank 1.5 (2/3 each).
    rows = [("1", "a", 5.0), ("1", "b", 1.0), ("2", "a", -3.0), ("2", "b", 900.0), ("3", "a", 0.0), ("3", "b", 0.0)]
    found = self_preference([judgement("rm", "a", *row) for row in rows])
    assert {cell["model"]: cell["inverse_rank"] for cell in found["cells"]} == pytest.approx({"a": 13 / 18, "b": 13 / 18})
    assert [cell["mean_rank"] for cell in found["cells"]] == pytest.approx([1.5, 1.5])
    assert (found["num_prompts"], found["cells"][0]["sd"], found["preferences"]) == (3, None, [])


def test_a_planted_preference_is_found_and_none_is_not_however_good_the_completions_are() -> None:
    for entry in self_preference(planted(1.0))["preferences"]:
        assert entry["difference"] > 0.05
        assert entry["p_value"] < 0.01
        assert "prefer its completions" in entry["answer"]
    told = [entry["p_value"] < 0.05 for seed in range(12) for entry in self_preference(planted(0.0, seed=seed))["preferences"]]
    assert sum(told) <= 4  # of 24 at 5%: 1.2 expected


def test_a_p_value_is_never_below_that_of_the_order_seen_among_all_that_were_tried() -> None:
    # Of the 2.7 million ways to choose 12 of 24 two are as far out, and none of the 9,999 that are drawn.
    first, _ = self_preference(planted(3.0, num_rms=12))["preferences"]
    assert first["p_value"] == 1 / 10_000


def test_too_few_reward_models_to_tell_are_said_to_be_and_one_alone_has_no_whisker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 2 of 5 can be chosen in 10 ways, so no p-value is below 0.1; 3 of 6 in 20, of which the outermost and its mirror image have 0.1.
    few = [row for row in planted(3.0, num_rms=3) if row.rm != "b2"]
    for rows in (few, planted(3.0, num_rms=3)):
        first, _ = self_preference(rows)["preferences"]
        assert first["p_value"] > 0.05
        assert first["answer"].endswith("With so few reward models no difference could be told from chance.")
    assert "so few" not in self_preference(planted(1.0))["preferences"][0]["answer"]
    drawn: list[list[float]] = []
    monkeypatch.setattr(Axes, "errorbar", lambda axes, places, heights, *, yerr, **more: drawn.append(yerr))
    write_preference(self_preference([row for row in few if row.rm not in ("b0", "b2")]), tmp_path)
    assert [bool(np.isnan(errors).all()) for errors in drawn[:2]] == [False, True]


def test_cells_stand_for_each_base_and_for_each_base_and_preference_data(tmp_path: Path) -> None:
    found = self_preference(planted(1.0, num_rms=4, num_prompts=5))
    cells = {(cell["base"], cell["data"], cell["model"]): cell["num_rms"] for cell in found["cells"]}
    assert cells["a", "", "c"] == 4
    assert cells["b", "y", "a"] == 2
    assert len(cells) == 2 * 3 + 4 * 3
    [picture] = write_preference(found, tmp_path)
    assert picture.stat().st_size > 0


def test_prompts_that_not_all_have_scored_are_counted_out() -> None:
    rows = planted(0.0, num_rms=2, num_prompts=4)
    found = self_preference([row for row in rows if not (row.rm == "a0" and row.prompt == "3" and row.model == "c")])
    assert (found["num_prompts"], found["left_out"]) == (3, 1)
    with pytest.raises(ValueError, match="nothing to rank: 1 completion models"):
        self_preference([row for row in rows if row.model == "a"])
    with pytest.raises(ValueError, match="a reward model has one of each"):
        self_preference([*rows, judgement("a0", "b", "9", "a", 1.0)])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,a,rm,,0.5", "row 2 has no base"),
        ("1,a,rm,a,good", "row 2: score is 'good', which is no number"),
        ("1,a,rm,a,nan", "row 2: score is 'nan'; it must be a finite number"),
        ("1,b,rm,a,2", "row 2 is rm on b's completion of prompt 1 again"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(tmp_path: Path, row: str, message: str) -> None:
    file = tmp_path / "judged.csv"
    file.write_text(f"prompt,model,rm,base,score\n1,b,rm,a,1\n{row}\n")
    with pytest.raises(ValueError, match=message):
        read_judgements(str(file))
