"""What ends a run: each guard on numbers that trip it and on numbers that do not."""

import re
from pathlib import Path

import pytest
import torch

from core.disk import mark_complete
from core.runs.checkpoints import point_best, step_folder
from ppo.config import Algo, KLConfig
from ppo.guards import DivergenceError, ended, require_finite_scores, require_finite_step, require_kl_below


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
    assert ended(tmp_path, Algo.ppo, 3, "why.") == "PPO ended in batch 3: why. No checkpoint was written yet."
    for step in (2, 4):
        step_folder(tmp_path, step).mkdir(parents=True)
        mark_complete(step_folder(tmp_path, step))
    told = ended(tmp_path, Algo.grpo, 5, "why.")
    assert re.fullmatch(r"GRPO ended in batch 5: why. The last complete checkpoint is .*/step-000004\.", told)
    point_best(tmp_path, 2)
    assert ended(tmp_path, Algo.rloo, 5, "why.").endswith("step-000004, the best step-000002.")
