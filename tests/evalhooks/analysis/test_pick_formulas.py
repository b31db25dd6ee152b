"""The formulas behind the pick, each beside plain Gaussian algebra or numbers by hand."""

# pyright: reportPrivateUsage=false

import numpy as np
import pytest

from evalhooks.analysis import pick as picks
from evalhooks.analysis.pick import Candidate, pick

WIDE = 1e3
"""The deviation of a level that stands for a flat prior."""


def test_true_scores_are_those_of_the_joint_distribution_of_level_scores_and_noise() -> None:
    seen_K, error_K = np.array([0.3, -1.1, 0.9, 2.0]), np.array([0.2, 0.9, 0.4, 1.5])
    log_densities: list[float] = []
    fits: list[float] = []
    for spread in (0.35, 1.1):
        # t = m + s z with m ~ N(0, WIDE^2): what is seen of t, and then t given that.
        truth_KK = spread**2 * np.eye(4) + WIDE**2
        seen_KK = truth_KK + np.diag(error_K**2)
        mean_K, covariance_KK, fit = picks._truth(seen_K, error_K, spread)
        assert mean_K == pytest.approx(truth_KK @ np.linalg.solve(seen_KK, seen_K), abs=1e-4)
        assert covariance_KK == pytest.approx(truth_KK - truth_KK @ np.linalg.solve(seen_KK, truth_KK), abs=1e-4)
        log_densities.append(float(-0.5 * (np.linalg.slogdet(seen_KK)[1] + seen_K @ np.linalg.solve(seen_KK, seen_K))))
        fits.append(fit)
    # Each is known up to a constant.
    assert fits[1] - fits[0] == pytest.approx(log_densities[1] - log_densities[0], abs=1e-4)


def test_results_given_a_measured_one_by_hand() -> None:
    prior_KK = np.array([[1.0, 0.5], [0.5, 1.0]])
    mean_K, covariance_KK = picks._conditioned(np.array([0.0, 1.0]), prior_KK, [0], np.array([2.0]), np.array([0.5]))
    # Seen with variance 1 + 0.25: the gains are 1 / 1.25 = 0.8 and 0.5 / 1.25 = 0.4.
    assert mean_K == pytest.approx([1.6, 1.8])
    assert covariance_KK == pytest.approx(np.array([[0.2, 0.1], [0.1, 0.8]]))


def test_the_prior_of_offsets_is_half_normal_and_counts_the_width_of_a_step() -> None:
    few, many = picks._log_prior(np.array([0.05, 1.6]), np.array([0.05, 0.05])).tolist()
    # The steps of the grid at its ends are 0.25 and 0.6 wide: log(0.6 / 0.25) - (1.6^2 - 0.05^2) / 2.
    assert many - few == pytest.approx(0.875469 - 1.278750, abs=1e-6)


@pytest.mark.parametrize("size", [3, picks._MANY + 1])
def test_the_root_of_a_covariance_gives_it_back(size: int) -> None:
    factor = np.random.default_rng(0).standard_normal((size, size))
    covariance_KK = factor @ factor.T / size
    root_KK = picks._root(covariance_KK)
    assert root_KK @ root_KK.T == pytest.approx(covariance_KK, abs=1e-6)


def test_the_slope_is_in_points_of_the_result_for_one_of_the_benchmark() -> None:
    found = pick([Candidate(score=60.0 + k, measured=5.0 * k, measured_error=0.1) for k in range(10)])
    assert found.slope == pytest.approx(5.0, rel=0.1)


def test_the_scatter_of_the_scores_says_which_true_spread_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    # 30 scores with a deviation of 1 and errors of 0.5: true scores that scatter by 0.15 would be e^17 times less likely than by 1.4.
    scores = np.linspace(-1.7, 1.7, 30).tolist()
    candidates = [
        Candidate(score=score, error=0.5, measured=score if score in scores[::14] else None, measured_error=2.0) for score in scores
    ]

    def expected(*spreads: float) -> float:
        monkeypatch.setattr(picks, "_SPREADS", np.array(spreads))
        return pick(candidates).expected[-2]

    assert expected(0.15, 1.4) == pytest.approx(expected(1.4), abs=0.01)
    assert expected(0.15) < expected(1.4) - 0.1
