"""Shaped scores against numbers derived by hand."""

import random
import statistics as stdlib

import pytest
import torch

from core.config import ModelConfig
from ppo.config import Center, MissingEOS, MissingEOSConfig, OverlongConfig, PPOConfig, Scale, ShapingConfig
from ppo.shaping import Moments, ScoreStatistics, overlong_penalty, shaped_scores, value_scale

# Mean 1 and deviation 2 (squares 4 * 4 / 4) of the reference; 3 and 1 (squares 8 / 8) of all episodes.
STATISTICS = ScoreStatistics(reference=Moments(count=4, mean=1.0, squares=16.0), running=Moments(count=8, mean=3.0, squares=8.0))


def shaped(
    config: ShapingConfig, scores: list[float], *, finished: list[bool] | None = None, lengths: list[int] | None = None
) -> list[float]:
    """Of completions that all ended, after 1 token of at most 10, unless told otherwise."""
    return shaped_scores(
        torch.tensor(scores, dtype=torch.float64),
        finished_B=torch.tensor(finished or [True] * len(scores)),
        lengths_B=torch.tensor(lengths or [1] * len(scores)),
        max_length=10,
        config=config,
        statistics=STATISTICS,
    ).tolist()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # Of the scores 7 and -9:
        (ShapingConfig(clip=None), [3.0, -5.0]),  # (7 - 1) / 2, (-9 - 1) / 2
        (ShapingConfig(clip=4.0), [3.0, -4.0]),
        (ShapingConfig(clip=None, center=Center.none), [3.5, -4.5]),
        (ShapingConfig(clip=None, center=Center.running), [2.0, -6.0]),  # (7 - 3) / 2, (-9 - 3) / 2
        (ShapingConfig(clip=None, scale=Scale.running), [6.0, -10.0]),
        (ShapingConfig(clip=None, scale=Scale.fixed, std=4.0), [1.5, -2.5]),
        (ShapingConfig(clip=None, center=Center.none, scale=Scale.fixed, std=1.0), [7.0, -9.0]),
    ],
)
def test_scores_are_centred_then_scaled_then_clipped(config: ShapingConfig, expected: list[float]) -> None:
    assert shaped(config, [7.0, -9.0]) == expected


@pytest.mark.parametrize(
    ("missing_eos", "expected"),
    [
        # (7 - 1) / 2 = 3 clipped to 2, (3 - 1) / 2 = 1; the second and the third were cut.
        (MissingEOSConfig(), [2.0, 2.0, 1.0]),
        (MissingEOSConfig(how=MissingEOS.replace, value=-3.0), [2.0, -3.0, -3.0]),
        (MissingEOSConfig(how=MissingEOS.subtract, value=3.0), [2.0, -1.0, -2.0]),
    ],
)
def test_the_score_of_a_cut_completion_is_kept_replaced_or_lowered_after_the_clip(
    missing_eos: MissingEOSConfig, expected: list[float]
) -> None:
    assert shaped(ShapingConfig(clip=2.0, missing_eos=missing_eos), [7.0, 7.0, 3.0], finished=[True, False, False]) == expected


def test_the_overlong_penalty_grows_over_the_last_tokens_before_the_limit() -> None:
    # Limit 10, buffer 4: none up to 6 tokens, then 1/4 a token, and all of it at 10; times 2.
    lengths_B = torch.arange(1.0, 11.0)
    penalty_B = overlong_penalty(lengths_B, 10, OverlongConfig(buffer=4, penalty=2.0))
    assert penalty_B.tolist() == [0.0] * 6 + [0.5, 1.0, 1.5, 2.0]
    assert overlong_penalty(lengths_B, 10, OverlongConfig()).tolist() == [0.0] * 10


def test_the_overlong_penalty_comes_last_and_on_top_of_that_for_a_missing_end() -> None:
    config = ShapingConfig(clip=2.0, missing_eos=MissingEOSConfig(how=MissingEOS.replace, value=-3.0), overlong=OverlongConfig(buffer=4))
    # 3 clipped to 2, less 2/4 at 8 tokens; replaced by -3, less 1 at the limit.
    assert shaped(config, [7.0, 7.0], finished=[True, False], lengths=[8, 10]) == [1.5, -4.0]


def test_moments_seen_in_batches_are_those_of_all_scores_at_once() -> None:
    draw = random.Random(0)
    scores = [draw.gauss(1e6, 2.0) for _ in range(1000)]  # a mean far above the deviation would hide it in naive sums
    moments = Moments()
    for start in range(0, 1000, 40):
        moments = moments.seen(scores[start : start + 40])
    assert moments.count == 1000
    assert moments.mean == pytest.approx(stdlib.fmean(scores), abs=1e-6)
    assert moments.std == pytest.approx(stdlib.pstdev(scores), abs=1e-6)


def test_the_reference_stays_while_the_running_statistics_move() -> None:
    # 2, 4, 4, 6: mean 4, variance (4 + 0 + 0 + 4) / 4 = 2; with 4, 16: mean 6, squares 8 + 0 + (16 - 4)^2 * 5 / 6 = 128.
    began = ScoreStatistics.of_reference(torch.tensor([2.0, 4.0, 4.0, 6.0]))
    assert (began.reference.mean, began.reference.std) == (4.0, pytest.approx(2**0.5))
    later = began.seen(torch.tensor([4.0, 16.0]))
    assert later.reference == began.reference
    assert (later.running.count, later.running.mean, later.running.squares) == (6, pytest.approx(6.0), pytest.approx(128.0))


def test_scores_that_are_all_equal_are_not_divided_by_zero() -> None:
    assert ScoreStatistics.of_reference(torch.tensor([4.0, 4.0])).reference.std == 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"center": "mean"}, "shaping.center is 'mean'; choose reference, running or none"),
        ({"scale": "none"}, "shaping.scale is 'none'; choose reference, running or fixed"),
        ({"scale": "fixed"}, "shaping.scale=fixed with shaping.std=None: set both"),
        ({"std": 2.0}, "shaping.scale=reference with shaping.std=2.0: set both"),
        ({"clip": 0.0}, "shaping.clip is 0.0; it must be above 0"),
    ],
)
def test_shaping_that_cannot_be_is_refused_by_its_key(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapingConfig(**options)  # pyright: ignore[reportArgumentType]


def test_a_missing_end_needs_a_value_where_it_changes_the_score() -> None:
    with pytest.raises(ValueError, match=r"missing_eos.value is empty; shaping.missing_eos.how=replace needs a number, such as -3.0"):
        MissingEOSConfig(how=MissingEOS.replace)
    with pytest.raises(ValueError, match=r"shaping.missing_eos.value=-3.0 has no effect"):
        MissingEOSConfig(value=-3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dual_clip": 1.0}, "dual_clip is 1.0; .* must be above 1"),
        ({"value_warmup": -1}, "value_warmup is -1; it must be 0 or above"),
        ({"value_warmup": 100}, "value_warmup=100 leaves no batch for the policy; choose one below num_batches=100"),
        ({"entropy_coef": -0.1}, "entropy_coef is -0.1; it must be 0 or above"),
        ({"importance_cap": 0.0}, "importance_cap is 0.0; it must be above 0"),
        ({"stop_after_falls": 0}, "stop_after_falls is 0; it must be above 0"),
        ({"lam": 1.5}, "lam is 1.5; it is a share from 0 to 1"),
        (
            {"shaping": ShapingConfig(overlong=OverlongConfig(buffer=1024))},
            "shaping.overlong.buffer=1024 leaves no length without a penalty",
        ),
    ],
)
def test_a_setting_of_ppo_that_cannot_be_is_refused_by_its_key(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOConfig(model=ModelConfig(path="."), prompts=["."], **options)  # pyright: ignore[reportArgumentType]


def test_a_critic_from_a_reward_model_begins_in_units_of_the_shaped_score() -> None:
    # Raw scores 1, 3: mean 2, std 1. The reward model's term has mean 0.5 and weighs 4 in them.
    statistics = ScoreStatistics.of_reference(torch.tensor([1.0, 3.0]))
    scale = value_scale(statistics, ShapingConfig(), mean=0.5, weight=4.0)
    # Its mean reward stands for the mean score, which is shaped to 0: 4 * 0.5 - 2 = 0.
    assert scale == (4.0, -2.0)
    # Not centred and divided by 8: its mean reward stands for 2 / 8 = 0.25 = 0.5 * 0.5 + 0.
    assert value_scale(statistics, ShapingConfig(center=Center.none, scale=Scale.fixed, std=8.0), mean=0.5, weight=4.0) == (0.5, 0.0)


def test_the_units_of_the_critic_are_those_of_the_shaped_score_of_a_lone_reward_model() -> None:
    scores_B = torch.tensor([-4.0, 1.0, 2.0, 5.0])
    statistics = ScoreStatistics.of_reference(scores_B)
    scale, shift = value_scale(statistics, ShapingConfig(), mean=scores_B.mean().item(), weight=1.0)
    still = {"finished_B": torch.ones(4, dtype=torch.bool), "lengths_B": torch.ones(4), "max_length": 9}
    shaped_B = shaped_scores(scores_B, config=ShapingConfig(), statistics=statistics, **still)
    torch.testing.assert_close(scale * scores_B + shift, shaped_B)
