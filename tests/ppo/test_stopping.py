"""When a run stops because its reward leads astray, and what is then said."""

from pathlib import Path

import pytest

from core.disk import mark_complete, write_json
from core.hooks.hook import eval_file
from core.runs.checkpoints import step_folder
from ppo.stopping import over_optimised, stop_reason


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
    assert stop_reason(tmp_path, 20, "good", 2) == reason
    assert stop_reason(tmp_path, 10, "good", 2) is None
    assert stop_reason(tmp_path, 20, "good", None) is None


def test_a_metric_that_no_hook_measures_cannot_be_watched(tmp_path: Path) -> None:
    evaluated(tmp_path, 0, rm_score=1.0, kl=0.0)
    with pytest.raises(ValueError, match=r"stop_after_falls=2 watches best_metric=good, which no hook measured at step 0; .* kl, rm_score"):
        stop_reason(tmp_path, 0, "good", 2)
