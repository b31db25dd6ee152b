"""Our side of `benchmarks.ppo.speed`, in its own process so that peak memory is measured separately.

python -m benchmarks.ppo.ours PLAN OUT
"""

import json
import logging
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.ppo.plan import Clock, Finding, Plan
from core.config import Dtype, ModelConfig, OptimConfig, Schedule
from core.data.dialogues import parse_dialogue
from core.hooks.run_context import RunContext
from core.models.load import load_reward_model
from core.process.memory import keep_freed_memory
from core.scorers.reward_model import RewardModelScorer
from ppo.config import Center, KLConfig, MissingEOS, MissingEOSConfig, PPOConfig, Scale, ShapingConfig
from ppo.train import train

NO_CLIPPING = 1e9
"""The peer does not clip gradients; the norm is computed anyway."""


class ClockTracker:
    """Passes the metrics that a run logs for every batch to the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        if axis != "train/step":
            return
        spent = {part: metrics[f"train/seconds/{part}"] for part in ("generation", "scoring", "forward")}
        curves = {name: metrics[f"train/{name}"] for name in ("score", "kl", "length", "eos_rate")}
        self.clock.batch(rollout=spent["generation"] + spent["forward"], scoring=spent["scoring"], **curves)

    def close(self, *, exit_code: int = 0) -> None:
        pass


def config_of(plan: Plan) -> PPOConfig:
    """The plan as our configuration; settings not named here have the same default on both sides."""
    return PPOConfig(
        model=ModelConfig(path=plan.policy, dtype=Dtype(plan.dtype)),
        prompts=["given"],
        optim=OptimConfig(lr=plan.lr, schedule=Schedule.constant, adam_eps=plan.adam_eps, max_grad_norm=NO_CLIPPING),
        kl=KLConfig(beta=plan.beta),
        num_batches=plan.num_batches,
        batch_size=plan.batch_size,
        minibatch_size=plan.minibatch_size,
        micro_batch_size=plan.minibatch_size,
        epochs=plan.epochs,
        max_new_tokens=plan.max_new_tokens,
        max_prompt_length=max(map(len, plan.prompt_ids)),
        temperature=plan.temperature,
        shaping=ShapingConfig(
            center=Center.none,
            scale=Scale.fixed,
            std=1.0,
            clip=None,
            missing_eos=MissingEOSConfig(how=MissingEOS.subtract, value=plan.missing_eos),
        ),
        num_checkpoints=1,  # after the last batch, when timing is over
        seed=plan.seed,
    )


def run(plan: Plan) -> Finding:
    """Trains by the plan, as `rewardloop ppo` does, without hooks."""
    keep_freed_memory()  # as every `rewardloop` command does
    clock = Clock()
    model, tokenizer = load_reward_model(ModelConfig(path=plan.reward, dtype=Dtype(plan.dtype)))
    with tempfile.TemporaryDirectory() as folder:
        dialogues = [parse_dialogue(prompt, f"prompt {number}") for number, prompt in enumerate(plan.prompts)]
        context = RunContext(dir=Path(folder), tracker=ClockTracker(clock))
        train(config_of(plan), context, prompts=dialogues, scorer=RewardModelScorer(model, tokenizer), reward_model=model)
    return clock.finding({package: version(package) for package in ("torch", "transformers", "accelerate")})


def main() -> None:
    logging.disable(logging.WARNING)
    plan, out = map(Path, sys.argv[1:])
    out.write_text(json.dumps(asdict(run(Plan.load(plan)))))


if __name__ == "__main__":
    main()
