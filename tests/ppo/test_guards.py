"""What ends a run: each guard on numbers that trip it and on numbers that do not."""

import re
from pathlib import Path

import pytest
import torch

from core.disk import mark_complete, write_json
from core.hooks.hook import eval_file
from core.runs.checkpoints import point_best, step_folder
from ppo.config import KLConfig
from ppo.guards import DivergenceError, ended, over_optimised, require_finite_scores, require_finite_step, require_kl_below, why_stop


@pytest.mark.parametrize(
    ("values", "scores", "num_falls", "expected"),
    [
        ([0.5, 0.4, 0.3], [1.0, 2.0, 3.0], 2, True),
        ([0.2, 0.5, 0.4, 0.3], [9.0, 1.0, 0.5, 2.0], 2, True),  # from the checkpoint before the falls on: 1.0 to 2.0
        ([0.5, 0.4, 0.3], [1.0, 2.0, 3.0], 3, False),  # two falls are no three
        ([0.5, 0.4, 0.4], [1.0, 2.0, 3.0], 2, False),  # a draw is no fall
        ([0.5, 0.4, 0.45, 0.3], [1.0, 2.0, 3.0, 4.0], 2, False),  # not in a row
        ([0.5, 0.4, 0.3], [3.0, 4.0, 3.0], 2, False),  # the proxy did not rise: the policy just got worse
        ([0.5, 0.4, 0.3], [3.0, 1.0, 2.0], 2, False),  # it recovers, below where the falls began
        ([0.5, 0.4], [1.0, 2.0], 1, True),
        ([0.5], [1.0], 1, False),
    ],
)
def test_over_optimisation_is_falls_in_a_row_under_a_rising_score(
    values: list[float], scores: list[float], num_falls: int, expected: bool
) -> None:
    assert over_optimised(values, scores, num_falls) is expected


def evaluated(run_dir: Path, step: int, **metrics: float) -> None:
    """A checkpoint with its evaluation, as a run leaves them."""
    if step:
        step_folder(run_dir, step).mkdir(parents=True)
        mark_complete(step_folder(run_dir, step))
    write_json(eval_file(run_dir, step), metrics)


def test_the_reason_to_stop_is_read_from_the_evaluations_up_to_the_step(tmp_path: Path) -> None:
    for step, (value, score) in enumerate([(0.5, 1.0), (0.4, 2.0), (0.3, 3.0)]):
        evaluated(tmp_path, 10 * step, good=value, rm_score=score)
    reason = "good fell at 2 checkpoints in a row, from 0.5 to 0.3, while rm_score rose from 1 to 3 (stop_after_falls=2)"
    assert why_stop(tmp_path, 20, "good", 2) == reason
    assert why_stop(tmp_path, 10, "good", 2) == ""
    assert why_stop(tmp_path, 20, "good", None) == ""


def test_a_metric_that_no_hook_measures_cannot_be_watched(tmp_path: Path) -> None:
    evaluated(tmp_path, 0, rm_score=1.0, kl=0.0)
    with pytest.raises(ValueError, match=r"stop_after_falls=2 watches best_metric=good, which no hook measured at step 0; .* kl, rm_score"):
        why_stop(tmp_path, 0, "good", 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_told_by_its_episode(bad: float) -> None:
    require_finite_scores(torch.tensor([1.0, -2.0]), "gsm8k")
    with pytest.raises(DivergenceError, match=rf"1 of 3 scores of gsm8k are not finite \(the first is {bad}, of episode 1\)"):
        require_finite_scores(torch.tensor([1.0, bad, 2.0]), "gsm8k")


def test_a_kl_above_the_stop_ends_the_run_with_what_to_change() -> None:
    require_kl_below(9.9, KLConfig(stop=10.0))
    require_kl_below(1e9, KLConfig())
    with pytest.raises(DivergenceError, match=r"11 nats per completion, above kl.stop=10.0. Raise kl.beta or set kl.target"):
        require_kl_below(11.0, KLConfig(stop=10.0))
    with pytest.raises(DivergenceError, match=r"the KL to the reference is nan. Lower optim.lr"):
        require_kl_below(float("nan"), KLConfig())


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (1.0, float("nan")), (float("inf"), 1.0), (1.0, float("inf"))])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_run_with_what_to_change(loss: float, norm: float) -> None:
    require_finite_step(1.0, 1.0)
    with pytest.raises(DivergenceError, match=rf"the loss is {loss} and the gradient norm {norm}. Lower optim.lr"):
        require_finite_step(loss, norm)


def test_the_end_names_the_batch_and_the_checkpoints_that_are_left(tmp_path: Path) -> None:
    assert ended(tmp_path, 3, "why.") == "PPO ended in batch 3: why. No checkpoint was written yet."
    evaluated(tmp_path, 2)
    evaluated(tmp_path, 4)
    assert re.fullmatch(r"PPO ended in batch 5: why. The last complete checkpoint is .*/step-000004\.", ended(tmp_path, 5, "why."))
    point_best(tmp_path, 2)
    assert ended(tmp_path, 5, "why.").endswith("step-000004, the best step-000002.")
