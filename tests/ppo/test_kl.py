"""KL estimators and their gradients over whole vocabularies, and the adaptive coefficient of Ziegler et al."""

import math

import pytest
import torch
from torch import Tensor

from ppo.config import KLConfig, KLEstimator, KLPlace
from ppo.kl import kl_estimate, kl_loss, next_coefficient

REFERENCE = (0.2, 0.2, 0.5, 0.1)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # The policy gives the token 0.8 and the reference 0.4: r = log(0.4 / 0.8) = -log 2.
        # The policy gives it 0.25 and the reference 0.5: r = log 2, and k1 is negative.
        (KLEstimator.k1, [math.log(2), -math.log(2)]),
        (KLEstimator.k2, [math.log(2) ** 2 / 2, math.log(2) ** 2 / 2]),
        (KLEstimator.k3, [0.5 - 1 + math.log(2), 2 - 1 - math.log(2)]),
    ],
)
def test_the_kl_estimators_are_those_of_schulman(estimator: KLEstimator, expected: list[float]) -> None:
    logprobs_BT = torch.log(torch.tensor([[0.8, 0.25]], dtype=torch.float64))
    reference_BT = torch.log(torch.tensor([[0.4, 0.5]], dtype=torch.float64))
    assert kl_estimate(logprobs_BT, reference_BT, estimator)[0].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("estimator", [KLEstimator.k1, KLEstimator.k3])
def test_k1_and_k3_have_the_exact_kl_as_their_mean_over_the_policy(estimator: KLEstimator) -> None:
    policy_V, reference_V = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.2, 0.6]).double()
    exact = sum(p * math.log(p / q) for p, q in zip((0.5, 0.3, 0.2), (0.2, 0.2, 0.6), strict=True))
    estimates_V = kl_estimate(policy_V.log(), reference_V.log(), estimator)
    assert (policy_V * estimates_V).sum().item() == pytest.approx(exact, abs=1e-6)


def expected_gradient(logits_V: Tensor, estimator: KLEstimator) -> Tensor:
    """The gradient of the estimate in the logits, in expectation over the policy's own tokens: a sum over the vocabulary."""
    policy_V = logits_V.detach().softmax(-1)
    gradient_V = torch.zeros_like(logits_V)
    for token in range(len(policy_V)):
        leaf_V = logits_V.detach().clone().requires_grad_()
        reference_11 = torch.tensor([[math.log(REFERENCE[token])]], dtype=torch.float64)
        logprob_11 = leaf_V.log_softmax(-1)[token].reshape(1, 1)
        if estimator == KLEstimator.k1:
            kl_estimate(logprob_11, reference_11, KLEstimator.k1).sum().backward()
        else:
            kl_loss(logprob_11, reference_11, torch.ones(1, 1), estimator).backward()
        assert leaf_V.grad is not None
        gradient_V += policy_V[token] * leaf_V.grad
    return gradient_V


def gradient_of_kl(logits_V: Tensor, *, reverse: bool) -> list[float]:
    """The gradient of the exact KL(policy || reference), or of KL(reference || policy) where `reverse` is false."""
    leaf_V = logits_V.detach().clone().requires_grad_()
    log_V, reference_V = leaf_V.log_softmax(-1), torch.tensor(REFERENCE, dtype=torch.float64)
    ((log_V.exp() * (log_V - reference_V.log())) if reverse else (reference_V * (reference_V.log() - log_V))).sum().backward()
    assert leaf_V.grad is not None
    return leaf_V.grad.tolist()


LOGITS_V = torch.tensor([1.0, -0.5, 0.3, 0.0], dtype=torch.float64)


def test_k2_in_the_loss_has_the_gradient_of_the_kl_to_the_reference() -> None:
    gradient_V = expected_gradient(LOGITS_V, KLEstimator.k2)
    assert gradient_V.tolist() == pytest.approx(gradient_of_kl(LOGITS_V, reverse=True), abs=1e-12)
    assert gradient_V.abs().max().item() > 0.1


def test_k3_in_the_loss_has_the_gradient_of_the_kl_from_the_reference() -> None:
    gradient_V = expected_gradient(LOGITS_V, KLEstimator.k3)
    assert gradient_V.tolist() == pytest.approx(gradient_of_kl(LOGITS_V, reverse=False), abs=1e-12)
    # Another divergence than k2's, so another gradient.
    assert (gradient_V - torch.tensor(gradient_of_kl(LOGITS_V, reverse=True))).abs().max().item() > 0.01


def test_k1_in_the_loss_would_penalise_nothing_and_is_refused() -> None:
    assert expected_gradient(LOGITS_V, KLEstimator.k1).tolist() == pytest.approx([0.0] * 4, abs=1e-12)
    with pytest.raises(ValueError, match=r"kl.estimator=k1 has a gradient of zero .* choose k2"):
        kl_loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), KLEstimator.k1)
    with pytest.raises(ValueError, match=r"kl.estimator=k1 has a gradient of zero .* or kl.place=reward"):
        KLConfig(place=KLPlace.loss)


def test_the_kl_in_the_loss_is_a_sum_over_the_mask_whatever_the_padding_holds() -> None:
    # k2 of (0.2, 0.6) is 0.02 + 0.18 = 0.2; the padding is NaN on one side.
    logprobs_BT = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    loss = kl_loss(logprobs_BT, torch.tensor([[-1.2, -1.4, float("nan")]]), torch.tensor([[1, 1, 0]]), KLEstimator.k2)
    loss.backward()
    assert loss.item() == pytest.approx(0.2, abs=1e-6)
    # d k2 / d log p = log p - log q
    assert logprobs_BT.grad is not None
    assert logprobs_BT.grad[0].tolist() == pytest.approx([0.2, -0.6, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        # Target 4, horizon 1000, 100 episodes: the share 0.1 of the relative error, which is clipped to +-0.2.
        (4.4, 0.05 * (1 + 0.1 * 0.1)),  # 10% above
        (3.8, 0.05 * (1 - 0.05 * 0.1)),  # 5% below
        (40.0, 0.05 * (1 + 0.2 * 0.1)),  # 900% above, clipped
        (-1.0, 0.05 * (1 - 0.2 * 0.1)),  # k1 may be negative: 125% below, clipped
        (4.0, 0.05),
    ],
)
def test_the_adaptive_coefficient_follows_the_clipped_relative_error(kl: float, expected: float) -> None:
    config = KLConfig(target=4.0, horizon=1000)
    assert next_coefficient(0.05, kl, config, num_episodes=100) == pytest.approx(expected, rel=1e-12)


def test_a_coefficient_without_a_target_stays() -> None:
    assert next_coefficient(0.05, 40.0, KLConfig(), num_episodes=100) == 0.05


def test_the_adaptive_coefficient_brings_a_kl_that_answers_to_it_to_its_target() -> None:
    # A policy whose KL is 0.2 / coefficient has KL 4 at 0.05; from 0.5 the coefficient falls there.
    coefficient = 0.5
    for _ in range(2000):
        coefficient = next_coefficient(coefficient, 0.2 / coefficient, KLConfig(target=4.0, horizon=1000), num_episodes=100)
    assert coefficient == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "kl.beta is -1.0; it must be 0 or above"),
        ({"beta": 0.0, "target": 4.0}, "kl.beta=0 stays 0"),
        ({"place": "value"}, "kl.place is 'value'; choose reward or loss"),
        ({"estimator": "k4"}, "kl.estimator is 'k4'; choose k1, k2 or k3"),
        ({"target": 0.0}, "kl.target is 0.0; it must be above 0"),
        ({"stop": -1.0}, "kl.stop is -1.0; it must be above 0"),
        ({"horizon": 0}, "kl.horizon is 0; it must be above 0"),
    ],
)
def test_a_kl_that_cannot_be_is_refused_by_its_key(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KLConfig(**options)  # pyright: ignore[reportArgumentType]
