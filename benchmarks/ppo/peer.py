"""TRL's PPOTrainer in its own process.

    PYTHON -m benchmarks.ppo.peer PLAN OUT

PYTHON is the interpreter of an environment with the last release of TRL that has a PPOTrainer (see `make bench-ppo`). The
trainer itself is unchanged: the clock wraps the functions that it calls and reads what it logs. TRL's module and its
functions are typed `Any` or by their calls, because the environment that is type-checked does not have them.
"""

import importlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from benchmarks.machine import now
from benchmarks.ppo.plan import Clock, Finding, Plan

T = TypeVar("T")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Watch:
    """When a batch's rollout began and ended, how long the reward model took, and which responses were sampled."""

    def __init__(self) -> None:
        self.began = self.ended = self.scoring = 0.0
        self.responses: list[torch.Tensor] = []

    def around(self, module: Any, reward_model: object) -> None:
        """Wraps the functions of TRL's module that mark the parts of a batch."""
        module.batch_generation = self._generation(module.batch_generation)
        module.get_reward = self._reward(module.get_reward, reward_model)

    def _generation(self, function: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Callable[..., object]:
        def generate(model: object, queries: torch.Tensor, *rest: object) -> object:
            self.began, self.scoring = now(), 0.0
            found = function(model, queries, *rest)
            self.responses.append(found[0][:, queries.shape[1] :])
            return found

        return generate

    def _reward(self, function: Callable[..., object], reward_model: object) -> Callable[..., object]:
        def reward(model: object, *rest: object) -> object:
            began = now()
            found = function(model, *rest)
            self.ended = now()
            if model is reward_model:
                self.scoring += self.ended - began
            return found

        return reward


class Logged(TrainerCallback):
    """Reports every batch that the trainer logs to the clock."""

    def __init__(self, clock: Clock, watch: Watch) -> None:
        self.clock, self.watch = clock, watch

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: object
    ) -> None:
        assert logs is not None
        rollout = self.watch.ended - self.watch.began - self.watch.scoring
        scores = {"score": logs["objective/scores"], "kl": logs["objective/kl"]}
        self.clock.batch(rollout=rollout, scoring=self.watch.scoring, **scores)


def arguments_of(plan: Plan, folder: str, config: Callable[..., T]) -> T:
    """The plan as TRL's configuration; settings not named here have the same default on both sides."""
    return config(
        output_dir=folder,
        # The only way to get one optimiser step per minibatch: accelerate delays a step until `gradient_accumulation_steps`
        # micro batches have passed, whatever the minibatches are.
        per_device_train_batch_size=plan.batch_size,
        gradient_accumulation_steps=1,
        num_mini_batches=plan.batch_size // plan.minibatch_size,
        num_ppo_epochs=plan.epochs,
        total_episodes=plan.num_batches * plan.batch_size,
        local_rollout_forward_batch_size=plan.peer["rollout_batch"],
        response_length=plan.max_new_tokens,
        stop_token="eos",
        missing_eos_penalty=plan.missing_eos,
        temperature=plan.temperature,
        kl_coef=plan.beta,
        kl_estimator="k1",
        cliprange=0.2,
        cliprange_value=0.2,
        vf_coef=0.1,
        gamma=1.0,
        lam=0.95,
        whiten_rewards=False,
        learning_rate=plan.lr,
        lr_scheduler_type="constant",
        adam_epsilon=plan.adam_eps,
        bf16=plan.dtype == "bf16",
        gradient_checkpointing=False,  # on by default, which costs a second forward pass
        num_sample_generations=0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        seed=plan.seed,
    )


def run(plan: Plan) -> Finding:
    """Trains by the plan. Policy and critic are kept in fp32, the other models in the plan's dtype, unless `weights` says otherwise."""
    module: Any = importlib.import_module("trl.experimental.ppo.ppo_trainer")
    config: Any = importlib.import_module("trl.experimental.ppo.ppo_config").PPOConfig
    from datasets import Dataset  # takes seconds to import

    trained, frozen = DTYPES[plan.peer["weights"] or "fp32"], DTYPES[plan.dtype]
    tokenizer = AutoTokenizer.from_pretrained(plan.policy, padding_side="left")
    policy, reference = (_policy(plan.policy, dtype, tokenizer) for dtype in (trained, frozen))
    value, reward = (AutoModelForSequenceClassification.from_pretrained(plan.reward, dtype=dtype) for dtype in (trained, frozen))
    watch = Watch()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = module.PPOTrainer(
            args=arguments_of(plan, folder, config),
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_list([{"input_ids": ids} for ids in plan.prompt_ids]),
            callbacks=[Logged(clock, watch)],
        )
        watch.around(module, trainer.reward_model)
        trainer.train()
    endings = [lengths(responses, tokenizer.eos_token_id) for responses in watch.responses]
    return clock.finding(
        {package: version(package) for package in ("torch", "transformers", "accelerate", "trl")},
        length=[float(sum(row)) / len(row) for row, _ in endings],
        eos_rate=[sum(ended) / len(ended) for _, ended in endings],
    )


def lengths(responses_BT: torch.Tensor, eos: int) -> tuple[list[int], list[bool]]:
    """Tokens of each response up to and including its first EOS, and whether it has one."""
    ended_BT = (responses_BT == eos).int()
    before_BT = ended_BT.cumsum(-1) - ended_BT == 0
    return before_BT.sum(-1).tolist(), ended_BT.any(-1).tolist()


def _policy(path: str, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    assert model.generation_config is not None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def main() -> None:
    logging.disable(logging.WARNING)
    plan, out = map(Path, sys.argv[1:])
    out.write_text(json.dumps(asdict(run(Plan.load(plan)))))


if __name__ == "__main__":
    main()
