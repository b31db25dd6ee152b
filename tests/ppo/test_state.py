"""Which checkpoint of a policy run is the best, and when a run stops because its reward misleads it."""

from pathlib import Path

import pytest
import torch

from core.disk import write_json
from core.hooks.hook import eval_file
from core.hooks.run_context import RunContext
from core.runs.record import RECORD, read_record
from core.runs.warnings import RunWarning
from ppo.shaping import ScoreStatistics
from ppo.state import PPOState, over_optimised, read_state, stop_reason, take_evaluation, write_state
from tests.ppo.runs import config_of

STATISTICS = ScoreStatistics.of_reference(torch.zeros(2))


def bests(run_dir: Path, values: list[float], said: list[str]) -> list[tuple[int, float | None]]:
    """Step and value of the best checkpoint after each of the evaluations of steps 0, 1, 2, ..."""
    config = config_of(Path("."), num_batches=4, num_checkpoints=4, best_metric="good")
    state = PPOState(step=0, statistics=STATISTICS, kl_coef=0.0, metrics={})
    context, found = RunContext(dir=run_dir, say=said.append), list[tuple[int, float | None]]()
    for state.step, value in enumerate(values):
        write_json(eval_file(run_dir, state.step), {"good": value})
        take_evaluation(state, {"good": value}, config, context)
        found.append((state.best_step, state.best_value))
    return found


def test_the_best_is_the_earliest_of_the_highest_and_is_linked(tmp_path: Path) -> None:
    assert bests(tmp_path, [0.5, 0.4, 0.6, 0.6], []) == [(0, 0.5), (0, 0.5), (2, 0.6), (2, 0.6)]
    assert (tmp_path / "best").readlink().name == "step-000002"


def test_the_untrained_policy_can_be_the_best_and_then_nothing_is_linked(tmp_path: Path) -> None:
    assert bests(tmp_path, [0.5, 0.4], []) == [(0, 0.5), (0, 0.5)]
    assert not (tmp_path / "best").is_symlink()


def test_a_state_brings_back_the_warnings_of_a_run_whose_record_is_lost(tmp_path: Path) -> None:
    warning = RunWarning(what="kl_jump", key="optim.lr", text="in batch 1 the KL jumped.", numbers={"kl": 7.0})
    told = RunContext(dir=tmp_path)
    told.warn(warning)
    write_state(tmp_path, PPOState(step=1, statistics=STATISTICS, kl_coef=0.0, metrics={}, warnings=told.told))
    write_json(tmp_path / RECORD, {"id": "x", "job": "ppo", "identity": {}, "status": "running"})
    RunContext(dir=tmp_path, say=lambda _: None).warn(*read_state(tmp_path).warnings)
    assert read_record(tmp_path)["warnings"] == [warning.entry()]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_never_the_best_and_is_reported(tmp_path: Path, bad: float) -> None:
    said: list[str] = []
    # A NaN taken for the best would stay it: no later value is above it. So would infinity.
    assert bests(tmp_path, [bad, 0.3, bad, 0.4], said) == [(0, None), (1, 0.3), (1, 0.3), (3, 0.4)]
    assert (tmp_path / "best").readlink().name == "step-000003"
    assert said == [f"good is {bad} at step {step}, so this checkpoint cannot become the best" for step in (0, 2)]


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


def test_the_reason_to_stop_names_metric_proxy_and_their_values() -> None:
    evaluations = {10 * step: {"good": good, "rm_score": score} for step, (good, score) in enumerate([(0.5, 1.0), (0.4, 2.0), (0.3, 3.0)])}
    reason = "good fell at 2 checkpoints in a row, from 0.5 to 0.3, while rm_score rose from 1 to 3 (stop_after_falls=2)"
    assert stop_reason(evaluations, "good", 2) == reason
    assert stop_reason({step: evaluations[step] for step in (0, 10)}, "good", 2) is None
    assert stop_reason(evaluations, "good", None) is None


def test_a_metric_that_no_hook_measures_cannot_be_watched() -> None:
    with pytest.raises(ValueError, match=r"stop_after_falls=2 watches best_metric=good, which no hook measured at step 0; .* kl, rm_score"):
        stop_reason({0: {"rm_score": 1.0, "kl": 0.0}}, "good", 2)
