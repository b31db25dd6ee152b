"""The update: a gradient step on token means, however the minibatch is split and padded."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from core.config import Dtype, ModelConfig, OptimConfig, Schedule
from core.generators.local import TransformersGenerator
from core.records import Sampling, user
from core.scorers.weighted import WeightedScorer
from ppo.advantages import Advantages, gae
from ppo.config import KLConfig, KLEstimator, KLPlace, PPOConfig
from ppo.guards import DivergenceError
from ppo.model import ActorCritic, actor_critic
from ppo.rollout import Episodes, rollout
from ppo.update import minibatches, update
from tests.core.generators.test_half import Casts
from tests.fakes import LengthScorer
from tests.ppo.engines import ALONE, engine_of, trained

PROMPTS = [user("Name " + "a " * number + "fruit.") for number in range(8)]
TEMPERATURE = 0.9


def config_of(**options: Any) -> PPOConfig:
    """Eight episodes in one step; plain gradients, since Adam and norm clipping would hide a wrong scale."""
    config = PPOConfig(
        model=ModelConfig(path="."),
        prompts=["."],
        optim=OptimConfig(max_grad_norm=1e9, schedule=Schedule.constant),
        batch_size=8,
        minibatch_size=8,
        micro_batch_size=8,
        epochs=1,
    )
    return replace(config, **options)


@pytest.fixture
def model(policy: LlamaForCausalLM, reward_model: LlamaForSequenceClassification) -> ActorCritic:
    return actor_critic(copy.deepcopy(policy), reward_model, temperature=TEMPERATURE)


@pytest.fixture
def episodes(model: ActorCritic, tokenizer: PreTrainedTokenizerFast) -> Episodes:
    """Eight episodes of various lengths, drawn by the policy itself."""
    drawn = rollout(
        PROMPTS,
        world=ALONE,
        generator=TransformersGenerator(model.actor, tokenizer),
        scorer=WeightedScorer.of(LengthScorer()),
        networks=model,
        tokenizer=tokenizer,
        sampling=Sampling(temperature=TEMPERATURE, max_new_tokens=12, seed=5),
        micro_batch_size=8,
    )
    assert len(set(drawn.mask_BT.sum(-1).tolist())) > 2, "episodes of one length would hide a mean of means"
    return drawn


def advantages_of(episodes: Episodes) -> Advantages:
    rewards_BT = torch.randn(episodes.mask_BT.shape, generator=torch.Generator().manual_seed(0))
    return gae(rewards_BT, episodes.values_BT, episodes.mask_BT, gamma=1.0, lam=0.95)


def updated(
    model: ActorCritic,
    config: PPOConfig,
    episodes: Episodes,
    advantages: Advantages,
    *,
    lr: float = 0.05,
    step: int = 1,
    kl_coef: float = 0.0,
) -> tuple[ActorCritic, dict[str, float]]:
    """A copy of the model after one update by gradient descent."""
    model = copy.deepcopy(model)
    engine = engine_of(model, lr=lr, optim=config.optim)
    return model, update(engine, ALONE, config, episodes, advantages, step=step, kl_coef=kl_coef)


def distance(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    """The largest difference of two sets of parameters."""
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


def test_the_first_ratios_are_one_within_rounding(model: ActorCritic, episodes: Episodes) -> None:
    _, measured = updated(model, config_of(), episodes, advantages_of(episodes))
    assert measured["first_ratio_error"] < 1e-6
    assert measured["clip_fraction"] == 0
    assert measured["approx_kl"] == pytest.approx(0, abs=1e-6)
    # Later epochs move the ratios, and the first ones are still those of the first step.
    _, measured = updated(model, config_of(epochs=3), episodes, advantages_of(episodes))
    assert measured["first_ratio_error"] < 1e-6
    assert measured["approx_kl"] > 1e-4


def test_two_epochs_are_two_steps_each_with_a_gradient_of_its_own(model: ActorCritic, episodes: Episodes) -> None:
    advantages = advantages_of(episodes)
    together, _ = updated(model, config_of(epochs=2), episodes, advantages, lr=0.02)
    once, _ = updated(model, config_of(), episodes, advantages, lr=0.02)
    twice, _ = updated(once, config_of(), episodes, advantages, lr=0.02)
    assert distance(together.parameters(), twice.parameters()) < 1e-6
    assert distance(once.parameters(), twice.parameters()) > 1e-3


def test_a_policy_off_the_one_that_drew_shows_as_a_first_ratio_error(model: ActorCritic, episodes: Episodes) -> None:
    # Each log-probability is 0.01 too high, so each ratio is exp(0.01) = 1.01005; k3 of 0.01 is 0.00005017 a token.
    drifted = replace(episodes, logprobs_BT=episodes.logprobs_BT - 0.01)
    _, measured = updated(model, config_of(), drifted, advantages_of(episodes))
    assert measured["first_ratio_error"] == pytest.approx(0.01005, abs=1e-5)
    assert measured["approx_kl"] == pytest.approx(0.00005017, abs=1e-6)


def test_the_step_is_that_of_the_plain_policy_gradient_and_half_squared_error_as_token_means(
    model: ActorCritic, episodes: Episodes
) -> None:
    advantages = advantages_of(episodes)
    stepped, measured = updated(model, config_of(value_coef=0.3), episodes, advantages, lr=0.05)
    # At a ratio of 1 nothing is clipped, and the gradient of -A r is that of -A log p; values equal the old ones.
    logprobs_BT, entropy_BT, values_BT, _ = model(episodes.ids_BL, episodes.mask_BL, episodes.num_tokens)
    inside = episodes.mask_BT.bool()
    value = 0.5 * (values_BT[inside] - advantages.returns_BT[inside]).square().mean()
    surrogate = -(advantages.advantages_BT[inside] * logprobs_BT[inside]).mean()
    (surrogate + 0.3 * value).backward()
    expected = [parameter - 0.05 * gradient for parameter in trained(model) if (gradient := parameter.grad) is not None]
    assert len(expected) == len(trained(model))
    assert distance(trained(stepped), expected) < 1e-6
    assert distance(stepped.parameters(), model.parameters()) > 1e-3
    assert measured["loss/policy"] == pytest.approx(-advantages.advantages_BT[inside].mean().item(), abs=1e-5)
    assert measured["loss/value"] == pytest.approx(value.item(), abs=1e-5)
    assert measured["entropy"] == pytest.approx(entropy_BT[inside].mean().item(), abs=1e-5)
    squares = sum(gradient.square().sum().item() for p in model.parameters() if (gradient := p.grad) is not None)
    assert measured["grad_norm"] == pytest.approx(squares**0.5, rel=1e-4)


def test_eight_micro_batches_of_one_give_the_parameters_of_one_of_eight(model: ActorCritic, episodes: Episodes) -> None:
    advantages = advantages_of(episodes)
    results = [
        updated(model, config_of(micro_batch_size=size, epochs=2, minibatch_size=8), episodes, advantages, lr=0.02) for size in (8, 4, 1)
    ]
    for (first, first_measured), (second, second_measured) in pairwise(results):
        assert distance(first.parameters(), second.parameters()) < 1e-6
        assert first_measured == pytest.approx(second_measured, abs=1e-4, rel=1e-4)
    assert distance(results[0][0].parameters(), model.parameters()) > 1e-3


def with_every_term(episodes: Episodes) -> Episodes:
    """Episodes from an engine of log-probabilities of its own, off a reference that is not the policy."""
    draw = torch.Generator().manual_seed(8)
    shifts = [0.3 * torch.randn(episodes.mask_BT.shape, generator=draw) for _ in range(2)]
    return replace(episodes, reference_BT=episodes.reference_BT + shifts[0], engine_logprobs_BT=episodes.logprobs_BT + shifts[1])


EVERY_TERM: dict[str, Any] = {
    "kl": KLConfig(place=KLPlace.loss, estimator=KLEstimator.k3),
    "entropy_coef": 0.05,
    "importance_cap": 1.1,
    "dual_clip": 3.0,
}


def test_the_step_with_every_term_is_that_of_their_token_means(model: ActorCritic, episodes: Episodes) -> None:
    episodes, advantages = with_every_term(episodes), advantages_of(episodes)
    config = config_of(**EVERY_TERM, value_coef=0.3)
    stepped, measured = updated(model, config, episodes, advantages, lr=0.05, kl_coef=0.7)
    inside, (ids_BL, mask_BL, num_tokens) = episodes.mask_BT.bool(), (episodes.ids_BL, episodes.mask_BL, episodes.num_tokens)
    logprobs_BT, _, values_BT, _ = model(ids_BL, mask_BL, num_tokens)
    # The entropy from the logits of the whole sequence, without the function under test.
    positions = (mask_BL.cumsum(-1) - 1).clamp(min=0)
    logits_BLV = model.actor(input_ids=ids_BL, attention_mask=mask_BL, position_ids=positions).logits / TEMPERATURE
    entropy_BL = torch.distributions.Categorical(logits=logits_BLV).entropy()
    assert episodes.engine_logprobs_BT is not None
    weights_N = (episodes.logprobs_BT - episodes.engine_logprobs_BT)[inside].exp().clamp(max=1.1)
    ratio_N = episodes.reference_BT[inside] - logprobs_BT[inside]
    loss = (
        -(weights_N * advantages.advantages_BT[inside] * logprobs_BT[inside]).mean()
        + 0.7 * (ratio_N.exp() - 1 - ratio_N).mean()
        - 0.05 * entropy_BL[:, -num_tokens - 1 : -1][inside].mean()
        + 0.3 * 0.5 * (values_BT[inside] - advantages.returns_BT[inside]).square().mean()
    )
    loss.backward()
    expected = [parameter - 0.05 * gradient for parameter in trained(model) if (gradient := parameter.grad) is not None]
    assert len(expected) == len(trained(model))
    assert distance(trained(stepped), expected) < 1e-6
    assert measured["loss/kl"] == pytest.approx((ratio_N.exp() - 1 - ratio_N).mean().item(), abs=1e-5)
    assert measured["importance_weight"] == pytest.approx(weights_N.mean().item(), abs=1e-5)


def test_every_term_is_the_same_under_any_split_into_micro_batches(model: ActorCritic, episodes: Episodes) -> None:
    episodes, advantages = with_every_term(episodes), advantages_of(episodes)
    results = [
        updated(model, config_of(**EVERY_TERM, micro_batch_size=size, epochs=2), episodes, advantages, lr=0.02, kl_coef=0.7)
        for size in (8, 4, 1)
    ]
    for (first, first_measured), (second, second_measured) in pairwise(results):
        assert distance(first.parameters(), second.parameters()) < 1e-6
        assert first_measured == pytest.approx(second_measured, abs=1e-4, rel=1e-4)
    for off in ({"kl": KLConfig()}, {"entropy_coef": 0.0}, {"importance_cap": None}):
        other, _ = updated(model, config_of(**EVERY_TERM | off, epochs=2), episodes, advantages, lr=0.02, kl_coef=0.7)
        assert distance(results[0][0].parameters(), other.parameters()) > 1e-5, off


def test_the_entropy_bonus_raises_the_entropy(model: ActorCritic, episodes: Episodes) -> None:
    advantages = advantages_of(episodes)
    still = replace(advantages, advantages_BT=torch.zeros_like(advantages.advantages_BT))
    stepped, before = updated(model, config_of(entropy_coef=1.0), episodes, still, lr=0.05)
    _, after = updated(stepped, config_of(), episodes, still)
    assert after["entropy"] > before["entropy"] + 0.01


def test_the_value_warm_up_trains_the_critic_alone(model: ActorCritic, episodes: Episodes) -> None:
    episodes, advantages = with_every_term(episodes), advantages_of(episodes)
    config = config_of(**EVERY_TERM, value_warmup=3)
    warmed = copy.deepcopy(model)
    # A large weight decay would show on weights without a gradient of their own.
    engine = engine_of(warmed, lr=0.01, optim=config.optim, optimizer=torch.optim.AdamW, weight_decay=0.5)
    moved: list[bool] = []
    for step in (1, 2, 3, 4, 1):  # at last a warm-up beside moments and gradients of a step before
        before = copy.deepcopy(warmed)
        update(engine, ALONE, config, episodes, advantages, step=step, kl_coef=0.7)
        moved.append(distance(warmed.actor.parameters(), before.actor.parameters()) > 0)
        assert distance(warmed.critic_body.parameters(), before.critic_body.parameters()) > 1e-3
    assert moved == [False, False, False, True, False]


@pytest.mark.parametrize("where", ["advantages_BT", "returns_BT"])
def test_an_update_that_is_not_finite_ends_before_it_reaches_the_weights(model: ActorCritic, episodes: Episodes, where: str) -> None:
    advantages = advantages_of(episodes)
    broken = getattr(advantages, where).clone()
    broken[3, 0] = float("nan")
    stepped, config = copy.deepcopy(model), config_of()
    with pytest.raises(DivergenceError, match="the loss is nan"):
        update(
            engine_of(stepped, lr=1.0, optim=config.optim),
            ALONE,
            config,
            episodes,
            replace(advantages, **{where: broken}),
            step=1,
            kl_coef=0.0,
        )
    assert all(torch.equal(a, b) for a, b in zip(stepped.parameters(), model.parameters(), strict=True))


def test_padding_at_either_end_changes_nothing(model: ActorCritic, episodes: Episodes) -> None:
    def widened(tensor_BT: Tensor, *, left: int = 0, value: float = 0) -> Tensor:
        return torch.nn.functional.pad(tensor_BT, (left, 2), value=value)

    wide = replace(
        episodes,
        ids_BL=widened(episodes.ids_BL, left=3),
        mask_BL=widened(episodes.mask_BL, left=3),
        mask_BT=widened(episodes.mask_BT),
        logprobs_BT=widened(episodes.logprobs_BT, value=-7.0),
        reference_BT=widened(episodes.reference_BT, value=-9.0),
        values_BT=widened(episodes.values_BT, value=50.0),
        engine_logprobs_BT=None if episodes.engine_logprobs_BT is None else widened(episodes.engine_logprobs_BT, value=3.0),
    )
    plain, measured = updated(model, config_of(epochs=2), episodes, advantages_of(episodes), lr=0.02)
    advantages = advantages_of(episodes)
    wide_advantages = Advantages(
        advantages_BT=widened(advantages.advantages_BT, value=4.0), returns_BT=widened(advantages.returns_BT, value=-4.0)
    )
    padded, wide_measured = updated(model, config_of(epochs=2), wide, wide_advantages, lr=0.02)
    assert distance(plain.parameters(), padded.parameters()) < 1e-6
    assert wide_measured == pytest.approx(measured, abs=1e-4, rel=1e-4)


def test_the_gradient_is_clipped_to_its_norm(model: ActorCritic, episodes: Episodes) -> None:
    config = replace(config_of(), optim=OptimConfig(max_grad_norm=0.5, schedule=Schedule.constant))
    stepped, measured = updated(model, config, episodes, advantages_of(episodes), lr=1.0)
    assert measured["grad_norm"] > 0.5  # the norm before clipping
    step = sum((a - b).square().sum().item() for a, b in zip(stepped.parameters(), model.parameters(), strict=True)) ** 0.5
    assert step == pytest.approx(0.5, abs=1e-4)


def test_every_epoch_visits_every_episode_once_in_an_order_of_its_own() -> None:
    config = config_of(epochs=3, minibatch_size=4, micro_batch_size=4)
    drawn = [rows.tolist() for rows in minibatches(8, config, seed=1)]
    assert [len(rows) for rows in drawn] == [4] * 6
    passes = [drawn[i] + drawn[i + 1] for i in (0, 2, 4)]
    assert all(sorted(order) == list(range(8)) for order in passes)
    assert len({tuple(order) for order in passes}) == 3
    assert drawn == [rows.tolist() for rows in minibatches(8, config, seed=1)]
    assert drawn != [rows.tolist() for rows in minibatches(8, config, seed=2)]


def test_every_minibatch_is_one_step_of_optimiser_and_schedule(model: ActorCritic, episodes: Episodes) -> None:
    config = config_of(epochs=3, minibatch_size=4, micro_batch_size=2, num_batches=2, optim=OptimConfig(schedule=Schedule.linear))
    engine, rates = engine_of(model, lr=1e-9, optim=config.optim), list[float]()
    engine.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    update(engine, ALONE, config, episodes, advantages_of(episodes), step=2, kl_coef=0.0)
    # 3 epochs of 8 / 4 minibatches: 6 steps a batch, 12 in all. The second batch has the last six, which fall to 1/12.
    assert rates == pytest.approx([1e-9 * left / 12 for left in (6, 5, 4, 3, 2, 1)])


def test_under_autocast_weights_are_cast_once_a_step_however_many_micro_batches_it_has(model: ActorCritic, episodes: Episodes) -> None:
    def stepped(micro_batch_size: int) -> tuple[ActorCritic, dict[tuple[int, ...], int]]:
        config, own = config_of(micro_batch_size=micro_batch_size), copy.deepcopy(model)
        engine = engine_of(own, lr=0.05, optim=config.optim)
        engine.dtype = Dtype.bf16
        with Casts(large=1) as casts:
            update(engine, ALONE, config, episodes, advantages_of(episodes), step=1, kl_coef=0.0)
        return own, {shape: count for shape, count in casts.shapes.items() if len(shape) == 2}  # activations have more dimensions

    (whole, once), (parts, again) = stepped(8), stepped(2)
    assert sum(once.values()) >= 2 * 7, "of actor and critic, seven matrices a layer"
    assert again == once
    moved = distance(whole.parameters(), model.parameters())
    assert distance(whole.parameters(), parts.parameters()) < 0.05 * moved, "each micro batch has a gradient of its own"
