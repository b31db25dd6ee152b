"""One batch of PPO: its prompts, its rewards and what is logged of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from ppo.config import KLConfig, KLEstimator, KLPlace, MissingEOS, MissingEOSConfig, ShapingConfig
from ppo.prompts import batch_prompts
from ppo.shaping import Moments, ScoreStatistics
from ppo.train import rewards, shaped
from tests.ppo.episodes import episodes_with
from tests.ppo.runs import PROMPTS, config_of


def test_a_batch_of_prompts_is_a_function_of_seed_and_step() -> None:
    config = config_of(Path("."), batch_size=8)
    assert batch_prompts(PROMPTS, 7, config) == batch_prompts(PROMPTS, 7, config)
    assert batch_prompts(PROMPTS, 7, config) != batch_prompts(PROMPTS, 8, config)
    assert batch_prompts(PROMPTS, 7, config) != batch_prompts(PROMPTS, 7, replace(config, seed=1))


@pytest.mark.parametrize("num_prompts", [3, 8, 10])
def test_every_pass_over_the_prompts_visits_each_of_them_once_and_in_an_order_of_its_own(num_prompts: int) -> None:
    config, prompts = config_of(Path("."), batch_size=8), PROMPTS[:num_prompts]
    # num_prompts batches of 8 hold 8 passes; batches straddle the passes, or hold several of them.
    stream = [prompt for step in range(1, num_prompts + 1) for prompt in batch_prompts(prompts, step, config)]
    passes = [stream[start : start + num_prompts] for start in range(0, len(stream), num_prompts)]
    assert len(passes) == 8
    assert all(set(visited) == set(prompts) for visited in passes)
    assert len(set(map(tuple, passes))) > 1


def test_step_0_measures_the_untrained_policy_on_the_first_batch() -> None:
    config = config_of(Path("."))
    assert batch_prompts(PROMPTS, 0, config) == batch_prompts(PROMPTS, 1, config)


def test_rewards_are_the_shaped_scores_at_the_end_and_the_kl_on_the_way() -> None:
    # Centred on 1 and scaled by 2: (7 - 1) / 2 = 3, (-9 - 1) / 2 = -5 clipped to -4, (3 - 1) / 2 = 1 replaced by -1.5.
    # k1 of a token is 0.3 - 0.1 = 0.2, and the coefficient 0.5 makes it -0.1 a token.
    config = config_of(Path("."), shaping=ShapingConfig(clip=4.0, missing_eos=MissingEOSConfig(how=MissingEOS.replace, value=-1.5)))
    moments = Moments(count=4, mean=1.0, squares=16.0)
    episodes = episodes_with([7.0, -9.0, 3.0], [True, True, False], logprob=0.3, reference=0.1)
    scores_B = shaped(episodes, ScoreStatistics(reference=moments, running=moments), config)
    assert scores_B.tolist() == [3.0, -4.0, -1.5]
    rewards_BT = rewards(episodes, scores_B, 0.5, config)
    assert rewards_BT.flatten().tolist() == pytest.approx([-0.1, 2.9, -4.1, 0.0, -0.1, -1.6], abs=1e-6)
    in_loss = replace(config, kl=KLConfig(place=KLPlace.loss, estimator=KLEstimator.k2))
    assert rewards(episodes, scores_B, 0.5, in_loss).flatten().tolist() == [0.0, 3.0, -4.0, 0.0, 0.0, -1.5]
