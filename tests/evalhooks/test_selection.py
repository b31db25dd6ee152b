"""The bias panel over pools and over a policy's outputs, the answers that completions vote with, and the pictures."""

import math
import random
from pathlib import Path

import pytest

from bon.rows import PoolRow
from bon.selection import select
from core.records import user
from evalhooks.selection.answers import answer_of
from evalhooks.selection.biases import PoolFeatures, bias_metrics, paid_for, panels_of, style_of
from evalhooks.selection.pictures import draw_biases, draw_curves, draw_table

TEXTS = (
    "Nine.",
    "Nine eggs it is.",
    "You're right, nine.",
    "- nine\n- eggs",
    "Ten.",
    "Ten eggs it is.",
    "You're right, ten.",
    "- ten\n- eggs",
)


def rows(num: int, *, models: bool = False) -> list[PoolRow]:
    correct = tuple(float("ine" in text) for text in TEXTS)
    return [
        PoolRow(
            id=str(i),
            prompt=user("How many?"),
            completions=TEXTS,
            correct=correct,
            models=tuple("org/Tulu-3-8B-SFT" if is_own(i, place) else "other" for place in range(len(TEXTS))) if models else (),
        )
        for i in range(num)
    ]


def is_own(row: int, place: int) -> bool:
    """Whether a completion is of the family; so that no text always is."""
    return (row + place) % 2 == 0


def test_a_panel_is_over_all_tasks_each_in_its_own_scale() -> None:
    draw = random.Random(0)
    pools = {"a": rows(30), "b": rows(30)}
    # Pays for agreement, in one task in hundreds.
    scores = {
        task: [[scale * (("right" in text) + draw.gauss(0, 0.3)) for text in TEXTS] for _ in own]
        for (task, own), scale in zip(pools.items(), (1.0, 300.0), strict=True)
    }
    panel = panels_of(pools, {"rm": scores}, {"rm": ""})["rm"]
    assert (panel.num_prompts, panel.knows_correct) == (60, True)
    assert [bias.feature for bias in panel.biases if bias.is_found] == ["agreement"]
    assert set(panel.constant) == {"markdown", "refusal", "hedging", "repetition", "language_switch"}
    assert bias_metrics({"rm": panel})["bias/rm/agreement"] > 0.8


def test_what_a_reward_pays_for_has_a_standard_error_and_is_not_said_of_a_handful_of_prompts() -> None:
    draw = random.Random(0)
    scores = [[("right" in text) + draw.gauss(0, 0.3) for text in TEXTS] for _ in range(40)]
    found = paid_for(PoolFeatures({"a": rows(40)}), {"a": scores})
    (bias,) = [bias for bias in panels_of({"a": rows(40)}, {"rm": {"a": scores}}, {})["rm"].biases if bias.feature == "agreement"]
    assert found["bias/agreement"] == bias.given_correct
    assert found["bias_se/agreement"] == pytest.approx((bias.high - bias.low) / 3.92, rel=1e-3)
    assert 0 < found["bias_se/agreement"] < 0.05
    assert paid_for(PoolFeatures({"a": rows(9)}), {"a": scores[:9]}) == {}


def test_text_of_the_rewards_own_family_is_a_feature_where_pools_name_their_models() -> None:
    draw = random.Random(1)
    scores = {"a": [[is_own(i, place) + draw.gauss(0, 0.5) for place in range(len(TEXTS))] for i in range(40)]}
    known = panels_of({"a": rows(40, models=True)}, {"rm": scores}, {"rm": "tulu-3-8b"})["rm"]
    assert "own_lineage" in [bias.feature for bias in known.biases if bias.is_found]
    for pools, family in (({"a": rows(40)}, "tulu-3-8b"), ({"a": rows(40, models=True)}, "")):
        unknown = panels_of(pools, {"rm": scores}, {"rm": family})["rm"]
        assert "own_lineage" not in {bias.feature for bias in unknown.biases} | set(unknown.constant)


def test_a_policys_style_is_the_mean_of_its_answers_and_its_bias_what_the_reward_pays_for() -> None:
    prompts = [user("How many?")] * 2
    answers = [["You're right!", "Nine."], ["You're right!", "Ten."]]
    found = style_of(prompts, answers, [[2.0, 1.0], [3.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])
    assert found["style/agreement"] == pytest.approx(math.log(2) / 2)
    assert found["bias/agreement"] == pytest.approx(3 / math.sqrt(10))  # differences 1 and 2 against 1 and 1
    assert not any(name.startswith("bias/") for name in style_of(prompts, answers, [], [[0.0, 0.0], [0.0, 0.0]]))
    assert not any(
        name.startswith("bias/") for name in style_of(prompts, [["a"], ["b"]], [[1.0], [2.0]], [[0.0], [1.0]])
    )  # one answer each
    assert style_of([], [], [], []) == {}


@pytest.mark.parametrize(
    ("text", "answer"), [("So 3 + 4 = 7 eggs.\n#### 7", "7"), ("She has $1,200.00", "1200"), (" The  Duck\n", "the duck"), ("", "")]
)
def test_a_completion_votes_with_its_final_number_or_its_text(text: str, answer: str) -> None:
    assert answer_of(text) == answer


def test_pictures_are_drawn_of_one_task_and_of_many(tmp_path: Path) -> None:
    own = [[float(len(text)) for text in TEXTS]] * 3
    found = select(rows(3), {"rm": own, "ensemble-mean": own}, answer_of)
    for num in (1, 2, 14):
        draw_curves(tmp_path / f"{num}.png", {f"task $x_{i}$": found for i in range(num)}, title="best of n from a_b")
        draw_table(tmp_path / f"{num}-table.png", {f"task-{i}": found for i in range(num)}, n=8)
    draw_biases(tmp_path / "bias.png", panels_of({"a": rows(5)}, {"rm": {"a": own + own[:2]}}, {}))
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.iterdir())
    with pytest.raises(ValueError, match="no task whose correctness is known"):
        draw_curves(tmp_path / "none.png", {}, title="")
