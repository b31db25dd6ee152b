"""What a policy run keeps on disk: checkpoints that resume exactly, and the best one."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from core.checkpoint import atomic_folder, complete_steps, latest_complete, step_folder, write_json
from ppo.model import ActorCritic
from ppo.shaping import Moments, ScoreStatistics

TRAINER = "trainer"


@dataclass(kw_only=True, slots=True)
class Progressed:
    """Where a run stands, and all that the next batch depends on besides weights, optimiser and seed.

    `statistics` are those of the raw scores, `kl_coef` is the coefficient of the next batch, `metrics` are those of the
    last rollout. `stopped_because` says why the run ended before its last batch, if it did.
    """

    step: int
    statistics: ScoreStatistics
    kl_coef: float
    metrics: dict[str, float]
    best_step: int = 0
    best_value: float | None = None
    stopped_because: str = ""

    def consider(self, step: int, value: float | None) -> bool:
        """Takes `step` as the best if its value is higher than any before; says whether it did."""
        if value is None or (self.best_value is not None and value <= self.best_value):
            return False
        self.best_step, self.best_value = step, value
        return True


def save(run_dir: Path, state: Progressed, model: ActorCritic, tokenizer: PreTrainedTokenizerBase, optimizer: Any, scheduler: Any) -> Path:
    """Writes `checkpoints/step-NNNNNN/`: the policy as a plain folder, and under `trainer/` what resuming needs.

    All random draws are functions of the seed and the step, so the step alone stands for the generators' state.
    """
    target = step_folder(run_dir, state.step)
    if target.exists():  # torn, else the run would have resumed from it
        shutil.rmtree(target)
    with atomic_folder(target) as folder:
        model.actor.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / TRAINER).mkdir()
        critic = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name.startswith("critic_")}
        save_file(critic, folder / TRAINER / "critic.safetensors")
        torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, folder / TRAINER / "optimizer.pt")
        write_json(folder / TRAINER / "state.json", asdict(state))
    for earlier in complete_steps(run_dir):
        if earlier < state.step:  # only the newest is ever resumed from
            (step_folder(run_dir, earlier) / TRAINER / "optimizer.pt").unlink(missing_ok=True)
    return target


def load(run_dir: Path, model: ActorCritic, optimizer: Any, scheduler: Any, say: Callable[[str], None]) -> Progressed | None:
    """Restores the newest complete checkpoint into `model`, `optimizer` and `scheduler`; None where there is none."""
    folder = latest_complete(run_dir, say)
    if folder is None:
        return None
    actor = {f"actor.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    missing, unexpected = model.load_state_dict({**actor, **load_file(folder / TRAINER / "critic.safetensors")}, strict=False)
    # A tied output embedding is stored once, so it alone may be missing.
    assert not unexpected, unexpected
    assert all(name.endswith("lm_head.weight") for name in missing), missing
    stored = torch.load(folder / TRAINER / "optimizer.pt", weights_only=True)
    optimizer.load_state_dict(stored["optimizer"])
    scheduler.load_state_dict(stored["scheduler"])
    state = json.loads((folder / TRAINER / "state.json").read_text())
    say(f"resuming {run_dir.name} from {folder.name}")
    metrics = {name: float(value) for name, value in state["metrics"].items()}
    statistics = ScoreStatistics(**{name: Moments(**moments) for name, moments in state["statistics"].items()})
    return Progressed(**state | {"statistics": statistics, "metrics": metrics})


def metric_of(metrics: Mapping[str, float], key: str) -> float | None:
    """The metric that the best checkpoint is chosen by, if the hooks measured it."""
    return float(metrics[key]) if key in metrics else None
